"""Recordings of any length in bounded memory: overlapping windows, speakers on their tracks, cross-faded."""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np

from unified_sess.inference.runtime import Runtime
from unified_sess.inference.tracker import SpeakerTracker
from unified_sess.utils.errors import UserError


class NotFinite(UserError):
    """A network that gives what is no number."""


class Windows(NamedTuple):
    """How a long recording is cut.

    length, overlap : float
        Of the windows, in s. The last one is up to `LONGEST_LAST` times as long, so recordings up to there are separated
        whole, or the last two are equally shorter.
    batch : int
        Windows that go through the network together.
    """

    length: float = 16.0
    overlap: float = 4.0
    batch: int = 4

    def samples(self, sample_rate: int) -> tuple[int, int]:
        """Length and overlap in samples; `UserError` unless the overlap is at most half of the length."""
        if not 0.5 <= self.length <= 3600 or not 0.1 <= self.overlap <= self.length / 2:
            raise UserError(
                f"windows of {self.length} s that overlap by {self.overlap} s cannot work: "
                "give a window of at least 0.5 s and an overlap from 0.1 s to half a window"
            )
        if self.batch < 1:
            raise UserError(f"batch size {self.batch} is too small: give 1 or more")
        return round(self.length * sample_rate), round(self.overlap * sample_rate)


DEFAULT_WINDOWS = Windows()
LONGEST_LAST = 1.25  # times a window


def separate_stream(
    model: Runtime,
    blocks: Iterable[np.ndarray],
    windows: Windows = DEFAULT_WINDOWS,
    enhanced: bool = False,
    fixed_order: bool = False,
) -> Iterator[np.ndarray]:
    """Separate a stream of samples window by window.

    Arguments
    ---------
    model : Runtime
        The network.
    blocks : iterable of numpy.ndarray
        The mixture in pieces of any length `[time]`, float32, at the model's rate.
    windows : Windows
        How to cut it.
    enhanced : bool
        Also give the enhanced mixture, as last channel.
    fixed_order : bool
        Trust the network's order of the sources in every window instead of tracking voices.

    Yields
    ------
    numpy.ndarray
        `[time, speakers]` or `[time, speakers + 1]`, float32; together as long as the input.

    Raises
    ------
    NotFinite
        Naming the model, when it gives NaN or infinity.
    """
    length, overlap = windows.samples(model.sample_rate)
    stitcher = _Stitcher(model.num_spks, None if fixed_order else model.sample_rate)
    for starts, batch in _batches(_cut(blocks, length, length - overlap), windows.batch):
        outputs = model.separate_windows(np.stack(batch), enhanced)
        if not np.isfinite(outputs).all():
            raise NotFinite(
                f"{model.name} gave samples that are not finite (NaN or infinity): its weights are broken, copy or "
                "export it again, or give another --model"
            )
        for start, output in zip(starts, outputs):
            yield from stitcher.add(start, output)
    yield from stitcher.finish()


def _cut(blocks, length, hop):
    """Yields `(start, window)` every `hop` samples; what is left behind the last whole hop is one window or two equal ones."""
    buffer, start = np.zeros(0, np.float32), 0  # of the buffer's first sample
    for block in blocks:
        buffer = np.concatenate((buffer, np.asarray(block, np.float32)))
        while len(buffer) >= length + hop:
            yield start, buffer[:length].copy()
            buffer, start = buffer[hop:], start + hop
    if len(buffer) > LONGEST_LAST * length:
        half = (len(buffer) + length - hop) // 2
        yield start, buffer[:half].copy()
        buffer, start = buffer[half - length + hop :], start + half - length + hop
    if len(buffer):
        yield start, buffer


def _batches(windows, size):
    """Groups windows of one length, `size` at a time: yields lists of starts and of windows."""
    starts, batch = [], []
    for start, window in windows:
        if batch and (len(batch) == size or len(window) != len(batch[0])):
            yield starts, batch
            starts, batch = [], []
        starts.append(start)
        batch.append(window)
    if batch:
        yield starts, batch


class _Stitcher:
    """Joins separated windows; everything before the newest window's start is final.

    The voices are tracked from the second window on, so that short recordings do without the tracker.
    """

    def __init__(self, speakers, sample_rate) -> None:
        self.speakers, self.sample_rate, self.tracker = speakers, sample_rate, None
        self.pending, self.begin = None, 0

    def add(self, start, output):
        """Add a window's output `[time, channels]`; yields what became final."""
        if self.pending is not None:
            overlap = self.begin + len(self.pending) - start
            if self.sample_rate is not None:
                output[:, : self.speakers] = output[:, self._order(output, overlap)]
            final = start - self.begin
            yield self.pending[:final]
            fade = _fade(overlap)[:, None]
            output[:overlap] = (1 - fade) * self.pending[final:] + fade * output[:overlap]
        self.pending, self.begin = output, start

    def _order(self, output, overlap):
        """Which of the output's sources continue the tracks."""
        if self.tracker is None:
            self.tracker = SpeakerTracker(self.speakers, self.sample_rate)
            self.tracker.follow(self._sources(self.pending), 0)
        return self.tracker.follow(self._sources(output), overlap)

    def _sources(self, output):
        return np.ascontiguousarray(output[:, : self.speakers].T)

    def finish(self):
        """Yields the rest."""
        if self.pending is not None:
            yield self.pending


def _fade(length):
    """Weights of the newer window: 0 near its start, 1 near the older one's end, where each lacks context."""
    return np.clip(np.linspace(-0.5, 1.5, length, dtype=np.float32), 0, 1)
