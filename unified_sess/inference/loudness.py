"""Loudness of a stream as broadcasters measure it, in LUFS (ITU-R BS.1770-4)."""

import numpy as np

STEP_SECONDS = 0.1  # s; blocks of 0.4 s begin every 0.1 s
STEPS_A_BLOCK = 4
ABSOLUTE_GATE = -70.0  # LUFS; blocks below are silence
RELATIVE_GATE = -10.0  # LU under the mean of the others


class Loudness:
    """Integrated loudness of each track of a stream, in the memory of a number for each 0.1 s.

    The filters are pyloudnorm's; its own measurement needs the whole signal at once.

    Arguments
    ---------
    sample_rate : int
        In Hz.

    Example
    -------
    >>> meter = Loudness(48000)
    >>> time = np.arange(48000) / 48000
    >>> meter.add(np.sin(2 * np.pi * 997 * time)[:, None])
    >>> [round(float(value)) for value in meter.lufs()]
    [-3]
    """

    def __init__(self, sample_rate: int) -> None:
        from pyloudnorm import Meter

        self.filters = list(Meter(sample_rate)._filters.values())
        self.states: list[np.ndarray] = []
        self.step = round(STEP_SECONDS * sample_rate)
        self.powers: list[np.ndarray] = []  # of steps
        self.waiting: np.ndarray | None = None

    def add(self, block: np.ndarray) -> None:
        """Add a piece `[time, tracks]`."""
        from scipy.signal import lfilter

        signal = np.asarray(block, np.float64)
        if not self.states:
            self.states = [np.zeros((max(len(f.a), len(f.b)) - 1, signal.shape[1])) for f in self.filters]
        for k, weighting in enumerate(self.filters):
            signal, self.states[k] = lfilter(weighting.b, weighting.a, signal, axis=0, zi=self.states[k])
            signal *= weighting.passband_gain
        squares = np.square(signal)
        if self.waiting is not None:
            squares = np.concatenate((self.waiting, squares))
        steps = len(squares) // self.step
        whole = squares[: steps * self.step].reshape(steps, self.step, squares.shape[1])
        self.powers += list(whole.mean(axis=1))
        self.waiting = squares[steps * self.step :]

    def lufs(self, gains: np.ndarray | float = 1.0) -> np.ndarray:
        """Loudness of each track, times its gain, `[tracks]`; `-inf` for silence and for less than 0.4 s."""
        tracks = 0 if self.waiting is None else self.waiting.shape[1]
        found = np.full(tracks, -np.inf)
        if len(self.powers) < STEPS_A_BLOCK:
            return found
        sums = np.cumsum(np.concatenate((np.zeros((1, tracks)), self.powers)), axis=0)
        blocks = np.maximum(sums[STEPS_A_BLOCK:] - sums[:-STEPS_A_BLOCK], 0) / STEPS_A_BLOCK * np.square(gains)
        for track, powers in enumerate(blocks.T):
            powers = powers[powers > _power(ABSOLUTE_GATE)]
            if len(powers):
                powers = powers[powers > powers.mean() * 10 ** (RELATIVE_GATE / 10)]
                found[track] = -0.691 + 10 * np.log10(powers.mean())
        return found

    def gains_to(self, target: float, gains: np.ndarray) -> np.ndarray:
        """Further gains `[tracks]` that bring tracks, times `gains`, to a loudness in LUFS; 1 where there is none.

        What is quiet gains blocks that were under the absolute gate, so the answer is approached in a few steps.
        """
        total = np.abs(gains).astype(np.float64)
        before = np.where(total > 0, total, 1.0)
        for _ in range(5):
            found = self.lufs(total)
            known = np.isfinite(found)
            total[known] *= 10 ** ((target - found[known]) / 20)
        return total / before


def _power(lufs):
    return 10 ** ((lufs + 0.691) / 10)
