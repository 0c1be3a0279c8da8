"""Look through a data folder for files that would harm a training."""

import functools
import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from unified_sess.data.own_folders.speech_folders import list_audio
from unified_sess.utils.audio import open_stream
from unified_sess.utils.errors import UserError
from unified_sess.utils.parallel import available_cores, parallel_map

SPLIT_WORDS = {
    "train": ("train", "training", "tr"),
    "dev": ("dev", "development", "valid", "validation", "val", "cv"),
    "test": ("test", "testing", "eval", "tt"),
}
ROLE = re.compile(r"mix_\w+|s\d+(_\w+)?|noise")  # folders of a corpus whose files belong together by name
MIN_SECONDS = 0.5
CLIPPED_RUN = 4  # so many samples in a row at full scale
FULL_SCALE = 32767 / 32768
FULL_SCALE_8_BIT = 127 / 128
SILENT_PEAK = 1e-4  # -80 dB of full scale
BLOCK = 2**16  # frames read at a time
SHOWN_NAMES = 5  # of each fault


def check_data(folder: str | os.PathLike, workers: int | None = None) -> dict[str, list[str]]:
    """Check every audio file under a folder.

    Returns
    -------
    report : dict
        Lists of names: `unreadable` (also with NaN), `truncated` (the header promises more; what there is can be used),
        `silent` (peak under -80 dB, whatever the constant
        offset), `clipped` (4 samples in a row at full scale), `mis-rated` (not the rate of its `wav8k`/`wav16k` folder,
        or not the most common one), `too short` (under 0.5 s), `unequal` (mixture, sources and noise of different
        lengths), `incomplete` (a mixture without a source or the reverse) and `leaking speakers` (see
        `leaking_speakers`).

    Raises
    ------
    UserError
        When the folder holds no audio.
    """
    files = list_audio(folder)
    job = functools.partial(_check_file, str(folder))
    results = parallel_map(job, files, workers or available_cores(), "check")
    found = dict(zip(files, results, strict=True))
    report: dict[str, list[str]] = {
        name: [] for name in ("unreadable", "truncated", "silent", "clipped", "mis-rated", "too short")
    }
    groups: defaultdict[str, Counter] = defaultdict(Counter)
    for path, (_, rate, _) in found.items():
        groups[_rate_group(path)][rate] += rate is not None
    for path, (faults, rate, _) in found.items():
        for fault in faults:
            report[fault].append(path)
        if rate is not None and rate != _expected_rate(path, groups):
            report["mis-rated"].append(f"{path} ({rate} Hz)")
    report["unequal"], report["incomplete"] = _misaligned({path: frames for path, (_, _, frames) in found.items()})
    report["leaking speakers"] = leaking_speakers(files)
    return report


def run_check(folder: str | os.PathLike, workers: int | None = None) -> int:
    """Print the faults with counts and first names; return the exit status, 1 where there are any."""
    report = check_data(folder, workers)
    for fault, names in report.items():
        if names:
            more = ", ..." if len(names) > SHOWN_NAMES else ""
            line = f"{len(names)} {fault}: {', '.join(names[:SHOWN_NAMES])}{more}"
            print(line.encode(errors="replace").decode())  # names on disk need not be UTF-8
    if any(report.values()):
        return 1
    print(f"{folder}: no faults found")
    return 0


def leaking_speakers(files: Iterable[str]) -> list[str]:
    """Speakers that occur in more than one split, with the splits.

    A split is a folder such as `train-360`, `dev`, `tt`. Speakers are read off LibriSpeech's and LibriMix's file
    names; elsewhere the first folder below the split is a speaker, unless the path is one of noise.
    """
    where = defaultdict(set)
    for path in files:
        parts = Path(path).parts
        place, split = next(((k, s) for k, s in enumerate(map(_split_of, parts[:-1])) if s), (None, None))
        if place is None or split is None:
            continue
        fields = [utterance.split("-") for utterance in Path(path).stem.split("_")]
        if len(fields) > 1 and len(fields[-1]) == 1 and fields[-1][0].isdigit():
            fields.pop()  # the number of a mixture, behind its utterances
        if all(len(f) == 3 and "".join(f).isdigit() for f in fields):
            for speaker, *_ in fields:
                where["", speaker].add(split)
        elif len(parts) > place + 2 and not ROLE.fullmatch(parts[place + 1]) and "noise" not in path.lower():
            where[os.path.join(*parts[:place], ""), parts[place + 1]].add(split)
    return [f"{name} ({', '.join(sorted(splits))})" for (_, name), splits in sorted(where.items()) if len(splits) > 1]


def _split_of(name):
    start = re.split("[-_]", name.lower())[0]
    return next((split for split, names in SPLIT_WORDS.items() if start in names), None)


def _misaligned(frames):
    """Mixtures whose files are of different lengths, and files that lack beside others of the same mixture."""
    mixtures, roles = defaultdict(dict), defaultdict(set)
    for path, length in frames.items():
        place, role, name = Path(path).parent.parent, Path(path).parent.name, Path(path).stem
        if ROLE.fullmatch(role):
            mixtures[place, name][role] = length
            roles[place].add(role)
    unequal, incomplete = [], []
    for (place, name), lengths in mixtures.items():
        if len(set(lengths.values()) - {None}) > 1:
            listed = ", ".join(f"{role} {length}" for role, length in sorted(lengths.items()))
            unequal.append(f"{place}/{name} ({listed} samples)")
        if missing := roles[place] - lengths.keys():
            incomplete.append(f"{place}/{name} (no {', '.join(sorted(missing))})")
    return unequal, incomplete


def _rate_group(path):
    return next((part for part in Path(path).parts if part in ("wav8k", "wav16k")), "")


def _expected_rate(path, groups):
    group = _rate_group(path)
    return {"wav8k": 8000, "wav16k": 16000}.get(group) or groups[group].most_common(1)[0][0]


def _check_file(folder, path):
    """Faults of one file, its rate and its frames (both None where it cannot be read)."""
    full = os.path.join(folder, path)
    lowest, highest, frames, clipped = np.inf, -np.inf, 0, False
    try:
        stream = open_stream(full)
        edge = FULL_SCALE_8_BIT if stream.subtype.endswith(("U8", "S8")) else FULL_SCALE
        run = np.zeros(CLIPPED_RUN - 1, bool)  # the end of the block before
        for block in stream.blocks(BLOCK):
            frames += len(block)
            low, high = float(block.min()), float(block.max())
            loudest = max(high, -low)
            if not np.isfinite(loudest):
                return ["unreadable"], None, None
            lowest, highest = min(lowest, low), max(highest, high)
            at_edge = np.concatenate([run, (np.abs(block) >= edge).any(1)]) if loudest >= edge else np.zeros(0, bool)
            clipped = clipped or _longest_run(at_edge) >= CLIPPED_RUN
            run = at_edge[1 - CLIPPED_RUN :]
    except (UserError, OSError):
        return ["unreadable"], None, None
    if not frames:
        return ["unreadable"], None, None
    found = {
        "truncated": stream.missing > 0,
        "silent": highest - lowest < 2 * SILENT_PEAK,
        "clipped": clipped,
        "too short": frames < MIN_SECONDS * stream.sample_rate,
    }
    return [name for name, there in found.items() if there], stream.sample_rate, frames


def _longest_run(flags):
    edges = np.flatnonzero(np.diff(np.concatenate([[0], flags.astype(int), [0]])))
    return int((edges[1::2] - edges[::2]).max(initial=0))
