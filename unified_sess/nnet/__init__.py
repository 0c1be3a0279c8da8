"""Backbones that SpeechBrain lacks or runs slowly, with its state-dict keys."""
