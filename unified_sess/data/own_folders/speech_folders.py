"""Index folders of speech or noise once: speaker, length, loudness and voice activity of every file."""

import csv
import functools
import json
import logging
import os
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile

from unified_sess.data import mixing
from unified_sess.utils.audio import AUDIO_EXTENSIONS, sound_path
from unified_sess.utils.errors import UserError, writable_folder
from unified_sess.utils.files import append_lines
from unified_sess.utils.parallel import parallel_map

ACTIVITY_FRAME = 0.1  # seconds
VERSION = 2  # of the measures: an index of another version is measured again
ACTIVITY_RANGE = 20.0  # dB under the loudest frame that still counts as voice; breath and room are mostly softer
BLOCK = 60  # seconds of a long recording that are measured at a time, a whole number of activity frames
GATE = 10.0  # LU under the mean at which a block of a long recording no longer counts

logger = logging.getLogger(__name__)


class Recording(NamedTuple):
    """One measured file.

    path : relative to its folder.
    speaker : empty for noise.
    frames, sample_rate : length in samples at its own rate in Hz.
    loudness : LUFS.
    activity : `[stretches, 2]`, begin and end in seconds of what is not pause.
    """

    path: str
    speaker: str
    frames: int
    sample_rate: int
    loudness: float
    activity: np.ndarray


def list_audio(folder):
    """Audio files at any depth, also behind links, relative to the folder, sorted; hidden ones are left out."""
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
        files += [
            os.path.normpath(os.path.join(below, name))
            for name in names
            if name[0] != "." and os.path.splitext(name)[1].lower() in AUDIO_EXTENSIONS
        ]
    if not files:
        raise UserError(f"{folder} holds no audio ({', '.join(AUDIO_EXTENSIONS)})")
    return sorted(files)


def speaker_of(path, speakers=None):
    """Speaker of a relative path: from a table, from LibriSpeech's file names, else the first folder.

    Raises
    ------
    UserError
        When the path tells no speaker.
    """
    parts = path.split(os.sep)
    name = parts[-1]
    stem = os.path.splitext(name)[0]
    if speakers is not None:
        found = speakers.get(path) or speakers.get(name) or speakers.get(stem)
        if found is None:
            raise UserError(f"the speaker table has no row for {path}: add one, or move the file away")
        return found
    fields = stem.split("-")
    if len(parts) >= 3 and len(fields) == 3 and parts[-3:-1] == fields[:2]:
        return fields[0]
    if len(parts) < 2:
        raise UserError(f"{path} has no speaker folder: use one folder a speaker, or give a CSV with path,speaker")
    return parts[0]


def read_speakers(path):
    """Read a CSV of two columns, path and speaker, as a dictionary.

    A path is relative to the speech folder; a file name alone, with or without extension, will do where it is unique.

    Raises
    ------
    UserError
        Naming the file, and the row that cannot be used.
    """
    speakers = {}
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            rows = csv.DictReader(file)
            if not {"path", "speaker"} <= set(rows.fieldnames or ()):
                raise UserError(f"{path} is no speaker table: its first row must be path,speaker")
            for row in rows:
                name, speaker = (row["path"] or "").strip(), (row["speaker"] or "").strip()
                if not name or not speaker:
                    raise UserError(f"{path} row {rows.line_num}: no {'speaker' if name else 'path'}")
                name = os.path.normpath(name)
                if speakers.setdefault(name, speaker) != speaker:
                    raise UserError(
                        f"{path} row {rows.line_num}: {name} has the speakers {speakers[name]} and {speaker}"
                    )
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"cannot read the speaker table {path} ({reason}): give a CSV in UTF-8") from None
    if not speakers:
        raise UserError(f"{path} has no rows: name the speaker of every file")
    return speakers


def active_stretches(power):
    """First and last+1 frame of stretches whose power is within 20 dB of the greatest, flat `[2 * stretches]`."""
    active = power > max(power.max() * 10 ** (-ACTIVITY_RANGE / 10), 1e-12)
    return np.flatnonzero(np.diff(np.concatenate([[0], active.astype(int), [0]])))


def measure(folder, path):
    """Measure the first channel of a file, a minute at a time.

    Returns
    -------
    measured : list
        Frames, rate in Hz, loudness in LUFS (None of silence) and active stretches in tenths of a second, flat; None
        where the file cannot be read.
    """
    frames, powers, levels = 0, [], []
    try:
        with soundfile.SoundFile(sound_path(Path(folder) / path)) as file:
            rate = file.samplerate
            step = max(1, round(ACTIVITY_FRAME * rate))
            # Between blocks soundfile seeks, which harms MP3.
            size = -1 if file.format == "MP3" else round(BLOCK / ACTIVITY_FRAME) * step
            while len(block := file.read(size, dtype="float32", always_2d=True)):
                signal = block[:, 0]
                frames += len(signal)
                frames_of_block = np.pad(signal, (0, -len(signal) % step), mode="edge").reshape(-1, step)
                powers.append(frames_of_block.var(1))  # without a constant offset, which is no sound
                levels.append((len(signal), mixing.measure_loudness(signal, rate)))
    except (soundfile.SoundFileError, RuntimeError, OSError):
        return None
    if not frames or not all(np.isfinite(power).all() for power in powers):
        return None
    return [frames, rate, _mean_loudness(levels), active_stretches(np.concatenate(powers)).tolist()]


def _mean_loudness(levels):
    """Loudness of blocks `(frames, LUFS)` together: their mean power, without those far below it; None of silence."""
    frames, loudness = np.array([level for level in levels if np.isfinite(level[1])]).reshape(-1, 2).T
    if not len(frames):
        return None

    def mean(chosen):
        return 10 * np.log10(np.average(10 ** (loudness[chosen] / 10), weights=frames[chosen]))

    return float(mean(loudness > mean(loudness > -np.inf) - GATE))


def index_folder(folder, index_file, speakers=None, workers=1, noise=False):
    """Measure every file of a folder once and keep the measures in a file, by path, size and time of change.

    Arguments
    ---------
    folder : str or Path
        Speech or noise, any depth.
    index_file : str or Path
        JSON lines, made or completed here; a killed run goes on where it stopped.
    speakers : dict
        Speaker by path, from `read_speakers`; None derives speakers from the paths.
    noise : bool
        Noise has no speakers.

    Returns
    -------
    recordings : list of Recording
        Readable files that are not silent; a warning counts the others.

    Raises
    ------
    UserError
        When the folder holds nothing usable or a file tells no speaker.
    """
    files = list_audio(folder)
    names = {path: "" if noise else speaker_of(path, speakers) for path in files}
    stamps = {path: _stamp(os.path.join(folder, path)) for path in files}
    known = _read_index(index_file, stamps, names)
    new = [path for path in files if path not in known]
    if new:
        known |= _measure_new(folder, index_file, new, stamps, names, workers)
    found = [known[path] for path in files if known[path] is not None]
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
    """A `Recording`; None of an unreadable or silent file."""
    if measured is None or measured[2] is None or not measured[3]:
        return None
    activity = np.array(measured[3], np.float32).reshape(-1, 2) * np.float32(ACTIVITY_FRAME)
    return Recording(path, speaker, *measured[:3], activity)


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
    measured = {}
    with append_lines(index_file) as append:
        job = functools.partial(measure, folder)
        results = parallel_map(job, new, workers, f"measure {folder}")
        for path, result in zip(new, results, strict=True):
            append([path, stamps[path], result])
            measured[path] = _recording(path, names[path], result)
    return measured
