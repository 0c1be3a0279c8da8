"""Make LibriMix folders from rows that name the sources, the noise and their gains.

Folders, names and signals are those of the public generator (github.com/JorisCos/LibriMix).
"""

import functools
import io
import json
import os
import wave
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from unified_sess.data import mixing
from unified_sess.data.librimix.sources import RATE, check_files, read_row
from unified_sess.utils.errors import UserError
from unified_sess.utils.files import append_lines, atomic_path
from unified_sess.utils.parallel import parallel_map

TYPES = ("mix_clean", "mix_both", "mix_single")


def generate_split(
    rows: list[dict],
    speech_folder: str | Path,
    noise_folder: str | Path,
    output: str | Path,
    split: str,
    n_src: int,
    freqs: Sequence[str],
    modes: Sequence[str],
    types: Sequence[str],
    workers: int,
) -> None:
    """Write the mixtures of one split and their metadata; what an earlier, killed run made is kept.

    Arguments
    ---------
    rows : list of dict
        Rows in the form of the public metadata.
    speech_folder, noise_folder : str or Path
        What the paths of the rows are relative to.
    output : str or Path
        The `Libri<n_src>Mix` folder.
    split : str
        Such as `train-100`.
    n_src : int
        Speakers of a mixture.
    freqs, modes, types : list of str
        Of `8k` and `16k`; `min` and `max`; `TYPES`.
    workers : int
        Processes that mix.

    Raises
    ------
    UserError
        Naming the row that cannot be made, or files that are missing or of other metadata.
    """
    output, types = Path(output), list(types)
    check_files(rows, speech_folder, noise_folder, n_src)
    subfolders = [f"s{k + 1}" for k in range(n_src)] + types + (["noise"] if types != ["mix_clean"] else [])
    job: dict[str, Any] = {"speech": str(speech_folder), "noise": str(noise_folder), "out": str(output), "split": split}
    job |= {"n_src": n_src, "freqs": list(freqs), "modes": list(modes), "types": types, "subfolders": subfolders}
    found = _prepare_folders(job, {f"{row['mixture_ID']}.wav" for row in rows})
    # The journal is what is done: one line a mixture, added once all its files are whole.
    journal = output / f".made-{split}.jsonl"
    done = _read_journal(journal)
    settings = [n_src, job["freqs"], job["modes"], types]
    keys = [zlib.crc32(json.dumps([settings, row], sort_keys=True, default=str).encode()) for row in rows]
    results = [done[row["mixture_ID"]][1] if done.get(row["mixture_ID"], [None])[0] == key else None
               for row, key in zip(rows, keys)]  # fmt: skip
    left = [k for k, row in enumerate(rows) if results[k] is None or f"{row['mixture_ID']}.wav" not in found]
    with append_lines(journal) as append:
        make = functools.partial(_make_mixture, job)
        for k, result in zip(left, parallel_map(make, [rows[k] for k in left], workers, split), strict=True):
            results[k] = result
            append([rows[k]["mixture_ID"], keys[k], result])
    _write_metadata(job, [row["mixture_ID"] for row in rows], results)


def _prepare_folders(job, names):
    """Make the folders, remove what a killed run left half-written; return the names that are in all of them."""
    found = set(names)
    for freq in job["freqs"]:
        for mode in job["modes"]:
            place = Path(job["out"]) / f"wav{freq}" / mode
            (place / "metadata").mkdir(parents=True, exist_ok=True)
            for subfolder in job["subfolders"]:
                folder = place / job["split"] / subfolder
                folder.mkdir(parents=True, exist_ok=True)
                inside = set(os.listdir(folder))
                for name in [name for name in inside if name.startswith(".") and name.endswith(".tmp.wav")]:
                    (folder / name).unlink(missing_ok=True)
                other = sorted(name for name in inside - names if not name.startswith("."))
                if other:
                    raise UserError(
                        f"{folder} holds {len(other)} files that the metadata does not name, first {other[0]}: "
                        f"give another --output or delete {place / job['split']}"
                    )
                found &= inside
    return found


