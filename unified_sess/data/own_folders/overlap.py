"""People, recordings and noises that would both train and be tested: told by name or by their sound."""

import hashlib
import json
import os
import re
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import soxr
from tqdm import tqdm

from unified_sess.data.own_folders.speech_folders import list_audio
from unified_sess.utils.audio.decoding import open_stream
from unified_sess.utils.errors import UserError
from unified_sess.utils.files import atomic_path

LIBRISPEECH = re.compile(r"(?<!\d)(\d+)-\d+-\d{4}(?!\d)")  # speaker-chapter-utterance, also within a mixture's name
HEAD_SECONDS = 1.6  # seconds at the beginning by which a recording is known again
RATE = 8000  # Hz, of the comparison
FRAME = 160  # samples, 20 ms
ENVELOPE_CORRELATION = 0.97  # correlation of the levels in dB: worth comparing the waves
WAVE_CORRELATION = 0.9  # correlation of the waves: the same recording, whatever its gain, rate and codec
LARGEST_LAG = 40  # samples (5 ms) that resampling or a codec may shift


def check_overlap(
    speech_folders: list, noise_folders: list, manifests: dict, record: str | os.PathLike
) -> tuple[list[str], str | None]:
    """Look for what both trains and is tested.

    Speakers are told by LibriSpeech's names. Where a name on either side tells none, the beginnings of the recordings
    are compared, whatever their gain, rate and codec. What was found is kept, and looked for again when a file changes.

    Arguments
    ---------
    speech_folders, noise_folders : list of str or Path
        What trains.
    manifests : dict of str to Manifest
        What does not, by part.
    record : str or Path
        JSON file that keeps the findings.

    Returns
    -------
    found : list of str
        A line a finding.
    note : str
        What could not be told; None where all speakers have names.
    """
    speech, noise = list(_files(speech_folders)), list(_files(noise_folders))
    held_out = {part: [row for row in manifest] for part, manifest in manifests.items()}
    stamp = _digest([*speech, *noise, *(row.mixture for rows in held_out.values() for row in rows)])
    record = Path(record)
    if record.is_file():
        kept = json.loads(record.read_text(encoding="utf-8"))
        if kept["stamp"] == stamp:
            return kept["found"], kept["note"]
    found, note = _look(speech, noise, held_out)
    with atomic_path(record) as temporary:
        Path(temporary).write_text(json.dumps({"stamp": stamp, "found": found, "note": note}), encoding="utf-8")
    return found, note


def _look(speech, noise, held_out):
    found, untold = [], not all(LIBRISPEECH.search(Path(path).stem) for path in speech)
    train = {speaker: path for path in speech for speaker in LIBRISPEECH.findall(Path(path).stem)}
    for part, rows in held_out.items():
        names = {speaker: row.id for row in rows for speaker in LIBRISPEECH.findall(row.id)}
        both = sorted(set(train) & set(names), key=int)
        if both:
            found.append(f"{len(both)} speakers of the {part} part, such as {both[0]} ({train[both[0]]})")
        untold = untold or any(len(LIBRISPEECH.findall(row.id)) < len(row.sources) for row in rows)
    if found:
        return found, None
    if untold:
        sources = {path: part for part, rows in held_out.items() for row in rows for path in row.sources}
        found += _same_sounds(speech, sources, "speech")
    noises = {row.noise: part for part, rows in held_out.items() for row in rows if row.noise}
    if noise and noises:
        found += _same_sounds(noise, noises, "noise")
    note = None
    if untold and not found:
        note = (
            f"names do not tell whether people of the {' and '.join(held_out)} parts also speak in the speech folder; none "
            "of those recordings is in it"
        )
    return found, note


def _same_sounds(training, held_out, kind):
    """Findings of recordings that are in both; `held_out` maps a path to its part."""
    ours, theirs = (_envelopes(paths, f"compare {kind}") for paths in (training, list(held_out)))
    if not ours or not theirs:
        return []
    names, table = list(theirs), np.stack(list(theirs.values()))
    findings = {}
    for path, envelope in ours.items():
        for number in np.flatnonzero(table @ envelope > ENVELOPE_CORRELATION):
            other = names[number]
            if held_out[other] not in findings and _same_wave(_head(path), _head(other)):
                findings[held_out[other]] = f"{kind} of the {held_out[other]} part ({path} is in {other})"
    return list(findings.values())


def _envelopes(paths, words):
    """The levels of the beginning of each recording that can be read and is not silent, by path."""

    def envelope(path):
        head = _head(path)
        return None if head is None else _envelope(head)

    with ThreadPoolExecutor(4) as pool:
        found = list(tqdm(pool.map(envelope, paths), total=len(paths), desc=words, leave=False))
    return {path: levels for path, levels in zip(paths, found, strict=True) if levels is not None}


def _head(path):
    """The beginning of a recording, `[samples]` at 8 kHz; None where it cannot be read, is silent or under 0.5 s."""
    try:
        stream = open_stream(path)
        blocks, wanted, parts = stream.blocks(2**15), round(HEAD_SECONDS * stream.sample_rate), []
        while sum(map(len, parts)) < wanted and (block := next(blocks, None)) is not None:
            parts.append(block.mean(1))
        signal = soxr.resample(np.concatenate(parts)[:wanted], stream.sample_rate, RATE) if parts else np.zeros(0)
    except (UserError, RuntimeError, OSError, ValueError):
        return None
    signal = signal - signal.mean() if len(signal) else signal
    if len(signal) < 25 * FRAME or not np.isfinite(signal).all() or np.abs(signal).max() < 1e-6:
        return None
    return np.pad(signal, (0, max(0, round(HEAD_SECONDS * RATE) - len(signal))))[: round(HEAD_SECONDS * RATE)].astype(
        np.float32
    )


def _envelope(head):
    """Levels of frames in dB, at most 40 dB under the loudest, as a unit vector without mean."""
    power = head[: len(head) // FRAME * FRAME].reshape(-1, FRAME).astype(np.float64).var(1)
    level = 10 * np.log10(np.maximum(power, power.max() * 1e-4))
    level = level - level.mean()
    return level / max(np.linalg.norm(level), 1e-9)


def _same_wave(one, other):
    """Whether two beginnings are one recording: their waves correlate at some small lag."""
    size = len(one) - 2 * LARGEST_LAG
    middle = one[LARGEST_LAG : LARGEST_LAG + size]
    scores = [
        abs(np.dot(middle, other[lag : lag + size]))
        / max(np.linalg.norm(middle) * np.linalg.norm(other[lag : lag + size]), 1e-9)
        for lag in range(2 * LARGEST_LAG + 1)
    ]
    return max(scores) > WAVE_CORRELATION


def _files(folders) -> Iterable[str]:
    return (os.path.join(folder, path) for folder in folders for path in list_audio(folder))


def _digest(paths):
    digest = hashlib.sha256()
    for path in paths:
        stat = os.stat(path)
        digest.update(f"{path} {stat.st_size} {stat.st_mtime_ns}\n".encode(errors="surrogateescape"))
    return digest.hexdigest()
