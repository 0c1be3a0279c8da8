"""Make Libri2Mix or Libri3Mix from LibriSpeech and WHAM! noise, with published or newly drawn metadata."""

import argparse
import json
import os
import shutil
import zlib
from collections.abc import Iterator
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # one process a core: more threads would wait for each other

import pandas as pd

from unified_sess.data.librimix import noise_speed
from unified_sess.data.librimix.drawing import draw_rows
from unified_sess.data.librimix.generation import TYPES, generate_split
from unified_sess.data.librimix.sources import RATE, output_name, read_metadata
from unified_sess.data.own_folders.speech_folders import index_folder
from unified_sess.utils.errors import UserError, one_line_errors, writable_folder
from unified_sess.utils.files import atomic_path
from unified_sess.utils.parallel import available_cores

NOISE_SPLITS = {"train": "tr", "dev": "cv", "test": "tt"}


def main() -> None:
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
    again = "e.g. train-clean-100=3000; utterances come again at other levels, starts and in other noise"
    parser.add_argument("--count", nargs="+", default=[], metavar="SPLIT=N", help=again)
    kept = "of the draw (default 72); a draw that is there is kept, another seed refused"
    parser.add_argument("--seed", type=int, help=kept)
    cores = available_cores()
    few = "processes (default: one a core); fewer need less memory"
    parser.add_argument("--workers", type=int, default=cores, help=few)
    parser.add_argument("--augment-noise", action="store_true", help="first make all ...sp08/sp12.wav training noises")
    with one_line_errors("make_librimix.py"):
        run(parser.parse_args())


def run(args: argparse.Namespace) -> None:
    for option, value, least in (("--workers", args.workers, 1), ("--seed", args.seed or 0, 0)):
        if value < least:
            raise UserError(f"{option} {value}: give {least} or more")
    output = Path(writable_folder(args.output)) / f"Libri{args.n_src}Mix"
    if args.augment_noise:
        noise_speed.make_all(Path(args.wham_noise) / "tr", args.workers)
    for name, rows in splits(args, output):
        noise_speed.make_missing(rows, args.wham_noise, args.workers)
        generate_split(
            rows,
            args.librispeech,
            args.wham_noise,
            output,
            name,
            args.n_src,
            args.freq,
            args.mode,
            args.types,
            args.workers,
        )
    speakers = Path(args.librispeech) / "SPEAKERS.TXT"
    if speakers.is_file():  # results by gender need it
        with atomic_path(output / speakers.name) as temporary:
            shutil.copyfile(speakers, temporary)


def splits(args: argparse.Namespace, output: Path) -> Iterator[tuple[str, list[dict]]]:
    """Yield the output name and the rows of each split."""
    if args.metadata:
        if args.count or args.seed is not None:
            raise UserError("--count and --seed are for drawing: leave them out, or leave out --metadata")
        files = [f for f in sorted(Path(args.metadata).glob(f"libri{args.n_src}mix_*.csv")) if "info" not in f.stem]
        for name in args.splits or ():
            if name not in [f.stem.split("_", 1)[1] for f in files]:
                raise UserError(f"{args.metadata} has no libri{args.n_src}mix_{name}.csv")
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
        if not number.isdecimal() or int(number) == 0:
            raise UserError(f"--count {text}: write SPLIT=N, e.g. train-clean-100=3000")
        counts[split] = int(number)
    root = Path(args.librispeech)
    names = args.splits or sorted(p.name for p in root.glob("*-clean*") if p.is_dir())
    beside = [name for name in counts if name not in names and (root / name).is_dir()]
    if beside:
        raise UserError(f"--count names {beside[0]}, which is not among --splits")
    unknown = [name for name in [*names, *counts] if name not in names or not (root / name).is_dir()]
    if unknown or not names:
        raise UserError(f"{root} has no folder {unknown[0] if unknown else 'train-clean-*, dev-clean or test-clean'}")
    for name in names:
        file = output / "metadata" / f"libri{args.n_src}mix_{name}.csv"
        draw_once(args, name, counts.get(name), file)
        yield output_name(file, args.n_src), read_metadata(file, args.n_src)


def draw_once(args: argparse.Namespace, name: str, count: int | None, file: Path) -> None:
    """Draw a split unless it is there; one drawn in another way is an error, not silently kept."""
    note = file.parents[1] / f".drawn-{name}.json"
    if not file.exists():
        note.parent.mkdir(parents=True, exist_ok=True)
        seed = 72 if args.seed is None else args.seed
        with atomic_path(note) as temporary:
            Path(temporary).write_text(json.dumps({"seed": seed, "count": count}), encoding="utf-8")
        draw(args, name, count, seed, file)
        return
    drawn = json.loads(note.read_text(encoding="utf-8")) if note.exists() else {}
    for option, wanted, found in (("--seed", args.seed, drawn.get("seed")), ("--count", count, drawn.get("count"))):
        if note.exists() and wanted is not None and wanted != found:
            was = f"with {option} {found}" if found is not None else f"without {option}"
            way_out = f"leave {option} out, give another --output, or delete it to draw again"
            raise UserError(f"{file} was drawn {was}, not {wanted}: {way_out}")


def draw(args: argparse.Namespace, name: str, count: int | None, seed: int, file: Path) -> None:
    """Draw the rows of a split and keep them as a metadata file."""
    kind = NOISE_SPLITS.get(name.split("-")[0])
    if kind is None:
        raise UserError(f"--splits {name}: the name must start with train, dev or test, which chooses the noise")
    measures = Path(args.output) / ".measures"  # the same for two and three speakers
    speech = index_folder(Path(args.librispeech) / name, measures / f"{name}.jsonl", workers=args.workers)
    noises = index_folder(Path(args.wham_noise) / kind, measures / f"{kind}.jsonl", workers=args.workers, noise=True)
    wrong = next((r for r in speech + noises if r.sample_rate != RATE), None)
    if wrong:
        raise UserError(f"{wrong.path} is at {wrong.sample_rate} Hz where {RATE} Hz is expected")
    speech = [r._replace(path=f"{name}/{r.path}") for r in speech]
    noises = [r._replace(path=f"{kind}/{r.path}") for r in noises]
    keys = [seed, args.n_src, zlib.crc32(name.encode())]
    rows = draw_rows(speech, noises, args.librispeech, args.wham_noise, args.n_src, count, keys, args.workers)
    file.parent.mkdir(exist_ok=True)
    with atomic_path(file) as temporary:
        pd.DataFrame(rows).to_csv(temporary, index=False)


if __name__ == "__main__":
    main()
