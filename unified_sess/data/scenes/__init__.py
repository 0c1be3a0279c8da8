"""Scenes: mixtures as recordings are, with rooms, turns, distances and devices, drawn while training."""
