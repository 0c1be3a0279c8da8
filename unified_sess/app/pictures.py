"""Pictures of sounds, waveform above spectrogram, drawn from files of any length in bounded memory."""

import math
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile

from unified_sess.utils.figures import BLUE, SPECTROGRAM_RANGE, new_figure, spectrogram

COLUMNS = 900  # of a picture, at most
BLOCK = 1 << 18  # samples read at once
FLOOR = -180.0  # dB, of digital silence


class Picture(NamedTuple):
    """What is drawn of a sound.

    duration : float
        In s.
    sample_rate : int
        In Hz.
    low, high : numpy.ndarray
        Lowest and highest sample of each column, `[columns]`.
    level : numpy.ndarray
        Mean level of each frequency in dB, `[frequencies, columns]`.
    """

    duration: float
    sample_rate: int
    low: np.ndarray
    high: np.ndarray
    level: np.ndarray

    def peak(self) -> float:
        """Largest absolute sample."""
        return float(max(np.abs(self.low).max(initial=0.0), np.abs(self.high).max(initial=0.0)))


def measure_picture(path: Path) -> Picture:
    """What is drawn of a sound file of one channel.

    Example
    -------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "a.wav"
    >>> soundfile.write(path, np.full(8000, 0.5), 8000)
    >>> picture = measure_picture(path)
    >>> picture.duration, picture.peak(), len(picture.level)
    (1.0, 0.5, 129)
    """
    with soundfile.SoundFile(path) as file:
        rate, frames = file.samplerate, file.frames
        size = max(1, math.ceil(frames / COLUMNS))  # samples of a column
        low, high, levels = [], [], []
        per_block = max(1, BLOCK // size)  # columns read at once
        for block in file.blocks(size * per_block, dtype="float32", fill_value=None):
            starts = np.arange(0, len(block), size)
            low.append(np.minimum.reduceat(block, starts))
            high.append(np.maximum.reduceat(block, starts))
            levels.append(_of_columns(spectrogram(block, rate), min(len(starts), COLUMNS)))
    return Picture(frames / rate, rate, np.concatenate(low), np.concatenate(high), np.concatenate(levels, axis=1))


def _of_columns(level, columns):
    """Mean power of frames `[frequencies, frames]` in so many columns, in dB; few frames are shown several times."""
    edges = np.linspace(0, level.shape[1], columns + 1)
    starts = np.minimum(edges[:-1].astype(int), level.shape[1] - 1)
    ends = np.maximum(edges[1:].astype(int), starts + 1)
    sums = np.concatenate((np.zeros((len(level), 1)), np.cumsum(10 ** (level / 10), axis=1)), axis=1)
    power = (sums[:, ends] - sums[:, starts]) / (ends - starts)
    return 10 * np.log10(np.maximum(power, 10 ** (FLOOR / 10)))


def draw_picture(picture: Picture, path: Path, like: Picture) -> None:
    """Draw a sound into a PNG file, at the scales of another one, so that what is quieter looks so."""
    figure = new_figure(9, 2.6)
    wave, tones = figure.subplots(2, 1, sharex=True, height_ratios=(1, 2))
    times = np.linspace(0, picture.duration, len(picture.low))
    wave.fill_between(times, picture.low, picture.high, color=BLUE, linewidth=0.6)
    top = 1.05 * like.peak() or 1.0
    wave.set_ylim(-top, top)
    wave.set_yticks([])
    loudest = like.level.max(initial=FLOOR + SPECTROGRAM_RANGE)
    extent = (0.0, picture.duration, 0.0, picture.sample_rate / 2000)
    colours = {"vmin": loudest - SPECTROGRAM_RANGE, "vmax": loudest, "cmap": "magma"}
    tones.imshow(picture.level, origin="lower", aspect="auto", extent=extent, interpolation="nearest", **colours)
    tones.set_ylabel("kHz", fontsize=8)
    tones.set_xlabel("s", fontsize=8, labelpad=0)
    for axes in (wave, tones):
        axes.tick_params(labelsize=8)
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=110)
