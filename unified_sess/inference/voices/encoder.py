"""What a voice sounds like: a small network from the spectrum of a second or two to a direction, alike for one person.

In NumPy, so that it runs beside torch and without it; `nnet.voice_encoder` has the same network for training.
"""

import functools
from pathlib import Path

import numpy as np

from unified_sess.inference.cepstrum import frames_of, triangles
from unified_sess.inference.voices.network import StretchNetwork

WEIGHTS = Path(__file__).parents[2] / "models" / "voices" / "voices.npz"
HOP = 0.016  # s from frame to frame; a frame has twice that
BANDS = 32  # of the mel scale
HIGHEST = 4000.0  # Hz: telephones and models at 8 kHz have no more
FRAMES = 16  # frames in a unit, the time step of embeddings
UNIT = FRAMES * HOP  # s
SPAN = 7  # units that an embedding hears (1.8 s), its own in the middle
FLOOR, MEAN, RANGE = 1e-10, -30.0, 20.0  # power of a band, and what brings its dB near -1 to 1
SPEECH_RMS = 0.016  # of the loud speech in a recording, about what the network has learnt from
AUDIBLE = 1e-9  # power of a frame, below which there is nothing to hear


class VoiceEncoder:
    """Embeddings of the voices in signals of any rate.

    Arguments
    ---------
    sample_rate : int
        Hz.

    Example
    -------
    >>> signals = np.random.default_rng(0).standard_normal((2, 16000)).astype(np.float32)
    >>> VoiceEncoder(8000)(signals).shape  # 16000 samples have 7 whole units of 0.256 s
    (2, 7, 128)
    """

    def __init__(self, sample_rate: int) -> None:
        self.hop = round(HOP * sample_rate)
        self.frame, self.unit = 2 * self.hop, FRAMES * self.hop  # samples
        self.window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(self.frame) / self.frame)
        frequencies = np.fft.rfftfreq(self.frame, 1 / sample_rate)
        self.used = int(np.searchsorted(frequencies, HIGHEST, "right"))
        self.bands = triangles(frequencies[: self.used], HIGHEST, BANDS) * (256 / self.frame) ** 2  # as at 8 kHz
        self.network = _network()
        self.size = self.network.size  # of an embedding

    def __call__(self, signals: np.ndarray) -> np.ndarray:
        """Embeddings of length 1, `[signals, units, size]`, of signals `[signals, time]`; speech wants an RMS near 0.02.

        Zeros where a unit and its neighbours hold nothing.
        """
        units = signals.shape[1] // self.unit
        padded = np.pad(signals[:, : units * self.unit], ((0, 0), (0, self.hop)))
        return self.embeddings(self.spectrum(padded))

    def embeddings(self, power: np.ndarray) -> np.ndarray:
        """The same, of `spectrum`'s powers in the bands `[signals, frames, bands]`."""
        features, share = self.network.frames(network_input(power))
        share = share * (power.sum(2, keepdims=True) > AUDIBLE)
        x, nothing = self.network.told(features, share, _over_span)
        return np.where(nothing, 0, x / np.maximum(np.linalg.norm(x, axis=2, keepdims=True), 1e-9)).astype(np.float32)

    def spectrum(self, signals: np.ndarray) -> np.ndarray:
        """Power in the bands, `[signals, frames, bands]`, of signals `[signals, time]` of at least a frame."""
        frames = frames_of(signals, self.frame, self.hop)
        pieces = np.array_split(frames, max(1, frames.shape[1] // 1000), axis=1)  # a minute at once is much memory
        return np.concatenate(
            [np.square(np.abs(np.fft.rfft(piece * self.window, axis=2)[..., : self.used])) @ self.bands for piece in pieces],
            axis=1,
        )  # fmt: skip


def network_input(power: np.ndarray) -> np.ndarray:
    """Powers of bands in dB, brought near -1 to 1."""
    return ((10 * np.log10(np.maximum(power, FLOOR)) - MEAN) / RANGE).astype(np.float32)


@functools.cache
def _network() -> StretchNetwork:
    with np.load(WEIGHTS) as file:
        return StretchNetwork(dict(file))


def _over_span(frames):
    """Sums over the `SPAN` units around each, `[signals, units, features]`."""
    signals, count, features = frames.shape
    units = frames.astype(np.float64).reshape(signals, count // FRAMES, FRAMES, features).sum(2)
    sums = np.pad(units, ((0, 0), (SPAN // 2 + 1, SPAN // 2), (0, 0))).cumsum(1)
    return sums[:, SPAN:] - sums[:, :-SPAN]
