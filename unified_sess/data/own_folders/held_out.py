"""Validation and test mixtures from the user's own folders, of speakers and noises that training never hears."""

import dataclasses
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path

import soundfile
from tqdm import tqdm

from unified_sess.data.dynamic_mixing import DynamicMixingDataset
from unified_sess.utils.errors import UserError

SHARES = {"dev": 0.1, "test": 0.1}  # of the speakers and of the noises
MIXTURES = {"dev": 60, "test": 60}
MADE_FROM = "made_from.json"


def part_of(name: str) -> str:
    """Part that a speaker or noise belongs to, `train`, `dev` or `test`: a function of its name alone."""
    place = int(hashlib.sha256(name.encode()).hexdigest()[:8], 16) / 2**32
    for part, share in SHARES.items():
        if place < share:
            return part
        place -= share
    return "train"


def in_part(names: Iterable[str], part: str, needed: int, kind: str = "speaker") -> set[str]:
    """Those of the names that belong to a part; with few names, their order decides, so that no part stays empty.

    Arguments
    ---------
    names : iterable of str
    part : str
        train, dev or test.
    needed : int
        Names that every part needs at least.
    kind : str
        What is named, for the error.

    Raises
    ------
    UserError
        When there are fewer than three parts need.
    """
    names = sorted(set(names), key=lambda name: hashlib.sha256(name.encode()).hexdigest())
    if len(names) < 3 * needed:
        raise UserError(
            f"too few {kind}s ({len(names)}) for training, validation and test parts of {needed} each: "
            "add recordings, or give --data_folder for validation and test"
        )
    by_hash = {p: {n for n in names if part_of(n) == p} for p in ("train", "dev", "test")}
    if min(map(len, by_hash.values())) >= needed:
        return by_hash[part]
    parts = {"dev": names[:needed], "test": names[needed : 2 * needed], "train": names[2 * needed :]}
    return set(parts[part])


def write_held_out(folder: str | Path, make_dataset: Callable[[str], DynamicMixingDataset], sample_rate: int) -> Path:
    """Write the dev and test mixtures as a corpus in LibriMix layout, once.

    Arguments
    ---------
    folder : Path
        Appears whole or not at all.
    make_dataset : callable
        `dev` or `test` to its `DynamicMixingDataset`.
    sample_rate : int
        In Hz.

    Raises
    ------
    UserError
        When the folder was made from other recordings or settings: training might hear its speakers.
    """
    folder = Path(folder)
    if folder.is_file():
        raise UserError(f"{folder} is a file, where a folder would be made: give another one")
    datasets = {part: make_dataset(part) for part in MIXTURES}
    made_from = json.dumps({part: fingerprint(dataset) for part, dataset in datasets.items()})
    if folder.is_dir():
        record = folder / MADE_FROM
        if not record.is_file() or record.read_text(encoding="utf-8") != made_from:
            raise UserError(
                f"{folder} was made from other recordings or settings: give another output folder, or delete it to make "
                "it again"
            )
        return folder
    making = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(making, ignore_errors=True)  # of a run that was killed
    try:
        for part, dataset in datasets.items():
            for index in tqdm(range(MIXTURES[part]), desc=f"mix {part}", leave=False):
                item = dataset[(0, index, None)]
                signals = {f"s{k + 1}": item["sources"][:, k] for k in range(item["sources"].shape[1])}
                signals |= {"mix_clean": item["clean"], "mix_both": item["mixture"]}
                for kind, signal in signals.items():
                    path = making / f"wav{sample_rate // 1000}k" / "min" / part / kind / f"{index:03d}.wav"
                    path.parent.mkdir(parents=True, exist_ok=True)
                    soundfile.write(path, signal, sample_rate, subtype="FLOAT")
        (making / MADE_FROM).write_text(made_from, encoding="utf-8")
        os.replace(making, folder)
    except BaseException as error:
        shutil.rmtree(making, ignore_errors=True)
        if isinstance(error, soundfile.SoundFileError):
            raise UserError(f"cannot write in {folder.parent} ({error}): is the disk full?") from None
        raise
    return folder


def fingerprint(dataset: DynamicMixingDataset) -> str:
    """Everything that a part's mixtures are a function of, as a digest."""
    recordings = [[r.path, r.speaker, r.frames] for r in dataset.speech.recordings + dataset.noises.recordings]
    settings = [dataset.seed, dataset.sample_rate, dataset.num_spks, dataset.length, dataset.speed_factors]
    if dataset.scenes is not None:
        settings.append(dataclasses.asdict(dataset.scenes.options))
    return hashlib.sha256(json.dumps([recordings, settings]).encode()).hexdigest()
