"""How long a sound file really is, and the levels of its channels."""

import collections
import math
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import numpy as np

from unified_sess.utils.audio.channels import Levels
from unified_sess.utils.audio.decoding import MediaStream, SoundStream, open_stream
from unified_sess.utils.errors import UserError

BLOCK = 10.0  # s of audio read at once
SAMPLES_AT_ONCE = 2**22  # of all channels together
LARGEST_SAMPLE = 1e10  # integers that were never scaled reach 2e9; far beyond, 32-bit networks overflow
KEPT_FILES = 4096  # files whose measures are kept


class AudioInfo(NamedTuple):
    """What a sound file holds.

    frames, sample_rate, channels : length in samples, Hz, count.
    subtype : depth or codec, libsndfile's name.
    missing : s that the header promises beyond them.
    """

    frames: int
    sample_rate: int
    channels: int
    subtype: str = "PCM_16"
    missing: float = 0.0

    @property
    def duration(self) -> float:
        """Duration in seconds."""
        return self.frames / self.sample_rate


def audio_info(path: str | os.PathLike, stream: int | None = None) -> AudioInfo:
    """Length, rate and channels of a sound file.

    The header of a WAV or FLAC is believed where it agrees with the file's size. All else is decoded to its end, once:
    the length is kept by path, size and time of change.

    Arguments
    ---------
    path : str or Path
        The file.
    stream : int
        Which audio stream of a container such as mp4, from 1.

    Raises
    ------
    UserError
        Naming the file, when it is missing, unreadable or holds no samples.
    """
    opened = open_stream(path, stream)
    if isinstance(opened, SoundStream) and opened.trusted and opened.frames > 0:
        return AudioInfo(opened.frames, opened.sample_rate, opened.channels, opened.subtype)
    return _measured(path, stream, opened)[0]


def measure_levels(
    path: str | os.PathLike, stream: int | None = None, progress: Callable[[float], object] | None = None
) -> tuple[AudioInfo, Levels]:
    """Decode a file to its end, once, for its true length and the levels of its channels.

    Arguments
    ---------
    path, stream
        As in `audio_info`.
    progress : callable
        Told of the seconds of every piece.

    Raises
    ------
    UserError
        Naming the file, also where samples are not finite or absurdly large.
    """
    info, levels, fault = _measured(path, stream, None, progress)
    if fault:
        raise UserError(fault)
    return info, levels


def read_blocks(
    path: str | os.PathLike, stream: int | None = None, opened: SoundStream | MediaStream | None = None
) -> Iterator[np.ndarray]:
    """Yields all samples of a file in pieces of some seconds `[time, channels]`, float32."""
    opened = opened or open_stream(path, stream)
    size = max(1024, min(math.ceil(BLOCK * opened.sample_rate), SAMPLES_AT_ONCE // opened.channels))
    return opened.blocks(size)


def of_size(blocks: Iterable[np.ndarray], size: int) -> Iterator[np.ndarray]:
    """Pieces of exactly `size` samples (the last one of fewer) from pieces `[time, channels]` of any size."""
    waiting: list[np.ndarray] = []
    count = 0
    for block in blocks:
        waiting.append(block)
        count += len(block)
        while count >= size:
            joined = np.concatenate(waiting)
            yield joined[:size]
            waiting, count = [joined[size:]], count - size
    if count:
        yield np.concatenate(waiting)


_known: collections.OrderedDict = collections.OrderedDict()
_lock = threading.Lock()


def _measured(path, stream, opened, progress=None):
    """Info, levels and what is wrong with the samples (or empty), from the kept ones where the file did not change."""
    stat = _stat(path)
    key = (os.path.abspath(path), stat, stream or 1)
    with _lock:
        if stat is not None and key in _known:
            _known.move_to_end(key)
            return _known[key]
    opened = opened or open_stream(path, stream)
    levels, fault = Levels(opened.channels), ""
    for block in read_blocks(path, stream, opened):
        begin = levels.frames / opened.sample_rate
        fault = fault or _fault(block, path, begin)
        with np.errstate(all="ignore"):
            levels.add(block)
        if progress is not None:
            progress(len(block) / opened.sample_rate)
    if not levels.frames:
        raise UserError(f"{path} holds no samples")
    info = AudioInfo(levels.frames, opened.sample_rate, opened.channels, opened.subtype, opened.missing)
    with _lock:
        _known[key] = info, levels, fault
        while len(_known) > KEPT_FILES:
            _known.popitem(last=False)
    return info, levels, fault


def _fault(block, path, begin):
    peak = max(-float(block.min()), float(block.max()))
    if not math.isfinite(peak):
        return f"{path} holds samples that are not finite (NaN or infinity) behind {begin:.0f} s: export it again"
    if peak > LARGEST_SAMPLE:
        return f"{path} holds samples of {peak:.0e}, where 1 is full scale: export it again"
    return ""


def _stat(path):
    try:
        stat = os.stat(path)
    except OSError:
        return None
    return stat.st_size, stat.st_mtime_ns
