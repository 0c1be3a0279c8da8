"""Signals at the rate of a test set, from a network of another."""

import numpy as np
import soxr


def resampled(signal: np.ndarray, rate: int, new_rate: int, length: int) -> np.ndarray:
    """A signal `[time, ...]` at another rate in Hz, cut or padded with zeros to `length` samples.

    Example
    -------
    >>> resampled(np.ones((1001, 2), np.float32), 16000, 8000, 500).shape
    (500, 2)
    """
    signal = soxr.resample(signal, rate, new_rate)[:length]
    return np.pad(signal, [(0, length - len(signal)), *[(0, 0)] * (signal.ndim - 1)])
