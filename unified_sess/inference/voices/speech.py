"""How much a moment of a track counts: whether there is speech, and no echo of a louder track."""

import numpy as np

from unified_sess.inference.activity import moving_mean

SMOOTHING = 5  # units over which levels are averaged
QUIET = -20.0  # dB under the loud moments of the recording, where speech begins to count
LEAK = -12.0  # dB under the loudest track of a moment, where a track begins to count: what is quieter is its echo
SOFTNESS = 3.0  # dB over which a track comes to count
HEARD = 0.3  # weight that an embedding needs to tell voices apart


def speech_in(powers: np.ndarray) -> np.ndarray:
    """How much each signal counts, 0 to 1, `[signals, units]`, of the powers of tracks and of their sum as the last one.

    Example
    -------
    >>> speech_in(np.array([[1.0] * 9, [1e-4] * 9, [1.0] * 9]))[:, 4].round(2).tolist()
    [0.98, 0.0, 1.0]
    """
    level = 10 * np.log10(np.maximum(moving_mean(powers.T, SMOOTHING).T, 1e-30))
    speech = _step(level - np.percentile(level[-1], 95) - QUIET)
    speech[:-1] *= _step(level[:-1] - level[:-1].max(0) - LEAK)
    return speech


def worth_hearing(counts: np.ndarray) -> np.ndarray:
    """How much embeddings count where voices are looked for, of `speech_in`."""
    return np.where(counts > HEARD, np.square(counts), 0)


def _step(decibels):
    return 1 / (1 + np.exp(-np.clip(decibels / SOFTNESS, -50, 50)))
