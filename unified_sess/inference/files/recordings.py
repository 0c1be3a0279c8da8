"""Recordings of any rate and channel count as streams of mono samples, and back."""

import math
import os

import numpy as np
import soundfile
import soxr

from unified_sess.utils.audio import audio_info, sound_path
from unified_sess.utils.errors import UserError

BLOCK = 10.0  # s of audio read at once
RATES = (2000, 768000)  # Hz; below there is no speech left
LARGEST = 1e10  # integers that were never scaled reach 2e9; far beyond, 32-bit networks overflow


class Recording:
    """An audio file, read as a stream of mono samples at a wanted rate.

    Channels are downmixed to their mean. (Channels in opposite phase cancel: such a file needs one channel chosen
    beforehand.)

    Arguments
    ---------
    path : str or Path
        wav, flac, ogg or mp3 of any rate and channel count.

    Attributes
    ----------
    frames, sample_rate, channels : int
        As in the file.
    shortfall : float
        Known after reading: s that an MP3 lacks of what its header promises. (What there is has been read; in other
        formats the length is certain, so that one which breaks off is an error.)

    Raises
    ------
    UserError
        Naming the file when it is missing, unreadable, truncated, empty or has an impossible rate; while reading also
        where samples are not finite or absurdly large.
    """

    def __init__(self, path):
        if os.path.isdir(path):
            raise UserError(f"{path} is a folder, not an audio file")
        if os.path.exists(path) and not os.path.isfile(path):
            raise UserError(f"{path} is not a file but a pipe or device: save the audio to a file first")
        self.path, self.shortfall = path, 0.0
        self.frames, self.sample_rate, self.channels = audio_info(path)
        if not RATES[0] <= self.sample_rate <= RATES[1]:
            raise UserError(
                f"{path} has a sample rate of {self.sample_rate} Hz: rates from {RATES[0]} to {RATES[1]} Hz work"
            )

    @property
    def duration(self):
        """Duration in s."""
        return self.frames / self.sample_rate

    def blocks(self, sample_rate, progress=None):
        """Yields the signal in pieces `[time]`, float32, at `sample_rate` Hz; `progress(seconds)` is told of each."""
        count = 0
        for block in resample(self._mono(progress), self.sample_rate, sample_rate):
            count += len(block)
            yield block
        if count == 0:  # some samples at a high rate are less than one at a low rate
            yield np.zeros(1, np.float32)

    def _mono(self, progress):
        size = max(int(BLOCK * self.sample_rate / self.channels), 1024)
        read = 0
        try:
            with soundfile.SoundFile(sound_path(self.path)) as file:
                while len(block := file.read(size, dtype="float32", always_2d=True)):
                    if not np.isfinite(block).all():
                        raise UserError(
                            f"{self.path} holds samples that are not finite (NaN or infinity): replace or remove it"
                        )
                    if np.abs(block).max() > LARGEST:
                        level = f"{np.abs(block).max():.0e}"
                        raise UserError(
                            f"{self.path} holds samples of {level}, where 1 is full scale: replace or remove it"
                        )
                    read += len(block)
                    yield block.mean(axis=1)
                    if progress is not None:
                        progress(len(block) / self.sample_rate)
        except (soundfile.SoundFileError, RuntimeError) as error:
            raise UserError(
                f"{self.path} breaks off after {read / self.sample_rate:.1f} s ({error}): copy it again"
            ) from None
        if read != self.frames and not str(self.path).lower().endswith(".mp3"):
            raise UserError(
                f"{self.path} is truncated: {read} samples where {self.frames} were promised; copy it again"
            )
        self.shortfall = max(0.0, (self.frames - read) / self.sample_rate)
        self.frames = read


def resample(blocks, rate, new_rate):
    """Resample a stream of arrays `[time]` or `[time, channels]`; yields pieces of the same kind."""
    if rate == new_rate:
        yield from blocks
        return
    stream = None
    for block in blocks:
        if stream is None:
            channels = 1 if block.ndim == 1 else block.shape[1]
            stream = soxr.ResampleStream(rate, new_rate, channels, dtype="float32", quality="HQ")
        yield stream.resample_chunk(np.ascontiguousarray(block, np.float32))
    if stream is not None:
        yield stream.resample_chunk(np.ascontiguousarray(block[:0], np.float32), last=True)


def of_length(blocks, frames):
    """Cut a stream of arrays `[time, channels]`, or fill it with zeros, to `frames`."""
    left, last = frames, None
    for block in blocks:
        last = block[:left]
        left -= len(last)
        yield last
    if left and last is not None:
        yield np.zeros((left, *last.shape[1:]), np.float32)


class Spool:
    """A temporary float32 file `[time, channels]` without a name, so that nothing is left behind.

    Arguments
    ---------
    file : binary file
        Open for writing and reading.
    channels : int
        Columns.
    """

    def __init__(self, file, channels):
        self.file, self.channels, self.frames = file, channels, 0

    def write(self, block):
        """Append `[time, channels]`."""
        self.file.write(np.ascontiguousarray(block, np.float32))
        self.frames += len(block)

    def blocks(self, sample_rate):
        """Yields everything again in pieces of some seconds."""
        self.file.flush()
        self.file.seek(0)
        size = math.ceil(BLOCK * sample_rate) * self.channels * 4
        while piece := self.file.read(size):
            yield np.frombuffer(piece, np.float32).reshape(-1, self.channels)
