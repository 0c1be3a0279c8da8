"""Make LibriMix folders from rows that name the sources, the noise and their gains.

Folders, names and signals are those of the public generator (github.com/JorisCos/LibriMix).
"""

import functools
import json
import zlib
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import numpy as np
import pandas as pd
import soundfile
from tqdm import tqdm

from unified_sess.audio import write_audio
from unified_sess.data import mixing
from unified_sess.errors import UserError
from unified_sess.files import atomic_path

RATE = 16000
TYPES = ("mix_clean", "mix_both", "mix_single")


@functools.lru_cache(maxsize=512)
def read_first_channel(path, rate=RATE):
    """First channel of a file, float32 `[time]`; the last 512 files read stay in memory."""
    try:
        signal, found = soundfile.read(path, dtype="float32", always_2d=True)
    except (soundfile.SoundFileError, OSError) as error:
        reason = "it does not exist" if not Path(path).exists() else str(error)
        raise UserError(f"cannot read {path} ({reason}): is the corpus complete?") from None
    if found != rate:
        raise UserError(f"{path} is at {found} Hz where {rate} Hz is expected")
    if len(signal) == 0:
        raise UserError(f"{path} holds no samples: replace or remove it")
    return np.ascontiguousarray(signal[:, 0])


def read_row(row, speech_folder, noise_folder, n_src):
    """Sources and noise of a row at 16 kHz; the noise is as long as the longest source."""
    signals = []
    for k in range(1, n_src + 1):
        start = int(row.get(f"source_{k}_start", 0))
        signals.append(read_first_channel(str(Path(speech_folder) / row[f"source_{k}_path"]))[start:])
        if not len(signals[-1]):
            raise UserError(f"{row[f'source_{k}_path']} is shorter than its start {start}: the metadata is of other files")
    noise = read_first_channel(str(Path(noise_folder) / row["noise_path"]))
    start = int(row.get("noise_start", 0))
    return [*signals, mixing.extend_noise(noise[start:], max(map(len, signals)))]


def _make_mixture(job, row):
    """Write every file of one row; return its entries for the metadata."""
    try:
        signals = read_row(row, job["speech"], job["noise"], job["n_src"])
    except UserError as error:
        raise UserError(f"row {row['mixture_ID']}: {error}") from None
    gains = [row[f"source_{k + 1}_gain"] for k in range(job["n_src"])] + [row["noise_gain"]]
    entries = {}
    for freq in job["freqs"]:
        rate = int(freq[:-1]) * 1000
        resampled = mixing.scale_and_resample(signals, gains, RATE, rate)
        for mode in job["modes"]:
            fitted = mixing.fit_lengths(resampled, mode)
            parts = {
                "mix_clean": fitted[:-1],
                "mix_both": fitted,
                "mix_single": [fitted[0], fitted[-1]],
            }
            folder = Path(job["out"]) / f"wav{freq}" / mode / job["split"]
            name = f"{row['mixture_ID']}.wav"
            named = [(f"s{k + 1}", s) for k, s in enumerate(fitted[:-1])]
            if job["types"] != ["mix_clean"]:
                named.append(("noise", fitted[-1]))
            snrs = {}
            for kind in job["types"]:
                mixture = mixing.mix(parts[kind])
                named.append((kind, mixture))
                snrs[kind] = [mixing.snr(part, mixture) for part in parts[kind]]
            for subfolder, signal in named:
                write_audio(folder / subfolder / name, signal, rate)
            entries[f"{freq}/{mode}"] = {"length": len(fitted[0]), "snr": snrs}
    return {"id": row["mixture_ID"], "entries": entries}


def output_name(metadata_file, n_src):
    """Folder of a split: `libri2mix_train-clean-100.csv` gives `train-100`."""
    return Path(metadata_file).stem.replace(f"libri{n_src}mix_", "").replace("-clean", "")


def read_metadata(path, n_src):
    """Rows of a metadata file as dictionaries.

    Raises
    ------
    UserError
        Naming the file and what it lacks, or the first row that cannot be used.
    """
    try:
        table = pd.read_csv(path)
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read the metadata {path} ({error})") from None
    sources = [f"source_{k}_{what}" for k in range(1, n_src + 1) for what in ("path", "gain")]
    for column in ["mixture_ID", *sources, "noise_path", "noise_gain"]:
        if column not in table.columns:
            raise UserError(f"{path} lacks the column {column}: it is no metadata for {n_src} speakers")
        if column.endswith("gain"):
            table[column] = pd.to_numeric(table[column], errors="coerce")
        bad = table.index[table[column].isna()]
        if len(bad):
            raise UserError(f"{path} row {bad[0] + 2}: no usable {column}")
    if table["mixture_ID"].duplicated().any():
        twice = table["mixture_ID"][table["mixture_ID"].duplicated()].iloc[0]
        raise UserError(f"{path} has the mixture_ID {twice} twice")
    return table.to_dict("records")


