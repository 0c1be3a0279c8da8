"""The speed-perturbed training noises of LibriMix: `<name>sp08.wav` and `<name>sp12.wav` beside `<name>.wav`."""

from pathlib import Path

import soundfile
import soxr

from unified_sess.data.librimix.sources import RATE, SPEEDS
from unified_sess.utils.audio import sound_path, write_audio
from unified_sess.utils.errors import UserError
from unified_sess.utils.parallel import parallel_map


def is_perturbed(path: str | Path) -> bool:
    """Whether a name is that of a speed-perturbed noise."""
    return Path(path).stem.endswith(tuple(SPEEDS))


def make_all(folder: str | Path, workers: int) -> None:
    """Make both speeds of every noise of a folder, at any depth, that lacks them; `UserError` where it has no wav files."""
    originals = [path for path in sorted(Path(folder).glob("**/*.wav")) if not is_perturbed(path)]
    if not originals:
        raise UserError(f"{folder} has no wav files: is it the tr folder of the WHAM! noises?")
    _make([path.with_name(f"{path.stem}{ending}.wav") for path in originals for ending in SPEEDS], workers)


def make_missing(rows: list[dict], noise_folder: str | Path, workers: int) -> None:
    """Make the perturbed noises that rows of metadata name and that are missing though their original is there."""
    named = sorted({row["noise_path"] for row in rows if is_perturbed(row["noise_path"])})
    targets = [Path(noise_folder) / name for name in named]
    _make([path for path in targets if _original(path).is_file()], workers)


def _make(targets, workers):
    targets = [path for path in targets if not path.exists()]
    if targets:
        for _ in parallel_map(_make_one, targets, workers, "noise at 0.8 and 1.2 times its speed"):
            pass


def _original(path):
    return path.with_name(path.stem[:-4] + path.suffix)


def _make_one(path):
    original = _original(path)
    try:
        signal, rate = soundfile.read(sound_path(original), dtype="float32", always_2d=True)
    except soundfile.SoundFileError as error:
        raise UserError(f"cannot read {original} ({error}): copy it again") from None
    if rate != RATE:
        raise UserError(f"{original} is at {rate} Hz where {RATE} Hz is expected")
    write_audio(path, soxr.resample(signal[:, 0], RATE * SPEEDS[path.stem[-4:]], RATE), RATE)
