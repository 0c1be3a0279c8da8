"""The voices that lie in the package: half an hour of natural synthetic speech (its card is `voices/README.md`)."""

import csv
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile
import soxr

VOICES = Path(__file__).with_name("voices")


class Voice(NamedTuple):
    """A speaker: number, sex (F or M) and sound files of one sentence each."""

    number: int
    sex: str
    files: tuple[Path, ...]


@lru_cache
def read_voices() -> dict[str, list[Voice]]:
    """Voices of the parts `train`, `dev` and `test`, which share no voice, no voice of a blend and no sentence.

    Example
    -------
    >>> list(read_voices())
    ['train', 'dev', 'test']
    """
    with (VOICES / "table.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    numbers = {name: number for number, name in enumerate(dict.fromkeys(row["voice"] for row in rows))}
    parts: dict[str, list[Voice]] = {}
    for name, number in numbers.items():
        mine = [row for row in rows if row["voice"] == name]
        files = tuple(VOICES / row["file"] for row in mine)
        parts.setdefault(mine[0]["part"], []).append(Voice(number, mine[0]["sex"].upper(), files))
    return parts


def read_speech(path: Path, sample_rate: int) -> np.ndarray:
    """A sentence, float32 `[time]` at a rate in Hz."""
    signal, rate = soundfile.read(path, dtype="float32")
    return signal if rate == sample_rate else soxr.resample(signal, rate, sample_rate)
