"""Recordings of any rate and channel count as streams of mono samples, and back."""

import functools
import math
import os
from collections.abc import Callable, Iterable, Iterator
from typing import BinaryIO

import numpy as np
import soxr

from unified_sess.utils.audio import (
    AudioInfo,
    Channel,
    Choice,
    audio_info,
    choose_channel,
    measure_levels,
    open_stream,
    read_blocks,
    take,
)
from unified_sess.utils.audio.channels import check_channel
from unified_sess.utils.errors import UserError

BLOCK = 10.0  # s of audio read at once
RATES = (2000, 768000)  # Hz; below there is no speech left
WORTH_SAYING = 0.1  # s that a recording may lack without a word


class Recording:
    """A sound file, read as a stream of mono samples at a wanted rate, without a constant offset.

    It is decoded to its end twice: first for its true length and the levels of its channels, then for its samples, so
    that hours of sound need little memory. The first pass waits until something asks for what it tells.

    Arguments
    ---------
    path : str or Path
        Any file that `utils.audio` reads, of any rate and channel count.
    channel : int or str
        From 1, or `mean`. None takes the mean, or the loudest channel where the mean lies more than 6 dB under it.
    stream : int
        Which audio stream of a container such as mp4, from 1; None is the first.

    Attributes
    ----------
    sample_rate, channels : int
        As in the file.
    subtype : str
        Depth or codec of the file; `utils.audio.result_subtype` tells the depth of its results.

    Raises
    ------
    UserError
        Naming the file when it is missing, unreadable, empty, lacks the channel or stream, or has an impossible rate;
        while reading also where samples are not finite or absurdly large.
    """

    def __init__(self, path: str | os.PathLike, channel: Channel = None, stream: int | None = None):
        if os.path.isdir(path):
            raise UserError(f"{path} is a folder, not an audio file")
        if os.path.exists(path) and not os.path.isfile(path):
            raise UserError(f"{path} is not a file but a pipe or device: save the audio to a file first")
        self.path, self.channel, self.stream = path, channel, stream
        opened = open_stream(path, stream)
        self.sample_rate, self.channels, self.subtype = opened.sample_rate, opened.channels, opened.subtype
        check_channel(channel, self.channels, str(path))
        if not RATES[0] <= self.sample_rate <= RATES[1]:
            raise UserError(
                f"{path} has a sample rate of {self.sample_rate} Hz: rates from {RATES[0]} to {RATES[1]} Hz work"
            )

    @functools.cached_property
    def info(self) -> AudioInfo:
        """Length and more, without the first pass where the header can be believed."""
        return audio_info(self.path, self.stream)

    @functools.cached_property
    def choice(self) -> Choice:
        """Channel and offset, decided once by the levels of the whole recording."""
        return choose_channel(measure_levels(self.path, self.stream)[1], self.channel, str(self.path))

    @property
    def frames(self) -> int:
        """Length in samples at the file's rate."""
        return self.info.frames

    @property
    def duration(self) -> float:
        """Duration in s."""
        return self.info.duration

    @property
    def shortfall(self) -> float:
        """s that the file's header promises and that are not there."""
        return measure_levels(self.path, self.stream)[0].missing

    def notes(self) -> list[str]:
        """What the user should know, each to be read behind the file's name."""
        notes = [self.choice.note] if self.choice.note else []
        if self.shortfall > WORTH_SAYING:
            notes.append(f"lacks {self.shortfall:.1f} s of what its header promises: what there is was separated")
        return notes

    def blocks(self, sample_rate: int, progress: Callable[[float], object] | None = None) -> Iterator[np.ndarray]:
        """Yields the signal in pieces `[time]`, float32, at `sample_rate` Hz; `progress(seconds)` is told of each."""
        count = 0
        for block in resample(self._mono(progress), self.sample_rate, sample_rate):
            count += len(block)
            yield block
        if count == 0:  # some samples at a high rate are less than one at a low rate
            yield np.zeros(1, np.float32)

    def _mono(self, progress):
        choice = self.choice
        for block in read_blocks(self.path, self.stream):
            yield take(block, choice)
            if progress is not None:
                progress(len(block) / self.sample_rate)


def resample(blocks: Iterable[np.ndarray], rate: int, new_rate: int) -> Iterator[np.ndarray]:
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


def of_length(blocks: Iterable[np.ndarray], frames: int) -> Iterator[np.ndarray]:
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

    def __init__(self, file: BinaryIO, channels: int):
        self.file, self.channels, self.frames = file, channels, 0

    def write(self, block: np.ndarray):
        """Append `[time, channels]`."""
        self.file.write(np.ascontiguousarray(block, np.float32))
        self.frames += len(block)

    def blocks(self, sample_rate: int) -> Iterator[np.ndarray]:
        """Yields everything again in pieces of some seconds."""
        self.file.flush()
        self.file.seek(0)
        size = math.ceil(BLOCK * sample_rate) * self.channels * 4
        while piece := self.file.read(size):
            yield np.frombuffer(piece, np.float32).reshape(-1, self.channels)
