"""Make Libri2Mix or Libri3Mix from LibriSpeech and WHAM! noise, with published or newly drawn metadata."""

import argparse
import functools
import os
import zlib
from pathlib import Path

import pandas as pd
import soundfile
import soxr

from unified_sess.data.librimix_drawing import draw_rows
from unified_sess.data.librimix_generation import (
    RATE,
    TYPES,
    generate_split,
    output_name,
    parallel_map,
    read_first_channel,
    read_metadata,
)
from unified_sess.data.speech_folders import index_folder
from unified_sess.errors import UserError, one_line_errors, writable_folder
from unified_sess.files import atomic_path

NOISE_SPLITS = {"train": "tr", "dev": "cv", "test": "tt"}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--librispeech", required=True, help="LibriSpeech folder (train-clean-100, dev-clean, ...)")
    parser.add_argument("--wham-noise", required=True, help="wham_noise folder (tr, cv, tt)")
    parser.add_argument("--metadata", help="folder with libri<N>mix_<split>.csv; without it, mixtures are drawn")
    parser.add_argument("--output", required=True, help="Libri<N>Mix is made in this folder")
    parser.add_argument("--n-src", type=int, default=2, choices=(2, 3))
    parser.add_argument("--freq", nargs="+", default=["8k"], choices=("8k", "16k"))
    parser.add_argument("--mode", nargs="+", default=["min"], choices=("min", "max"))
    parser.add_argument("--types", nargs="+", default=list(TYPES), choices=TYPES)
    parser.add_argument("--splits", nargs="+", help="LibriSpeech folders, e.g. train-clean-100; default: all there")
    parser.add_argument("--count", nargs="+", default=[], metavar="SPLIT=N", help="e.g. train-clean-100=3000")
    parser.add_argument("--seed", type=int, default=72)
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--augment-noise", action="store_true", help="first make the ...sp08/sp12.wav training noises")
    with one_line_errors("make_librimix.py"):
        run(parser.parse_args())


def run(args):
    output = Path(writable_folder(args.output)) / f"Libri{args.n_src}Mix"
    if args.augment_noise:
        augment_noise(Path(args.wham_noise) / "tr", args.workers)
    for name, rows in splits(args, output):
        generate_split(
            rows, args.librispeech, args.wham_noise, output, name, args.n_src, args.freq, args.mode, args.types, args.workers
        )


def splits(args, output):
    """Yield the output name and the rows of each split."""
    if args.metadata:
        files = [f for f in sorted(Path(args.metadata).glob(f"libri{args.n_src}mix_*.csv")) if "info" not in f.stem]
        if args.splits:
            files = [f for f in files if f.stem.split("_", 1)[1] in args.splits]
        if not files:
            raise UserError(f"{args.metadata} has no libri{args.n_src}mix_<split>.csv")
        for file in files:
            yield output_name(file, args.n_src), read_metadata(file, args.n_src)
        return
    counts = {}
    for text in args.count:
        split, _, number = text.partition("=")
        if not number.isdigit() or int(number) == 0:
            raise UserError(f"--count {text}: write SPLIT=N, e.g. train-clean-100=3000")
        counts[split] = int(number)
    root = Path(args.librispeech)
    names = args.splits or sorted(p.name for p in root.glob("*-clean*") if p.is_dir())
    unknown = [name for name in [*names, *counts] if name not in names or not (root / name).is_dir()]
    if unknown or not names:
        raise UserError(f"{root} has no folder {unknown[0] if unknown else 'train-clean-*, dev-clean or test-clean'}")
    for name in names:
        file = output / "metadata" / f"libri{args.n_src}mix_{name}.csv"
        if not file.exists():
            file.parent.mkdir(parents=True, exist_ok=True)
            draw(args, name, counts.get(name), file)
        rows = read_metadata(file, args.n_src)
        if name in counts and len(rows) != counts[name]:
            raise UserError(f"{file} has {len(rows)} mixtures, not {counts[name]}: give another --output or delete it")
        yield output_name(file, args.n_src), rows


def draw(args, name, count, file):
    """Draw the rows of a split and keep them as a metadata file."""
    kind = NOISE_SPLITS.get(name.split("-")[0])
    if kind is None:
        raise UserError(f"--splits {name}: the name must start with train, dev or test, which chooses the noise")
    measures = file.parent / "measures"
    speech = index_folder(Path(args.librispeech) / name, measures / f"{name}.jsonl", workers=args.workers)
    noises = index_folder(Path(args.wham_noise) / kind, measures / f"{kind}.jsonl", workers=args.workers, noise=True)
    wrong = next((r for r in speech + noises if r.sample_rate != RATE), None)
    if wrong:
        raise UserError(f"{wrong.path} is at {wrong.sample_rate} Hz where {RATE} Hz is expected")
    speech = [r._replace(path=f"{name}/{r.path}") for r in speech]
    noises = [r._replace(path=f"{kind}/{r.path}") for r in noises]
    seed = [args.seed, args.n_src, zlib.crc32(name.encode())]
    rows = draw_rows(speech, noises, args.librispeech, args.wham_noise, args.n_src, count, seed, args.workers)
    with atomic_path(file) as temporary:
        pd.DataFrame(rows).to_csv(temporary, index=False)


def augment_noise(folder, workers):
    """Make `<name>sp08.wav` and `<name>sp12.wav` beside every training noise that lacks them."""
    originals = [p for p in sorted(folder.glob("**/*.wav")) if not p.stem.endswith(("sp08", "sp12"))]
    if not originals:
        raise UserError(f"{folder} has no wav files: is it the tr folder of the WHAM! noises?")
    jobs = [(str(p), s) for p in originals for s in (0.8, 1.2) if not _augmented(p, s).exists()]
    for _ in parallel_map(functools.partial(_change_speed), jobs, workers, "noise at 0.8 and 1.2 times its speed"):
        pass


def _augmented(path, speed):
    return Path(path).with_name(f"{Path(path).stem}sp{speed:.1f}.wav".replace("0.8", "08").replace("1.2", "12"))


def _change_speed(job):
    path, speed = job
    signal = soxr.resample(read_first_channel(path), RATE * speed, RATE)
    with atomic_path(_augmented(path, speed)) as temporary:
        soundfile.write(temporary, signal, RATE, subtype="PCM_16")


if __name__ == "__main__":
    main()
