"""Manifests, mixing, corpora and demo speech."""
