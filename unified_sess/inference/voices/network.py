"""Convolutions over a spectrum and weighted statistics of a stretch of it, in NumPy; `nnet.voice_encoder` trains them."""

from collections.abc import Callable

import numpy as np


class StretchNetwork:
    """A trained network that hears a stretch of a spectrum; runs beside torch and without it.

    Arguments
    ---------
    weights : mapping
        Of `nnet.voice_encoder.VoiceEncoder.arrays`.
    """

    def __init__(self, weights: dict[str, np.ndarray]) -> None:
        self.weights = {name: np.asarray(value, np.float32) for name, value in weights.items()}
        self.size = len(self.weights["linear.bias"])  # of what it tells of a stretch

    def frames(self, spectrum: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Features `[signals, frames, features]` of a spectrum `[signals, frames, bands]`, and how much each counts."""
        w = self.weights
        x = (
            np.maximum(_convolved(spectrum, w["first.weight"], w["first.bias"]), 0) * w["first.scale"]
            + w["first.shift"]
        )
        for k in range(int(w["blocks"])):
            y = np.maximum(_convolved(x, w[f"{k}.weight"], w[f"{k}.bias"], int(w[f"{k}.dilation"])), 0)
            x = x + y * w[f"{k}.scale"] + w[f"{k}.shift"]
        x = np.maximum(x @ w["last.weight"] + w["last.bias"], 0)
        score = x @ w["attention.weight"] + w["attention.bias"]
        return x, np.exp(np.clip(score, -10, 10))

    def told(
        self, features: np.ndarray, share: np.ndarray, sums: Callable[[np.ndarray], np.ndarray]
    ) -> tuple[np.ndarray, np.ndarray]:
        """What it tells of stretches, `[signals, stretches, size]`, and which hold nothing, `[signals, stretches, 1]`.

        Arguments
        ---------
        features, share : numpy.ndarray
            Of `frames`.
        sums : callable
            Sums `[signals, stretches, features]` of `[signals, frames, features]` over each stretch.
        """
        total, mean, square = (sums(part) for part in (share, share * features, share * features * features))
        nothing = total <= 0
        total = np.where(nothing, 1, total)
        mean, square = mean / total, square / total
        deviation = np.sqrt(np.maximum(square - mean * mean, 1e-6))
        w = self.weights
        return np.concatenate((mean, deviation), axis=2) @ w["linear.weight"] + w["linear.bias"], nothing


def _convolved(x, weight, bias, dilation=1):
    """`x` `[signals, frames, inputs]` with filters `[taps, inputs, outputs]`, as long as it was."""
    taps, frames = len(weight), x.shape[1]
    edge = (taps // 2) * dilation
    padded = np.pad(x, ((0, 0), (edge, edge), (0, 0)))
    return sum(padded[:, k * dilation : k * dilation + frames] @ weight[k] for k in range(taps)) + bias
