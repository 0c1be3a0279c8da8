"""LibriMix folders from LibriSpeech and the WHAM! noises."""
