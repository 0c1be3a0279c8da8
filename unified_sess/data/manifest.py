"""Manifests: the CSV files that list the mixtures of a corpus, one a row.

They are in SpeechBrain's style. Paths begin with `$data_root`, so that a corpus can be moved.
"""

import csv
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from unified_sess.utils.errors import UserError
from unified_sess.utils.files import atomic_path

ROOT = "$data_root"


class Row(NamedTuple):
    """One mixture and the paths of its files.

    id : its name.
    frames : its length in samples.
    mixture : the noisy mixture.
    clean : the mixture without noise; None where a corpus has no such file, and it is the sum of `images`.
    sources : the targets, one a speaker.
    noise : the noise alone; None where a corpus has no such file.
    images : the reverberant images of the sources, of which the mixture is the sum; without a room the `sources` themselves.
    """

    id: str
    frames: int
    mixture: str
    clean: str | None
    sources: list[str]
    noise: str | None
    images: list[str]


class Manifest:
    """The rows of a manifest, by number.

    `$data_root` is replaced only in the row that is read, so that a manifest of a million rows takes little memory.

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
        self._image = "s{}_reverb_wav" if "s1_reverb_wav" in table.columns else "s{}_wav"
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
            images=[path(self._image.format(k + 1)) for k in range(self.num_spks)],
        )

    def spread(self, count: int | None) -> "Manifest":
        """A manifest of `count` rows, evenly spread over this one; itself where it has no more, or for None."""
        if count is None or count >= len(self):
            return self
        rows = [k * len(self) // count for k in range(count)]
        return Manifest(pd.DataFrame({name: values[rows] for name, values in self._columns.items()}), self.data_root)

    def __iter__(self) -> Iterator[Row]:
        return (self[index] for index in range(len(self)))


def columns(num_spks: int, reverberant: bool = False) -> list[str]:
    """Names of a manifest's columns, in order; a reverberant corpus also has those of the reverberant images."""
    names = ["ID", "duration", "frames", "sample_rate", "mix_wav", "mix_clean_wav"]
    names += [f"s{k + 1}_wav" for k in range(num_spks)] + ["noise_wav"]
    return names + [f"s{k + 1}_reverb_wav" for k in range(num_spks) if reverberant]


def write_manifest(path: str | Path, rows: Iterable[list], num_spks: int, reverberant: bool = False) -> None:
    """Write a manifest, whole or not at all.

    Arguments
    ---------
    path : str or Path
        The CSV file.
    rows : iterable of list
        The values of each row in the order of `columns`.
    num_spks, reverberant
        As in `columns`.
    """
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
