"""Model folders: read without executing anything, written whole, exported for SpeechBrain."""
