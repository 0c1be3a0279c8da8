"""Index folders of speech or noise once: speaker, length, loudness and voice activity of every file."""

import functools
import json
import logging
import os
from pathlib import Path
from typing import NamedTuple

import numpy as np

from unified_sess.data import mixing
from unified_sess.data.own_folders.speaker_tables import speaker_of
from unified_sess.utils.audio import (
    AUDIO_EXTENSIONS,
    Channel,
    Levels,
    choose_channel,
    is_audio,
    measure_levels,
    of_size,
    open_stream,
    read_audio,
    read_blocks,
)
from unified_sess.utils.errors import UserError, writable_folder
from unified_sess.utils.files import append_lines
from unified_sess.utils.parallel import parallel_map

ACTIVITY_FRAME = 0.1  # seconds
VERSION = 3  # of the measures: an index of another version is measured again
ACTIVITY_RANGE = 20.0  # dB under the loudest frame that still counts as voice; breath and room are mostly softer
BLOCK = 60  # seconds of a long recording that are measured at a time, a whole number of activity frames
MISSING_TOLERANCE = 0.1  # s that a file may lack without a word
GATE = 10.0  # LU under the mean at which a block of a long recording no longer counts

logger = logging.getLogger(__name__)


class IndexedRecording(NamedTuple):
    """One measured file.

    path : relative to its folder.
    speaker : empty for noise.
    frames, sample_rate : length in samples at its own rate in Hz.
    loudness : LUFS.
    activity : `[segments, 2]`, begin and end in seconds of the voiced segments.
    channel : the one that is heard, from 0; None is the mean of all.
    offset : constant that is taken out of it.
    folder : that of `path`.
    """

    path: str
    speaker: str
    frames: int
    sample_rate: int
    loudness: float
    activity: np.ndarray
    channel: int | None = 0
    offset: float = 0.0
    folder: str = ""


def list_audio(folder: str | os.PathLike) -> list[str]:
    """Audio files at any depth, also behind links, relative to the folder, sorted; hidden ones are left out.

    Raises
    ------
    UserError
        Where there is no such folder, one inside cannot be read, or nothing in it is audio.
    """
    folder = str(folder)
    if not os.path.isdir(folder):
        raise UserError(f"there is no folder {folder}")

    def refuse(error):
        raise UserError(f"cannot look into the folder {error.filename} ({error.strerror})")

    files, visited = [], set()
    for place, inside, names in os.walk(folder, onerror=refuse, followlinks=True):
        real = os.path.realpath(place)
        if real in visited:  # a link to a folder above itself
            inside.clear()
            continue
        visited.add(real)
        inside[:] = [name for name in inside if name[0] != "."]
        below = os.path.relpath(place, folder)
        files += [os.path.normpath(os.path.join(below, name)) for name in names if name[0] != "." and is_audio(name)]
    if not files:
        raise UserError(f"{folder} holds no audio ({', '.join(AUDIO_EXTENSIONS)})")
    return sorted(files)


def voiced_segments(power: np.ndarray) -> np.ndarray:
    """First and last+1 frame of segments whose power is within 20 dB of the greatest, flat `[2 * segments]`."""
    active = power > max(power.max() * 10 ** (-ACTIVITY_RANGE / 10), 1e-12)
    return np.flatnonzero(np.diff(np.concatenate([[0], active.astype(int), [0]])))


def measure(folder: str | os.PathLike, path: str) -> list | None:
    """Measure a file, a minute at a time: the channel that separation would take, without its constant offset.

    Returns
    -------
    measured : list
        Frames, rate in Hz, loudness in LUFS (None of silence), voiced segments in tenths of a second, flat, channel
        (None is the mean), offset and missing seconds; None where the file cannot be read.
    """
    full = Path(folder) / path
    try:
        stream = open_stream(full)
        several = stream.channels > 1  # which one to take is known after a first look at all of it
        levels = measure_levels(full)[1] if several else Levels(1)
        chosen = choose_channel(levels, path=path).channel
        powers, loudness = [], []
        step = max(1, round(ACTIVITY_FRAME * stream.sample_rate))
        for block in of_size(read_blocks(full, opened=stream), round(BLOCK / ACTIVITY_FRAME) * step):
            if not np.isfinite(block).all():
                return None
            if not several:
                levels.add(block)
            signal = block.mean(axis=1) if chosen is None else block[:, chosen]
            frames_of_block = np.pad(signal, (0, -len(signal) % step), mode="edge").reshape(-1, step)
            powers.append(frames_of_block.var(1))  # without a constant offset, which is no sound
            loudness.append((len(signal), mixing.measure_loudness(signal, stream.sample_rate)))
    except (UserError, OSError):
        return None
    if not levels.frames:
        return None
    choice = choose_channel(levels, path=path)
    segments = voiced_segments(np.concatenate(powers)).tolist()
    mean = _mean_loudness(loudness)
    return [levels.frames, stream.sample_rate, mean, segments, choice.channel, choice.offset, stream.missing]


