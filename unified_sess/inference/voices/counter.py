"""Whether the tracks of a recording hold one person or two: a small network hears them side by side."""

import functools
from pathlib import Path

import numpy as np

from unified_sess.inference.voices.encoder import FRAMES
from unified_sess.inference.voices.network import StretchNetwork

WEIGHTS = Path(__file__).parents[2] / "models" / "voices" / "counter.npz"
STRETCH, STEP = 20, 5  # units that are heard at once, 5.1 s, and from one stretch to the next
SHORT, SHORT_STEP = 9, 3  # the same of short ones, 2.3 s
FEWEST = 9  # units in a stretch, unless there are no more
FLOOR = 1e-6  # power relative to the loud frames, under which nothing is told apart


def two_people(powers: np.ndarray, length: int = STRETCH, step: int = STEP) -> np.ndarray:
    """How much stretches of tracks sound like two people and not like one, as logits `[stretches]`.

    Arguments
    ---------
    powers : numpy.ndarray
        Power in the bands of two or more tracks and of their sum, `[tracks + 1, frames, bands]`. Of more than
        two tracks the loudest is heard beside each other one, and the likeliest pair counts.
    length, step : int
        Units in a stretch, and from one to the next.

    Returns
    -------
    numpy.ndarray
        float64 `[stretches]`, see `stretches`.

    Example
    -------
    >>> two_people(np.random.default_rng(0).random((3, 500, 32))).shape
    (4,)
    """
    found = []
    for first, last in stretches(powers.shape[1] // FRAMES, length, step):
        found.append(max(_logits(pair) for pair in _pairs(powers[:, first * FRAMES : last * FRAMES])))
    return np.array(found)


def stretches(units: int, length: int = STRETCH, step: int = STEP) -> list[tuple[int, int]]:
    """First unit and the one behind the last of each stretch of so many units, others at the end; none of nothing."""
    starts = range(0, max(units - FEWEST, 0) + 1, step) if units else ()
    ends = [min(start + length, units) for start in starts]
    found = [pair for k, pair in enumerate(zip(starts, ends, strict=True)) if k == 0 or pair[1] > ends[k - 1]]
    return [*found[:-1], *((start, units) for start, _ in found[-1:])]


def counter_input(powers: np.ndarray) -> np.ndarray:
    """What the network hears, float32 `[frames, 3 * bands]`, of powers `[3, frames, bands]` of two tracks and their sum."""
    first, second = sorted(powers[:2], key=np.sum, reverse=True)
    loud = np.percentile(powers[2].sum(1), 90) + 1e-20
    loudest, other, both = 10 * np.log10(np.maximum(np.stack((first, second, powers[2])) / loud, FLOOR)).clip(-55)
    parts = (both + 25) / 20, (loudest - both) / 10, ((other - loudest).clip(-40, 25) + 8) / 12
    return np.concatenate(parts, axis=1).astype(np.float32)


def _pairs(powers):
    """The loudest track beside each other one, and the sum: powers `[3, frames, bands]`."""
    loudest = powers[:-1].sum((1, 2)).argmax()
    for other in range(len(powers) - 1):
        if other != loudest:
            yield powers[[loudest, other, -1]]


def _logits(powers):
    network = _network()
    features, share = network.frames(counter_input(powers)[None])
    return float(network.told(features, share, lambda frames: frames.sum(1, keepdims=True))[0][0, 0, 0])


@functools.cache
def _network() -> StretchNetwork:
    with np.load(WEIGHTS) as file:
        return StretchNetwork(dict(file))
