"""Look through a data folder for files that would harm a training."""

import functools
import os
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import soundfile

from unified_sess.audio import audio_info
from unified_sess.data.librimix_generation import parallel_map
from unified_sess.data.speech_folders import list_audio
from unified_sess.errors import UserError

SPLITS = ("train", "dev", "valid", "test", "tr", "cv", "tt")
MIN_SECONDS = 0.5
CLIPPED_RUN = 4  # so many samples in a row at full scale
SILENT_PEAK = 1e-4  # -80 dB of full scale
SHOWN = 5


def check_data(folder, workers=None):
    """Check every audio file under a folder.

    Returns
    -------
    report : dict
        `unreadable`, `silent`, `clipped`, `mis-rated` (not the most common rate of its `wav8k`/`wav16k` folder, or
        of the whole), `too short` (under 0.5 s) and `leaking speakers`: lists of names.

    Raises
    ------
    UserError
        When the folder holds no audio.
    """
    files = list_audio(folder)
    job = functools.partial(_check_file, str(folder))
    found = list(parallel_map(job, files, workers or len(os.sched_getaffinity(0)), "check"))
    report = {name: [] for name in ("unreadable", "silent", "clipped", "mis-rated", "too short")}
    groups = defaultdict(Counter)
    for path, (_, rate) in zip(files, found):
        groups[_rate_group(path)][rate] += rate is not None
    for path, (faults, rate) in zip(files, found):
        for fault in faults:
            report[fault].append(path)
        if rate is not None and rate != _expected_rate(path, groups):
            report["mis-rated"].append(f"{path} ({rate} Hz)")
    report["leaking speakers"] = leaking_speakers(files)
    return report


def run_check(folder, workers=None):
    """Print the faults with counts and first names; return the exit status, 1 where there are any."""
    report = check_data(folder, workers)
    for fault, names in report.items():
        if names:
            more = ", ..." if len(names) > SHOWN else ""
            print(f"{len(names)} {fault}: {', '.join(names[:SHOWN])}{more}")
    if any(report.values()):
        return 1
    print(f"{folder}: no faults found")
    return 0


def leaking_speakers(files):
    """Speakers that occur in more than one split, with the splits; speakers are read off LibriSpeech-style names."""
    where = defaultdict(set)
    for path in files:
        split = _split_of(path)
        if split is None:
            continue
        for utterance in Path(path).stem.split("_"):
            parts = utterance.split("-")
            if len(parts) == 3 and all(part.isdigit() for part in parts):
                where[parts[0]].add(split)
    return [f"{speaker} ({', '.join(sorted(splits))})" for speaker, splits in sorted(where.items()) if len(splits) > 1]


def _split_of(path):
    kinds = {"tr": "train", "cv": "dev", "valid": "dev", "tt": "test"}
    for part in Path(path).parts[:-1]:
        name = part.split("-")[0]
        if name in SPLITS:
            return kinds.get(name, name)
    return None


def _rate_group(path):
    return next((part for part in Path(path).parts if part in ("wav8k", "wav16k")), "")


def _expected_rate(path, groups):
    group = _rate_group(path)
    return {"wav8k": 8000, "wav16k": 16000}.get(group) or groups[group].most_common(1)[0][0]


def _check_file(folder, path):
    """Faults of one file and its rate (None where it cannot be read)."""
    full = str(Path(folder) / path)
    try:
        audio_info(full)
        signal, rate = soundfile.read(full, dtype="float32", always_2d=True)
    except (UserError, soundfile.SoundFileError, RuntimeError, OSError):
        return ["unreadable"], None
    if not np.isfinite(signal).all():
        return ["unreadable"], rate
    faults = []
    size = np.abs(signal).max(1)
    if size.max() < SILENT_PEAK:
        faults.append("silent")
    at_edge = np.concatenate([[0], (size >= 32767 / 32768).astype(int), [0]])
    edges = np.flatnonzero(np.diff(at_edge))
    if len(edges) and (edges[1::2] - edges[::2]).max() >= CLIPPED_RUN:
        faults.append("clipped")
    if len(signal) < MIN_SECONDS * rate:
        faults.append("too short")
    return faults, rate
