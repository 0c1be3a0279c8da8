"""Index folders of speech or noise once: speaker, length, loudness and voice activity of every file."""

import csv
import functools
import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile

from unified_sess.audio import AUDIO_EXTENSIONS
from unified_sess.data import mixing
from unified_sess.data.librimix_generation import parallel_map
from unified_sess.errors import UserError
from unified_sess.files import atomic_path

ACTIVITY_FRAME = 0.1  # seconds
ACTIVITY_RANGE = 30.0  # dB under the loudest frame that still counts as voice


class Recording(NamedTuple):
    """One measured file: path relative to its folder, speaker, frames, Hz, LUFS, peak and active stretches in s."""

    path: str
    speaker: str
    frames: int
    sample_rate: int
    loudness: float
    peak: float
    activity: list


def list_audio(folder):
    """Audio files at any depth, relative to the folder, sorted."""
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"there is no folder {folder}")
    files = sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.suffix.lower() in AUDIO_EXTENSIONS)
    if not files:
        raise UserError(f"{folder} holds no audio ({', '.join(AUDIO_EXTENSIONS)})")
    return files


def speaker_of(path, speakers=None):
    """Speaker of a relative path: from a table, from LibriSpeech's file names, else the first folder.

    Raises
    ------
    UserError
        When the path tells no speaker.
    """
    path = Path(path)
    if speakers is not None:
        found = speakers.get(str(path)) or speakers.get(path.name) or speakers.get(path.stem)
        if found is None:
            raise UserError(f"the speaker table has no row for {path}")
        return found
    parts = path.stem.split("-")
    if len(path.parts) >= 3 and len(parts) == 3 and path.parts[-3:-1] == tuple(parts[:2]):
        return parts[0]
    if len(path.parts) < 2:
        raise UserError(f"{path} has no speaker folder: use one folder a speaker, or give a CSV with path,speaker")
    return path.parts[0]


def read_speakers(path):
    """Read a CSV of two columns, path and speaker, as a dictionary."""
    try:
        with open(path, encoding="utf-8", newline="") as file:
            return {row["path"]: row["speaker"] for row in csv.DictReader(file)}
    except (OSError, KeyError) as error:
        raise UserError(f"cannot read the speaker table {path} ({error}): it needs the columns path,speaker") from None


def voice_activity(signal, sample_rate):
    """Stretches `[start, stop]` in seconds whose level is within 30 dB of the loudest 0.1 s."""
    step = max(1, int(ACTIVITY_FRAME * sample_rate))
    padded = np.pad(signal, (0, -len(signal) % step))
    power = np.square(padded.reshape(-1, step)).mean(1)
    active = power > max(power.max() * 10 ** (-ACTIVITY_RANGE / 10), 1e-12)
    edges = np.flatnonzero(np.diff(np.concatenate([[0], active.astype(int), [0]])))
    return [[round(a * ACTIVITY_FRAME, 3), round(b * ACTIVITY_FRAME, 3)] for a, b in edges.reshape(-1, 2).tolist()]


def measure(folder, path):
    """Measure one file; returns None where it cannot be read."""
    try:
        signal, rate = soundfile.read(str(Path(folder) / path), dtype="float32", always_2d=True)
    except (soundfile.SoundFileError, RuntimeError, OSError):
        return None
    signal = signal[:, 0]
    if not len(signal) or not np.isfinite(signal).all():
        return None
    peak = float(np.abs(signal).max())
    loudness = mixing.measure_loudness(signal, rate)
    return [path, len(signal), rate, loudness, peak, voice_activity(signal, rate)]


def index_folder(folder, index_file, speakers=None, workers=1, noise=False):
    """Measure every file of a folder once and keep the measures in a file, by path, size and time of change.

    Arguments
    ---------
    folder : str or Path
        Speech or noise, any depth.
    index_file : str or Path
        JSON lines, made or completed here.
    speakers : dict
        Speaker by path, from `read_speakers`; None derives speakers from the paths.
    noise : bool
        Noise has no speakers.

    Returns
    -------
    recordings : list of Recording
        Readable files that are not silent.

    Raises
    ------
    UserError
        When the folder holds nothing usable or a file tells no speaker.
    """
    files = list_audio(folder)
    names = {path: "" if noise else speaker_of(path, speakers) for path in files}
    stats = {path: (Path(folder) / path).stat() for path in files}
    stamps = {path: [stat.st_size, stat.st_mtime_ns] for path, stat in stats.items()}
    known = {}
    if Path(index_file).exists():
        for line in Path(index_file).read_text(encoding="utf-8").splitlines():
            path, stamp, measured = json.loads(line)
            if stamps.get(path) == stamp:
                known[path] = measured
    new = [path for path in files if path not in known]
    if new:
        known |= dict(zip(new, parallel_map(functools.partial(measure, folder), new, workers, f"measure {folder}")))
        Path(index_file).parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(index_file) as temporary, open(temporary, "w", encoding="utf-8") as file:
            file.writelines(json.dumps([path, stamps[path], known[path]]) + "\n" for path in files)
    found = [Recording(path, names[path], *known[path][1:]) for path in files if known[path]]
    found = [recording for recording in found if recording.activity and np.isfinite(recording.loudness)]
    if not found:
        raise UserError(f"{folder} holds no usable recording: all are unreadable or silent")
    return found