def _read_journal(path):
    """Key and result of each mixture by its ID; what was written last counts."""
    done = {}
    if path.exists():
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                name, key, result = json.loads(line)
            except (ValueError, TypeError):  # the line that was being written when the run was killed
                continue
            done[name] = key, result
    return done


def _make_mixture(job, row):
    """Write every file of one row; return its lengths and ratios for the metadata."""
    n_src, types = job["n_src"], job["types"]
    try:
        signals = read_row(row, job["speech"], job["noise"], n_src, shortest=job["modes"] == ["min"])
    except UserError as error:
        raise UserError(f"row {row['mixture_ID']}: {error}") from None
    gains = [row[f"source_{k + 1}_gain"] for k in range(n_src)] + [row["noise_gain"]]
    for samples, gain in zip(signals, gains):
        samples *= np.float32(gain)
    entries = {}
    for freq in job["freqs"]:
        rate = int(freq[:-1]) * 1000
        resampled = [mixing.decimate(s, RATE // rate) for s in signals]
        for mode in job["modes"]:
            fitted = mixing.fit_lengths(resampled, mode)
            parts = {"mix_clean": fitted[:-1], "mix_both": fitted, "mix_single": [fitted[0], fitted[-1]]}
            mixtures = {kind: mixing.mix(parts[kind]) for kind in types}
            named = {f"s{k + 1}": s for k, s in enumerate(fitted[:-1])} | {"noise": fitted[-1]} | mixtures
            folder = Path(job["out"]) / f"wav{freq}" / mode / job["split"]
            for subfolder in job["subfolders"]:
                _write_wav(folder / subfolder / f"{row['mixture_ID']}.wav", named[subfolder], rate)
            snrs = {kind: [mixing.snr(part, mixtures[kind]) for part in parts[kind]] for kind in types}
            entries[f"{freq}/{mode}"] = {"length": len(fitted[0]), "snr": snrs}
    return entries


def _write_wav(path, samples, rate):
    """Write 16-bit samples, rounded down as libsndfile does, ten times faster than it: it waits for the disk."""
    data = io.BytesIO()
    with wave.open(data, "wb") as file:
        file.setparams((1, 2, rate, len(samples), "NONE", ""))
        file.writeframesraw(np.clip(np.floor(samples * 32768), -32768, 32767).astype("<i2"))
    with atomic_path(path) as temporary:
        Path(temporary).write_bytes(data.getbuffer())


def _write_metadata(job, names, results):
    """`metadata/mixture_<split>_<type>.csv` and `metrics_...csv`, in the public generator's columns."""
    for freq in job["freqs"]:
        for mode in job["modes"]:
            folder = (Path(job["out"]) / f"wav{freq}" / mode).resolve()
            for kind in job["types"]:
                sources = [1] if kind == "mix_single" else list(range(1, job["n_src"] + 1))
                noise = [] if kind == "mix_clean" else ["noise"]
                parts = [f"source_{k}" for k in sources] + noise
                folders = [f"s{k}" for k in sources] + noise
                mixtures, metrics = [], []
                for name, result in zip(names, results):
                    entry = result[f"{freq}/{mode}"]
                    paths = [str(folder / job["split"] / sub / f"{name}.wav") for sub in [kind, *folders]]
                    mixtures.append([name, *paths, entry["length"]])
                    metrics.append([name, *entry["snr"][kind]])
                columns = ["mixture_ID", "mixture_path", *[f"{p}_path" for p in parts], "length"]
                tables = {
                    "mixture": (columns, mixtures),
                    "metrics": (["mixture_ID", *[f"{p}_SNR" for p in parts]], metrics),
                }
                for what, (names_of_columns, data) in tables.items():
                    with atomic_path(folder / "metadata" / f"{what}_{job['split']}_{kind}.csv") as temporary:
                        pd.DataFrame(data, columns=names_of_columns).to_csv(temporary, index=False)
