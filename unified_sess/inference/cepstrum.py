"""Cepstra of voices (MFCC), in NumPy, so that tracking needs no torch."""

import numpy as np

BANDS = 32  # of the mel scale
LOWEST_POWER = 1e-10  # of a band
RANGE = 80.0  # dB under the loudest band; what is quieter counts as that


class Cepstrum:
    """Mel-frequency cepstral coefficients, the same as `torchaudio.transforms.MFCC` gives without centred frames.

    Arguments
    ---------
    sample_rate : int
        Hz.
    frame : int
        Samples of a frame; frames begin every half of it.
    coefficients : int
        How many, the loudness among them.

    Example
    -------
    >>> Cepstrum(8000, 256, 20)(np.ones((2, 8000), np.float32)).shape
    (2, 61, 20)
    """

    def __init__(self, sample_rate: int, frame: int, coefficients: int) -> None:
        self.frame, self.hop = frame, frame // 2
        self.window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(frame) / frame)
        self.bands = triangles(np.linspace(0, sample_rate // 2, frame // 2 + 1), sample_rate // 2, BANDS)
        self.cosines = _cosines(coefficients)

    def __call__(self, signals: np.ndarray) -> np.ndarray:
        """Cepstra `[signals, frames, coefficients]` of signals `[signals, time]` of at least one frame."""
        frames = frames_of(signals, self.frame, self.hop) * self.window
        power = np.square(np.abs(np.fft.rfft(frames, axis=2))) @ self.bands
        decibels = 10 * np.log10(np.maximum(power, LOWEST_POWER))
        return np.maximum(decibels, decibels.max() - RANGE) @ self.cosines


def frames_of(signals: np.ndarray, frame: int, hop: int) -> np.ndarray:
    """A view of signals `[signals, time]` as frames `[signals, frames, frame]`."""
    return np.lib.stride_tricks.sliding_window_view(signals, frame, axis=1)[:, ::hop]


def triangles(frequencies: np.ndarray, highest: float, bands: int) -> np.ndarray:
    """Weights `[frequencies, bands]` of triangles up to `highest` Hz; their corners are equally spaced on the mel scale (HTK's)."""
    top = 2595 * np.log10(1 + highest / 700)
    corners = 700 * (10 ** (np.linspace(0, top, bands + 2) / 2595) - 1)  # Hz
    distance = corners - frequencies[:, None]
    rising, falling = -distance[:, :-2] / np.diff(corners)[:-1], distance[:, 2:] / np.diff(corners)[1:]
    return np.maximum(np.minimum(rising, falling), 0)


def _cosines(coefficients):
    """The orthonormal discrete cosine transform (type II), `[bands, coefficients]`."""
    angles = np.pi / BANDS * (np.arange(BANDS)[:, None] + 0.5) * np.arange(coefficients)
    scale = np.where(np.arange(coefficients) == 0, np.sqrt(1 / BANDS), np.sqrt(2 / BANDS))
    return scale * np.cos(angles)