def read_recording(recording: IndexedRecording, start: int, stop: int) -> np.ndarray:
    """Frames `start` to `stop` (or the end) of a recording's channel, without its offset, float32 `[time]`.

    Raises
    ------
    UserError
        Naming the file, when it cannot be read or has changed.
    """
    path = os.path.join(recording.folder, recording.path)
    channel: Channel = "mean" if recording.channel is None else recording.channel + 1
    try:
        signal, _ = read_audio(path, start, min(stop, recording.frames), recording.sample_rate, channel)
    except UserError as error:
        raise UserError(f"{error}: was it changed after the training began? Run the same command again") from None
    return signal - np.float32(recording.offset) if recording.offset else signal


def _mean_loudness(levels):
    """Loudness of blocks `(frames, LUFS)` together: their mean power, without those far below it; None of silence."""
    frames, loudness = np.array([level for level in levels if np.isfinite(level[1])]).reshape(-1, 2).T
    if not len(frames):
        return None

    def mean(chosen):
        return 10 * np.log10(np.average(10 ** (loudness[chosen] / 10), weights=frames[chosen]))

    return float(mean(loudness > mean(loudness > -np.inf) - GATE))


def index_folder(
    folder: str | os.PathLike,
    index_file: str | os.PathLike,
    speakers: dict[str, str] | None = None,
    workers: int = 1,
    noise: bool = False,
) -> list[IndexedRecording]:
    """Measure every file of a folder once and keep the measures in a file, by path, size and time of change.

    Arguments
    ---------
    folder : str or Path
        Speech or noise, any depth.
    index_file : str or Path
        JSON lines, made or completed here; a killed run goes on where it stopped.
    speakers : dict
        Speaker by path, from `read_speakers`; None derives speakers from the paths.
    workers : int
        Processes that measure.
    noise : bool
        Noise has no speakers.

    Returns
    -------
    recordings : list of IndexedRecording
        Readable files that are not silent; a warning counts the others.

    Raises
    ------
    UserError
        When the folder holds nothing usable or a file tells no speaker.
    """
    files = list_audio(folder)
    names = {path: "" if noise else speaker_of(path, speakers, folder) for path in files}
    stamps = {path: _stamp(os.path.join(folder, path)) for path in files}
    known = _read_index(index_file, stamps, names)
    new = [path for path in files if path not in known]
    if new:
        known |= _measure_new(folder, index_file, new, stamps, names, workers)
    found = [known[path]._replace(folder=str(folder)) for path in files if known[path] is not None]
    if new and len(found) < len(files):
        left = [path for path in files if known[path] is None]
        counts = f"{len(left)} of {len(files)} files are unreadable or silent"
        logger.warning("%s: %s and left out, first %s", folder, counts, left[0])
    if not found:
        raise UserError(f"{folder} holds no usable recording: all {len(files)} are unreadable or silent")
    return found


def _stamp(path):
    try:
        stat = os.stat(path)
    except OSError:  # a link to nowhere; it will be unreadable
        return None
    return [stat.st_size, stat.st_mtime_ns, VERSION]


def _recording(path, speaker, measured):
    """An `IndexedRecording`; None of an unreadable or silent file."""
    if measured is None or measured[2] is None or not measured[3]:
        return None
    activity = np.array(measured[3], np.float32).reshape(-1, 2) * np.float32(ACTIVITY_FRAME)
    return IndexedRecording(path, speaker, *measured[:3], activity, *measured[4:6])


def _read_index(index_file, stamps, names):
    """Recordings by path of the files that did not change since they were measured."""
    known = {}
    if not Path(index_file).exists():
        return known
    with open(index_file, encoding="utf-8", errors="replace") as file:
        for line in file:
            try:
                path, stamp, measured = json.loads(line)
                if stamps.get(path) == stamp:
                    known[path] = _recording(path, names[path], measured)
            except (ValueError, TypeError, IndexError):  # the line that was being written when a run was killed
                continue
    return known


def _measure_new(folder, index_file, new, stamps, names, workers):
    """Measure files, and add them to the index one by one."""
    writable_folder(Path(index_file).parent)
    measured, truncated, one_sided = {}, [], []
    with append_lines(index_file) as append:
        job = functools.partial(measure, folder)
        results = parallel_map(job, new, workers, f"measure {folder}")
        for path, result in zip(new, results, strict=True):
            append([path, stamps[path], result])
            measured[path] = _recording(path, names[path], result)
            if result is not None and result[-1] > MISSING_TOLERANCE:
                truncated.append(f"{path} ({result[-1]:.1f} s)")
            if result is not None and result[4]:
                one_sided.append(f"{path} (channel {result[4] + 1})")
    if truncated:
        logger.warning("%s: %d files lack a part, what there is trains: %s", folder, len(truncated), truncated[0])
    if one_sided:
        said = "%s: %d files have their sound in one channel, which is taken: %s"
        logger.info(said, folder, len(one_sided), one_sided[0])
    return measured