def check_files(rows, speech_folder, noise_folder, n_src):
    """Raise one error with the count when files that the rows name are missing."""
    speech = sorted({row[f"source_{k}_path"] for row in rows for k in range(1, n_src + 1)})
    noises = sorted({row["noise_path"] for row in rows})
    lost = [name for name in speech if not (Path(speech_folder) / name).is_file()]
    if lost:
        raise UserError(f"{len(lost)} of {len(speech)} utterances are missing under {speech_folder}, first {lost[0]}")
    lost = [name for name in noises if not (Path(noise_folder) / name).is_file()]
    fast = [name for name in lost if Path(name).stem.endswith(("sp08", "sp12"))]
    if fast and len(fast) == len(lost):
        raise UserError(
            f"{len(fast)} speed-perturbed noises are missing under {noise_folder}, first {fast[0]}: add --augment-noise"
        )
    if lost:
        raise UserError(f"{len(lost)} of {len(noises)} noises are missing under {noise_folder}, first {lost[0]}")


def parallel_map(function, items, workers, description):
    """Yield results in order while showing a progress bar.

    Raises
    ------
    UserError
        When a worker process is killed.
    """
    with ProcessPoolExecutor(workers) as pool:
        try:
            chunk = max(1, min(10, len(items) // (4 * workers)))
            yield from tqdm(pool.map(function, items, chunksize=chunk), total=len(items), desc=description)
        except BrokenProcessPool:
            raise UserError(
                f"{description}: a worker process was killed (out of memory?): run the same command again, "
                "it goes on where it stopped, or give fewer --workers"
            ) from None
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def generate_split(rows, speech_folder, noise_folder, output, split, n_src, freqs, modes, types, workers):
    """Write the mixtures of one split and their metadata; what an earlier, killed run made is kept.

    Arguments
    ---------
    rows : list of dict
        Rows in the form of the public metadata.
    output : str or Path
        The `Libri<n_src>Mix` folder.
    split : str
        Such as `train-100`.

    Raises
    ------
    UserError
        Naming the row that cannot be made, or files that are missing.
    """
    output, types = Path(output), list(types)
    check_files(rows, speech_folder, noise_folder, n_src)
    job = {"speech": str(speech_folder), "noise": str(noise_folder), "out": str(output), "split": split}
    job |= {"n_src": n_src, "freqs": list(freqs), "modes": list(modes), "types": types}
    subfolders = [f"s{k + 1}" for k in range(n_src)] + types + (["noise"] if types != ["mix_clean"] else [])
    for freq in freqs:
        for mode in modes:
            for subfolder in subfolders:
                (output / f"wav{freq}" / mode / split / subfolder).mkdir(parents=True, exist_ok=True)
            (output / f"wav{freq}" / mode / "metadata").mkdir(parents=True, exist_ok=True)
    # The journal is what is done: one line a mixture, added once all its files are whole.
    settings = f"{n_src} {'+'.join(freqs)} {'+'.join(modes)} {'+'.join(types)}"
    journal = output / f".made-{split}-{settings.replace(' ', '_')}.jsonl"
    done = _read_journal(journal)
    keys = [zlib.crc32(json.dumps(row, sort_keys=True, default=str).encode()) for row in rows]
    left = [(k, row) for k, row in zip(keys, rows) if k not in done or not _whole(job, subfolders, row)]
    with open(journal, "a", encoding="utf-8") as file:
        make = functools.partial(_make_mixture, job)
        for (key, _), result in zip(left, parallel_map(make, [row for _, row in left], workers, split)):
            done[key] = result
            file.write(json.dumps([key, result]) + "\n")
            file.flush()
    _write_metadata(job, [done[key] for key in keys])


def _read_journal(path):
    done = {}
    if path.exists():
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                key, result = json.loads(line)
            except ValueError:  # the line that was being written when the run was killed
                continue
            done[key] = result
    return done


def _whole(job, subfolders, row):
    return all(
        (Path(job["out"]) / f"wav{freq}" / mode / job["split"] / name / f"{row['mixture_ID']}.wav").exists()
        for freq in job["freqs"]
        for mode in job["modes"]
        for name in subfolders
    )


def _write_metadata(job, results):
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
                for result in results:
                    entry, name = result["entries"][f"{freq}/{mode}"], f"{result['id']}.wav"
                    paths = [str(folder / job["split"] / sub / name) for sub in [kind, *folders]]
                    mixtures.append([result["id"], *paths, entry["length"]])
                    metrics.append([result["id"], *entry["snr"][kind]])
                columns = ["mixture_ID", "mixture_path", *[f"{p}_path" for p in parts], "length"]
                tables = {"mixture": (columns, mixtures), "metrics": (["mixture_ID", *[f"{p}_SNR" for p in parts]], metrics)}
                for what, (names, data) in tables.items():
                    with atomic_path(folder / "metadata" / f"{what}_{job['split']}_{kind}.csv") as temporary:
                        pd.DataFrame(data, columns=names).to_csv(temporary, index=False)
