"""Recordings of any rate and channel count as streams of mono samples."""

import functools
import os
from collections.abc import Callable, Iterator

import numpy as np

from unified_sess.inference.files.resampling import resample
from unified_sess.utils.audio import (
    AudioInfo,
    Channel,
    ChannelChoice,
    audio_info,
    choose_channel,
    measure_levels,
    open_stream,
    read_blocks,
    take,
)
from unified_sess.utils.audio.channels import checked_channel
from unified_sess.utils.errors import UserError

RATES = (2000, 768000)  # Hz; below there is no speech left
MISSING_TOLERANCE = 0.1  # s that a recording may lack without a word


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

    def __init__(self, path: str | os.PathLike, channel: Channel = None, stream: int | None = None) -> None:
        if os.path.isdir(path):
            raise UserError(f"{path} is a folder, not an audio file")
        if os.path.exists(path) and not os.path.isfile(path):
            raise UserError(f"{path} is not a file but a pipe or device: save the audio to a file first")
        self.path, self.channel, self.stream = path, channel, stream
        opened = open_stream(path, stream)
        self.sample_rate, self.channels, self.subtype = opened.sample_rate, opened.channels, opened.subtype
        checked_channel(channel, self.channels, str(path))
        if not RATES[0] <= self.sample_rate <= RATES[1]:
            raise UserError(
                f"{path} has a sample rate of {self.sample_rate} Hz: rates from {RATES[0]} to {RATES[1]} Hz work"
            )

    @functools.cached_property
    def info(self) -> AudioInfo:
        """Length and more, without the first pass where the header can be believed."""
        return audio_info(self.path, self.stream)

    @functools.cached_property
    def choice(self) -> ChannelChoice:
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
        if self.shortfall > MISSING_TOLERANCE:
            notes.append(f"lacks {self.shortfall:.1f} s of what its header promises: what there is was separated")
        return notes

    def blocks(
        self,
        sample_rate: int,
        progress: Callable[[float], object] | None = None,
        tap: Callable[[np.ndarray], object] | None = None,
    ) -> Iterator[np.ndarray]:
        """Yields the signal in pieces `[time]`, float32, without its offset.

        Arguments
        ---------
        sample_rate : int
            In Hz, of the signal.
        progress : callable
            Is told how many s were read, piece by piece.
        tap : callable
            Is given the channel as it is in the file, at the file's rate and with its offset, piece by piece `[time]`.
        """
        count = 0
        for block in resample(self._mono(progress, tap), self.sample_rate, sample_rate):
            count += len(block)
            yield block
        if count == 0:  # some samples at a high rate are less than one at a low rate
            yield np.zeros(1, np.float32)

    def _mono(self, progress, tap):
        whole, offset = self.choice._replace(offset=0.0), np.float32(self.choice.offset)
        for block in read_blocks(self.path, self.stream):
            signal = take(block, whole)
            if tap is not None:
                tap(signal)
            yield signal - offset
            if progress is not None:
                progress(len(block) / self.sample_rate)
