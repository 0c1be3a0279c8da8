"""Validation and test mixtures from the user's own folders, of speakers and noises that training never hears."""

import hashlib
import os
import shutil
from pathlib import Path

import soundfile

from unified_sess.data.dynamic_mixing import DynamicMixingDataset
from unified_sess.errors import UserError

SHARES = {"dev": 0.1, "test": 0.1}  # of the speakers and of the noises
MIXTURES = {"dev": 60, "test": 60}


def part_of(name):
    """Part that a speaker or noise belongs to, `train`, `dev` or `test`: a function of its name alone."""
    place = int(hashlib.sha256(name.encode()).hexdigest()[:8], 16) / 2**32
    for part, share in SHARES.items():
        if place < share:
            return part
        place -= share
    return "train"


def in_part(names, part, needed):
    """Those of the names that belong to a part; with few names, their order decides, so that no part stays empty.

    Arguments
    ---------
    names : iterable of str
    part : str
        train, dev or test.
    needed : int
        Names that every part needs at least.

    Raises
    ------
    UserError
        When there are fewer than three parts need.
    """
    names = sorted(set(names), key=lambda name: hashlib.sha256(name.encode()).hexdigest())
    if len(names) < 3 * needed:
        raise UserError(
            f"{len(names)} speakers or noises are too few for training, validation and test parts of {needed} each: "
            "add recordings, or give --data_folder for validation and test"
        )
    by_hash = {p: {n for n in names if part_of(n) == p} for p in ("train", "dev", "test")}
    if min(map(len, by_hash.values())) >= needed:
        return by_hash[part]
    parts = {"dev": names[:needed], "test": names[needed : 2 * needed], "train": names[2 * needed :]}
    return set(parts[part])


def write_held_out(folder, make_dataset, sample_rate):
    """Write the dev and test mixtures as a corpus in LibriMix layout, once.

    Arguments
    ---------
    folder : Path
        Appears whole or not at all.
    make_dataset : callable
        `dev` or `test` to its `DynamicMixingDataset`.
    sample_rate : int
        In Hz.
    """
    folder = Path(folder)
    if folder.is_dir():
        return folder
    making = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    try:
        for part, count in MIXTURES.items():
            dataset: DynamicMixingDataset = make_dataset(part)
            for index in range(count):
                item = dataset[(0, index, None)]
                signals = {f"s{k + 1}": item["sources"][:, k] for k in range(item["sources"].shape[1])}
                signals |= {"mix_clean": item["clean"], "mix_both": item["mixture"]}
                for kind, signal in signals.items():
                    path = making / f"wav{sample_rate // 1000}k" / "min" / part / kind / f"{index:03d}.wav"
                    path.parent.mkdir(parents=True, exist_ok=True)
                    soundfile.write(path, signal, sample_rate, subtype="FLOAT")
        os.replace(making, folder)
    except BaseException:
        shutil.rmtree(making, ignore_errors=True)
        raise
    return folder
