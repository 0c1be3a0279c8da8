"""Which channel of a recording is separated or trained on, and its levels: one rule for both."""

import operator
from typing import Literal, NamedTuple

import numpy as np

from unified_sess.utils.errors import UserError

SAMPLES_OF_A_MEAN = 4000  # samples; the mean of fewer is a part of the sound
CANCELLATION_MARGIN = 6.0  # dB that the mean may lie under the loudest channel
OFFSET_SHARE = 0.01  # share of the sound's power from which on a constant offset is taken out; less costs nothing
ALIKE_POWER_SHARE = 0.98  # of the greatest power: of channels as loud as that the first is taken
Channel = int | Literal["mean"] | None


class Levels:
    """Powers and constant offsets of the channels of a recording and of their mean, block by block."""

    def __init__(self, channels: int) -> None:
        self.frames, self.sums, self.squares = 0, np.zeros(channels + 1), np.zeros(channels + 1)

    def add(self, block: np.ndarray) -> None:
        """Add samples `[time, channels]`."""
        self.frames += len(block)
        for k in range(block.shape[1] + 1):  # one by one: the memory of a single channel
            signal = (block[:, k] if k < block.shape[1] else block.mean(axis=1)).astype(np.float64)
            self.sums[k] += signal.sum()
            self.squares[k] += signal @ signal

    @property
    def offsets(self) -> np.ndarray:
        """Mean of every channel and, last, of their mean, `[channels + 1]`."""
        return self.sums / max(1, self.frames)

    @property
    def powers(self) -> np.ndarray:
        """Power of every channel and, last, of their mean, without the offset, `[channels + 1]`."""
        return np.maximum(self.squares / max(1, self.frames) - self.offsets**2, 0.0)


class ChannelChoice(NamedTuple):
    """What is taken of a recording.

    channel : from 0; None is the mean.
    offset : constant that is taken out; 0 where there is hardly any.
    note : a word to the user, or empty.
    """

    channel: int | None
    offset: float
    note: str


def checked_channel(channel: Channel, channels: int, path: str) -> Channel:
    """The channel, with numbers of any kind (NumPy's too) as Python's; `UserError` where there is none of that name."""
    if channel is None or channel == "mean":
        return channel
    try:
        number = operator.index(channel)
    except TypeError:
        raise UserError(f"there is no channel {channel!r}: give a number from 1, or mean") from None
    if not 1 <= number <= channels:
        what = "one channel" if channels == 1 else f"{channels} channels"
        raise UserError(f"{path} has {what}: --channel {number} is out of range")
    return number


def choose_channel(levels: Levels, channel: Channel = None, path: str = "the recording") -> ChannelChoice:
    """The channel to take: the mean; the loudest one where the mean lies more than 6 dB under it.

    A mean of channels loses a voice that is in one of them alone, or in opposite phase.

    Arguments
    ---------
    levels : Levels
        Of the whole recording.
    channel : int or str
        From 1, or `mean`, takes that whatever the levels; None goes by the rule.
    path : str
        What messages call the recording.

    Raises
    ------
    UserError
        When there is no such channel.

    Example
    -------
    >>> levels = Levels(2)
    >>> levels.add(np.array([[1.0, -1.0], [-1.0, 1.0]]))
    >>> choose_channel(levels).channel
    0
    """
    powers, channels = levels.powers, len(levels.powers) - 1
    channel = checked_channel(channel, channels, path)
    taken, notes = channels, []  # the last one is the mean
    loudest = int(np.argmax(powers[:-1] >= ALIKE_POWER_SHARE * powers[:-1].max()))
    if isinstance(channel, int):
        taken = channel - 1
    elif channel is None and powers[-1] < powers[loudest] * 10 ** (-CANCELLATION_MARGIN / 10):
        taken = loudest
        lost = f"{10 * np.log10(powers[loudest] / powers[-1]):.1f} dB" if powers[-1] > 0 else "all of it"
        notes = [f"has its sound in channel {loudest + 1} of {channels}, which was taken: the mean loses {lost}"]
    offset = float(levels.offsets[taken])
    if levels.frames < SAMPLES_OF_A_MEAN or offset**2 <= OFFSET_SHARE * powers[taken]:
        offset = 0.0
    elif offset:
        notes.append(f"has a constant offset of {offset:.2g}, which was taken out")
    return ChannelChoice(None if taken == channels else taken, offset, " and ".join(notes))


def take(block: np.ndarray, choice: ChannelChoice) -> np.ndarray:
    """The chosen channel `[time]` of samples `[time, channels]`, float32, without its offset."""
    signal = block.mean(axis=1) if choice.channel is None else block[:, choice.channel]
    return np.ascontiguousarray(signal - np.float32(choice.offset))
