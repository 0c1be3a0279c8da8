"""Loudness of a stream as broadcasters measure it, in LUFS (ITU-R BS.1770-4)."""

import numpy as np

STEP_SECONDS = 0.1  # s; blocks of 0.4 s begin every 0.1 s
STEPS_A_BLOCK = 4
ABSOLUTE_GATE = -70.0  # LUFS; blocks below are silence
RELATIVE_GATE = -10.0  # LU under the mean of the others
SHELF_FREQUENCY, SHELF_GAIN, SHELF_Q = 1500.0, 4.0, 1 / np.sqrt(2)  # Hz, dB
HIGH_PASS_FREQUENCY, HIGH_PASS_Q = 38.0, 0.5  # Hz
FILTER_SECONDS = 0.2  # s after which the filters have forgotten: 38 Hz have died out to 1e-20


class Loudness:
    """Integrated loudness of each track of a stream, in the memory of a number for each 0.1 s.

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
        self.memory = int(np.ceil(FILTER_SECONDS * sample_rate))
        self.size = 2 ** int(np.ceil(np.log2(8 * self.memory)))  # samples of a piece that is filtered
        self.response = k_weighting(sample_rate, self.size)[:, None]
        self.past: np.ndarray | None = None  # as many samples as the filter remembers
        self.step = round(STEP_SECONDS * sample_rate)
        self.powers: list[np.ndarray] = []  # of steps
        self.waiting: np.ndarray | None = None

    def add(self, block: np.ndarray) -> None:
        """Add a piece `[time, tracks]`."""
        signal = self._weighted(np.asarray(block, np.float64))
        squares = np.square(signal)
        if self.waiting is not None:
            squares = np.concatenate((self.waiting, squares))
        steps = len(squares) // self.step
        whole = squares[: steps * self.step].reshape(steps, self.step, squares.shape[1])
        self.powers += list(whole.mean(axis=1))
        self.waiting = squares[steps * self.step :]

    def _weighted(self, signal):
        """The signal `[time, tracks]` as the ear weighs it: pieces through the spectrum, each behind what the filter remembers."""
        if self.past is None:
            self.past = np.zeros((self.memory, signal.shape[1]))
        weighted = [signal[:0]]
        for start in range(0, len(signal), self.size - self.memory):
            piece = np.concatenate((self.past, signal[start : start + self.size - self.memory]))
            spectrum = np.fft.rfft(piece, self.size, axis=0) * self.response
            weighted.append(np.fft.irfft(spectrum, self.size, axis=0)[self.memory : len(piece)])
            self.past = piece[len(piece) - self.memory :]
        return np.concatenate(weighted)

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


def k_weighting(sample_rate: int, size: int) -> np.ndarray:
    """Response `[size // 2 + 1]` of the standard's two filters at the frequencies of a spectrum of `size` samples.

    The filters are the biquads of R. Bristow-Johnson's cookbook with pyloudnorm's parameters, which serve any rate: a shelf
    of 4 dB for the head, then a high pass.
    """
    z = np.exp(-2j * np.pi * np.arange(size // 2 + 1) / size)  # a delay of one sample
    response = np.ones(len(z), complex)
    if 2 * SHELF_FREQUENCY < sample_rate:  # else there is nothing to lift
        a = 10 ** (SHELF_GAIN / 40)
        cosine, alpha = _cosine_and_alpha(SHELF_FREQUENCY / sample_rate, SHELF_Q)
        root, more, less = 2 * np.sqrt(a) * alpha, a + 1, a - 1
        up = a * (more + less * cosine + root), -2 * a * (less + more * cosine), a * (more + less * cosine - root)
        down = more - less * cosine + root, 2 * (less - more * cosine), more - less * cosine - root
        response *= _biquad(up, down, z)
    cosine, alpha = _cosine_and_alpha(HIGH_PASS_FREQUENCY / sample_rate, HIGH_PASS_Q)
    up = (1 + cosine) / 2, -(1 + cosine), (1 + cosine) / 2
    return response * _biquad(up, (1 + alpha, -2 * cosine, 1 - alpha), z)


def _cosine_and_alpha(frequency, q):
    """Of an angle, from a frequency as a share of the sample rate."""
    angle = 2 * np.pi * frequency
    return np.cos(angle), np.sin(angle) / (2 * q)


def _biquad(up, down, z):
    return (up[0] + up[1] * z + up[2] * z**2) / (down[0] + down[1] * z + down[2] * z**2)


def _power(lufs):
    return 10 ** ((lufs + 0.691) / 10)
