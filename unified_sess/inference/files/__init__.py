"""Recordings on disk: which files, reading, writing, and whose results are whose."""
