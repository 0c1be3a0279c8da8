"""Make Mini: small Libri2Mix- and Libri3Mix-like sets at 8 kHz from one utterance of each of 251 speakers."""

import argparse
import shutil
import subprocess
import sys
from pathlib import Path

from unified_sess.utils.errors import UserError, one_line_errors, writable_folder
from unified_sess.utils.files import atomic_path
from unified_sess.utils.parallel import available_cores

HERE = Path(__file__).resolve().parent
MAKE = HERE.parents[1] / "data_prep" / "make_librimix.py"


def read_split():
    """Yield the split and the utterance ID of every line of `split.txt`."""
    for line in (HERE / "split.txt").read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            yield line.split()


def pick_utterances(librispeech, folder):
    """Copy the listed utterances of train-clean-100 into the folders of their split."""
    pairs = list(read_split())
    sources = []
    for split, utterance in pairs:
        speaker, chapter, _ = utterance.split("-")
        inner = Path(speaker) / chapter / f"{utterance}.flac"
        found = [p for p in (librispeech / "train-clean-100" / inner, librispeech / split / inner) if p.is_file()]
        sources.append((found[0] if found else None, folder / split / inner))
    missing = [target.stem for source, target in sources if source is None]
    if missing:
        raise UserError(
            f"{len(missing)} of {len(pairs)} utterances are missing under {librispeech}, first {missing[0]}"
        )
    for source, target in sources:
        if not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            with atomic_path(target) as temporary:
                shutil.copyfile(source, temporary)
    speakers = librispeech / "SPEAKERS.TXT"
    if speakers.is_file():
        shutil.copyfile(speakers, folder / speakers.name)
    return folder


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    default = HERE.parents[2] / "shared" / "corpora"
    parser.add_argument("--librispeech", type=Path, default=default / "LibriSpeech", help="holds train-clean-100")
    parser.add_argument("--wham-noise", type=Path, default=default / "wham_noise", help="noise folders tr, cv, tt")
    parser.add_argument("--output", type=Path, default=Path("data/mini"))
    parser.add_argument("--n-src", type=int, nargs="+", default=[2, 3])
    parser.add_argument("--counts", type=int, nargs=3, default=[3000, 300, 300], metavar=("TRAIN", "DEV", "TEST"))
    parser.add_argument("--workers", type=int, default=available_cores())
    args = parser.parse_args()
    with one_line_errors("make_mini.py"):
        writable_folder(args.output)
        speech = pick_utterances(args.librispeech, args.output / "speech")
        splits = ("train-clean-100", "dev-clean", "test-clean")
        counts = [f"{split}={count}" for split, count in zip(splits, args.counts)]
        for n_src in args.n_src:
            command = [sys.executable, str(MAKE), "--librispeech", str(speech), "--wham-noise", str(args.wham_noise)]
            command += ["--output", str(args.output), "--n-src", str(n_src), "--freq", "8k", "--mode", "min"]
            command += ["--types", "mix_clean", "mix_both", "--workers", str(args.workers), "--count", *counts]
            status = subprocess.run(command, check=False).returncode
            if status:
                raise SystemExit(status)


if __name__ == "__main__":
    main()
