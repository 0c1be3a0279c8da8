"""What devices do to a recording: they limit its band, colour it, clip it and code it."""

import io
from typing import NamedTuple

import numpy as np
import soundfile
import soxr

from unified_sess.data.scenes.options import SceneOptions

TELEPHONE = (300.0, 3400.0)  # Hz
TELEPHONE_SHARE = 0.4  # of the devices; the others pass all that is below a frequency of LOW_PASS
LOW_PASS = (3400.0, 8000.0)  # Hz
HIGH_PASS = (20.0, 150.0)  # Hz
EDGE = 0.12  # width of a band's edge as a share of its frequency
BUMPS = 3  # of the equaliser
BUMP_LEVEL = 4.0  # dB, up or down
TILT = 1.5  # dB an octave, up or down
CLIPPING_LEVEL = (0.25, 0.8)  # of the peak
CODECS = (("OGG", "OPUS"), ("MP3", "MPEG_LAYER_III"))
TELEPHONE_CODECS = (("WAV", "GSM610"), ("WAV", "ULAW"))
TELEPHONE_RATE = 8000  # Hz
RATES = (8000, 16000, 24000, 48000)  # Hz that Opus knows; signals of another rate are coded at 16 kHz


class Device(NamedTuple):
    """A device of a scene.

    band : lower and upper edge in Hz; None for neither band limit nor equaliser.
    bumps : `[bumps, 3]`: frequency in Hz, width in octaves, level in dB.
    tilt : dB an octave.
    clip : share of the peak at which samples are clipped; None for none.
    codec : format and subtype of soundfile; None for none.
    """

    band: tuple[float, float] | None
    bumps: np.ndarray
    tilt: float
    clip: float | None
    codec: tuple[str, str] | None

    def gains(self, frequencies: np.ndarray) -> np.ndarray:
        """Gain at each frequency in Hz, float32; the phase is left alone, so that nothing moves in time."""
        if self.band is None:
            return np.ones(len(frequencies), np.float32)
        octaves = np.log2(np.maximum(frequencies, 20.0) / 1000.0)
        level = self.tilt * octaves
        for frequency, width, bump in self.bumps:
            level += bump * np.exp(-0.5 * np.square((octaves - np.log2(frequency / 1000.0)) / width))
        gain = 10 ** (level / 20)
        low, high = self.band
        gain *= _edge(frequencies, high, high * EDGE) * (1 - _edge(frequencies, low, low * EDGE * 4))
        return gain.astype(np.float32)


def draw_device(random: np.random.Generator, options: SceneOptions, sample_rate: int) -> Device:
    """Draw the device of a scene; each option has its own chance."""
    band, bumps, tilt = None, np.empty((0, 3)), 0.0
    telephone = False
    if random.random() < options.devices:
        telephone = random.random() < TELEPHONE_SHARE
        band = TELEPHONE if telephone else (random.uniform(*HIGH_PASS), random.uniform(*LOW_PASS))
        bumps = np.stack(
            [
                1000 * 2 ** random.uniform(-3, 2.5, BUMPS),
                random.uniform(0.3, 1.5, BUMPS),
                random.uniform(-BUMP_LEVEL, BUMP_LEVEL, BUMPS),
            ],
            axis=1,
        )
        tilt = random.uniform(-TILT, TILT)
    clip = random.uniform(*CLIPPING_LEVEL) if random.random() < options.clipping else None
    codec = None
    if random.random() < options.codec:
        codecs = CODECS + TELEPHONE_CODECS if telephone else CODECS
        codec = codecs[int(random.integers(len(codecs)))]
    return Device(band, bumps, tilt, clip, codec)


def _edge(frequencies: np.ndarray, edge: float, width: float) -> np.ndarray:
    """1 below the edge, 0 above, a raised cosine between."""
    place = np.clip((frequencies - edge + width / 2) / width, 0, 1)
    return 0.5 + 0.5 * np.cos(np.pi * place)


def clip(signal: np.ndarray, share: float) -> np.ndarray:
    """Clip a signal `[time]` at a share of its peak."""
    peak = share * np.abs(signal).max()
    return np.clip(signal, -peak, peak)


def code(signal: np.ndarray, sample_rate: int, codec: tuple[str, str]) -> np.ndarray:
    """Send a signal `[time]` through a codec of soundfile; length and time stay."""
    rate = TELEPHONE_RATE if codec in TELEPHONE_CODECS else sample_rate if sample_rate in RATES else 16000
    coded = soxr.resample(signal, sample_rate, rate) if rate != sample_rate else signal
    file = io.BytesIO()
    soundfile.write(file, np.clip(coded, -1, 1), rate, format=codec[0], subtype=codec[1])
    file.seek(0)
    decoded, _ = soundfile.read(file, dtype="float32")
    if rate != sample_rate:
        decoded = soxr.resample(decoded, rate, sample_rate)
    return np.pad(decoded[: len(signal)], (0, max(0, len(signal) - len(decoded)))).astype(np.float32, copy=False)
