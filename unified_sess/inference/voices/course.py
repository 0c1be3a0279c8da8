"""Which of two voices is on each of two tracks, moment by moment: a small network weighs voices, levels and coherence."""

import functools
from pathlib import Path

import numpy as np

from unified_sess.inference.voices.evidence import Evidence

WEIGHTS = Path(__file__).parents[2] / "models" / "voices" / "course.npz"
WAYS = np.array([(0, 0), (0, 1), (1, 0), (1, 1)])  # the voices of the first and the second track
AROUND = (-8, -5, -3, -2, -1, 0, 1, 2, 3, 5, 8)  # units that are heard for one
FEATURES = 10
# The same moment with the tracks, and with the voices, in the other order: features, signs, ways.
OTHER_TRACKS, OTHER_TRACKS_WAYS = [1, 0, 2, 3, 4, 6, 5, 8, 7, 9], [0, 2, 1, 3]
OTHER_VOICES, OTHER_VOICES_WAYS = np.array(7 * [1] + 3 * [-1], np.float32), [3, 2, 1, 0]
LEVELS = (-40.0, 10.0)  # dB around the loud moments of a recording
NOTHING = 1e-9  # of their power, under which there is nothing to compare


def log_likelihoods(evidence: Evidence, fit: np.ndarray) -> np.ndarray:
    """How likely every one of `WAYS` is, natural logarithms `[units, 4]`.

    Arguments
    ---------
    evidence : Evidence
        Of two tracks.
    fit : numpy.ndarray
        How well the signals fit the voices, `[signals, units, 2]`, see `turns`.

    Example
    -------
    >>> rng = np.random.default_rng(0)
    >>> evidence = Evidence(rng.standard_normal((3, 9, 8)), rng.random((3, 9)), 4096, np.zeros((1, 2)), np.zeros((1, 2)))
    >>> np.exp(log_likelihoods(evidence, rng.standard_normal((3, 9, 2)))).sum(1).round(3).tolist()
    [1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0]
    """
    x = course_input(evidence, fit)
    # Neither the order of the tracks nor that of the voices means anything, so all four are heard.
    total = sum(
        _said(y)[:, ways] + _said(y * OTHER_VOICES)[:, OTHER_VOICES_WAYS][:, ways]
        for y, ways in ((x, [0, 1, 2, 3]), (x[:, OTHER_TRACKS], OTHER_TRACKS_WAYS))
    )
    scores = (total - total.max(1, keepdims=True)) / 4
    return scores - np.log(np.exp(scores).sum(1, keepdims=True))


def course_input(evidence: Evidence, fit: np.ndarray) -> np.ndarray:
    """What the network hears of each unit, float32 `[units, FEATURES]`.

    Levels of the tracks and their sum, how much the tracks are in phase, cosines of the three embeddings, and how much
    better each fits the first voice than the second.
    """
    powers, embeddings = evidence.powers, evidence.embeddings.astype(np.float32)
    loud = np.percentile(powers[-1], 95) + 1e-12
    levels = 10 * np.log10(np.maximum(powers, 1e-12) / loud).clip(*LEVELS) / 20
    phase = (powers[2] - powers[0] - powers[1]) / (2 * np.sqrt(powers[0] * powers[1]) + NOTHING * loud)
    cosines = [(embeddings[a] * embeddings[b]).sum(1) for a, b in ((0, 1), (0, 2), (1, 2))]
    better = (fit[..., 0] - fit[..., 1]).clip(-1.5, 1.5)
    return np.stack((*levels, phase, *cosines, *better), axis=1).astype(np.float32)


def in_context(features: np.ndarray) -> np.ndarray:
    """Features of the units `AROUND` each, `[units, len(AROUND), features]`; the first and the last go on at the ends."""
    units = np.arange(len(features))
    return np.stack([features[(units + step).clip(0, len(features) - 1)] for step in AROUND], axis=1)


def _said(features):
    w = _weights()
    x = in_context(features).reshape(len(features), -1)
    x = np.maximum(x @ w["first.weight"] + w["first.bias"], 0)
    x = np.maximum(x @ w["second.weight"] + w["second.bias"], 0)
    return x @ w["last.weight"] + w["last.bias"]


@functools.cache
def _weights() -> dict[str, np.ndarray]:
    with np.load(WEIGHTS) as file:
        return {name: value.astype(np.float32) for name, value in file.items()}
