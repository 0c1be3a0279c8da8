"""Separation of real recordings with a trained model."""
