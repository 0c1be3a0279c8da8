"""The rows of LibriMix metadata and the recordings that they name."""

import contextlib
from pathlib import Path

import numpy as np
import pandas as pd
import soundfile

from unified_sess.data import mixing
from unified_sess.utils.audio import sound_path
from unified_sess.utils.errors import UserError

RATE = 16000
SPEEDS = {"sp08": 0.8, "sp12": 1.2}  # endings of the speed-perturbed training noises
MARGIN = (mixing.HALF_WIDTH + 1) * 2  # samples behind the cut that reach into it when resampled to 8 kHz


def output_name(metadata_file: str | Path, n_src: int) -> str:
    """Folder of a split: `libri2mix_train-clean-100.csv` gives `train-100`."""
    return Path(metadata_file).stem.replace(f"libri{n_src}mix_", "").replace("-clean", "")


def read_metadata(path: str | Path, n_src: int) -> list[dict]:
    """Rows of a metadata file as dictionaries.

    Raises
    ------
    UserError
        Naming the file and what it lacks, or the first row that cannot be used.
    """
    try:
        table = pd.read_csv(path, dtype={"mixture_ID": str})
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read the metadata {path} ({error})") from None
    sources = [f"source_{k}_{what}" for k in range(1, n_src + 1) for what in ("path", "gain")]
    for column in ["mixture_ID", *sources, "noise_path", "noise_gain"]:
        if column not in table.columns:
            raise UserError(f"{path} lacks the column {column}: it is no metadata for {n_src} speakers")
    if f"source_{n_src + 1}_path" in table.columns:
        raise UserError(f"{path} has the column source_{n_src + 1}_path: it is no metadata for {n_src} speakers")
    starts = [name for name in table.columns if name.endswith("_start")]
    for column in ["mixture_ID", *sources, "noise_path", "noise_gain", *starts]:
        bad = table[column].isna()
        if column.endswith(("gain", "start")):
            table[column] = pd.to_numeric(table[column], errors="coerce")
            bad = ~np.isfinite(table[column]) | (table[column] < 0)
        if column == "mixture_ID":
            bad |= table[column].str.contains("/")
        if bad.any():
            raise UserError(f"{path} row {bad.idxmax() + 2}: no usable {column}")
    if not len(table):
        raise UserError(f"{path} has no rows")
    if table["mixture_ID"].duplicated().any():
        twice = table["mixture_ID"][table["mixture_ID"].duplicated()].iloc[0]
        raise UserError(f"{path} has the mixture_ID {twice} twice")
    return table.to_dict("records")


def check_files(rows: list[dict], speech_folder: str | Path, noise_folder: str | Path, n_src: int) -> None:
    """Raise one `UserError` with the count when files that the rows name are missing."""
    speech = sorted({row[f"source_{k}_path"] for row in rows for k in range(1, n_src + 1)})
    noises = sorted({row["noise_path"] for row in rows})
    for kind, folder, names in (("utterances", speech_folder, speech), ("noises", noise_folder, noises)):
        lost = [name for name in names if not (Path(folder) / name).is_file()]
        if lost:
            raise UserError(f"{len(lost)} of {len(names)} {kind} are missing under {folder}, first {lost[0]}")


def read_row(
    row: dict, speech_folder: str | Path, noise_folder: str | Path, n_src: int, shortest: bool = False
) -> list[np.ndarray]:
    """First channels of the sources and the noise of a row, float32 `[time]`, at 16 kHz.

    The noise is read up to the longest source and extended where it is too short. With `shortest`, signals end soon
    behind the end of the shortest source: all that a mixture cut to it needs.

    Raises
    ------
    UserError
        Naming the file that cannot be read.
    """
    named = [
        (Path(speech_folder) / row[f"source_{k}_path"], row.get(f"source_{k}_start", 0)) for k in range(1, n_src + 1)
    ]
    named.append((Path(noise_folder) / row["noise_path"], row.get("noise_start", 0)))
    with contextlib.ExitStack() as stack:
        files = [stack.enter_context(_open(path, int(start))) for path, start in named]
        lengths = [file.frames - file.tell() for file in files]
        longest = max(lengths[:-1])
        wanted = min(lengths[:-1]) + MARGIN if shortest else longest
        signals = [_read(file, path, min(wanted, n)) for file, (path, _), n in zip(files[:-1], named, lengths)]
        whole = lengths[-1] < longest  # its end fades into its beginning, wherever the mixture is cut
        noise = _read(files[-1], named[-1][0], lengths[-1] if whole else min(wanted, longest))
    return [*signals, mixing.extend_noise(noise, longest)[:wanted] if whole else noise]


def _open(path, start):
    try:
        file = soundfile.SoundFile(sound_path(path))
    except (soundfile.SoundFileError, OSError) as error:
        reason = "it does not exist" if not path.exists() else str(error)
        raise UserError(f"cannot read {path} ({reason}): is the corpus complete?") from None
    if file.samplerate != RATE:
        raise UserError(f"{path} is at {file.samplerate} Hz where {RATE} Hz is expected")
    if file.frames <= start:
        what = f"is shorter than its start {start}: the metadata is of other files" if start else "holds no samples"
        raise UserError(f"{path} {what}")
    if start:
        file.seek(start)
    return file


def _read(file, path, frames):
    try:
        signal = file.read(frames, dtype="float32", always_2d=True)
    except soundfile.SoundFileError as error:
        raise UserError(f"cannot read {path} ({error}): copy it again") from None
    if len(signal) < frames:
        raise UserError(f"{path} is truncated: copy it again")
    return np.ascontiguousarray(signal[:, 0])
