"""Manifests: a corpus as a CSV file in SpeechBrain's style, with paths relative to `$data_root`."""

import csv
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from unified_sess.utils.errors import UserError
from unified_sess.utils.files import atomic_path

ROOT = "$data_root"


class Row(NamedTuple):
    """One mixture: frames is its length in samples, paths are those of files; clean and noise may be None.

    parts : the sources as the mixture holds them; in a reverberant corpus they are others than the dry `sources`.
    """

    id: str
    frames: int
    mixture: str
    clean: str
    sources: list
    noise: str
    parts: list


class Manifest:
    """Rows of a manifest, with paths expanded only when a row is read, so that a million rows stay small.

    Arguments
    ---------
    table : pandas.DataFrame
        Columns ID, duration, frames, sample_rate, mix_wav, mix_clean_wav, s1_wav, ..., noise_wav; in a reverberant
        corpus also s1_reverb_wav, ...
    data_root : str or Path
        What `$data_root` stands for.
    """

    def __init__(self, table: pd.DataFrame, data_root: str | Path) -> None:
        self.data_root = str(data_root)
        self.num_spks = sum(
            1 for name in table.columns if name[0] == "s" and name.endswith("_wav") and name[1:-4].isdigit()
        )
        self._part = "s{}_reverb_wav" if "s1_reverb_wav" in table.columns else "s{}_wav"
        self.frames = table["frames"].to_numpy()
        self._columns = {name: table[name].to_numpy() for name in table.columns}

    def __len__(self) -> int:
        return len(self.frames)

    def __getitem__(self, index: int) -> Row:
        def path(name):
            value = self._columns[name][index]
            return value.replace(ROOT, self.data_root, 1) if isinstance(value, str) and value else None

        return Row(
            id=str(self._columns["ID"][index]),
            frames=int(self.frames[index]),
            mixture=path("mix_wav"),
            clean=path("mix_clean_wav"),
            sources=[path(f"s{k + 1}_wav") for k in range(self.num_spks)],
            noise=path("noise_wav"),
            parts=[path(self._part.format(k + 1)) for k in range(self.num_spks)],
        )

    def __iter__(self) -> Iterator[Row]:
        return (self[index] for index in range(len(self)))


def columns(num_spks: int, reverberant: bool = False) -> list[str]:
    """Column names of a manifest, in order."""
    names = ["ID", "duration", "frames", "sample_rate", "mix_wav", "mix_clean_wav"]
    names += [f"s{k + 1}_wav" for k in range(num_spks)] + ["noise_wav"]
    return names + [f"s{k + 1}_reverb_wav" for k in range(num_spks) if reverberant]


def write_manifest(path: str | Path, rows: Iterable[list], num_spks: int, reverberant: bool = False) -> None:
    """Write rows (lists in the order of `columns`); the file appears whole or not at all."""
    with atomic_path(path) as temporary, open(temporary, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns(num_spks, reverberant))
        writer.writerows(rows)


def read_manifest(path: str | Path, data_root: str | Path) -> Manifest:
    """Open a manifest.

    Raises
    ------
    UserError
        Naming the file, when it is missing or not a manifest.
    """
    try:
        table = pd.read_csv(path, dtype={"ID": str}, keep_default_na=False, na_values=None)
        table["frames"] = table["frames"].astype("int64")
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"cannot read the manifest {path} ({error}): delete it, and it is made again") from None
    missing = [name for name in columns(0) if name not in table.columns]
    if missing:
        raise UserError(f"{path} is no manifest, it lacks the column {missing[0]}: delete it, and it is made again")
    return Manifest(table, Path(data_root))
