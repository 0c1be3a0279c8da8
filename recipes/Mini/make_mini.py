"""Make Mini: small Libri2Mix- and Libri3Mix-like sets, mixtures in rooms and conversations, from 251 speakers."""

import argparse
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from unified_sess.data.scenes.scene_sets import ScenePart, make_conversations, make_rooms
from unified_sess.utils.errors import UserError, one_line_errors, writable_folder
from unified_sess.utils.files import atomic_path
from unified_sess.utils.parallel import available_cores

HERE = Path(__file__).resolve().parent
MAKE_SCRIPT = HERE.parents[1] / "data_prep" / "make_librimix.py"

SCENES = ("rooms", "conversations")
# Part: folder of the speech, folder of the noise, seed of the rooms
PARTS = {
    "train": ("train-clean-100", "tr", 101),
    "dev": ("dev-clean", "cv", 102),
    "test": ("test-clean", "tt", 103),
}


def read_split() -> Iterator[list[str]]:
    """Yield the split and the utterance ID of every line of `split.txt`."""
    for line in (HERE / "split.txt").read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            yield line.split()


def pick_utterances(librispeech: Path, folder: Path) -> Path:
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


def make_scenes(args: argparse.Namespace, speech: Path) -> None:
    """Write the sets of scenes, `Rooms` and `Conversations`."""

    def part(name, *counts):
        split, noise, seed = PARTS[name]
        return ScenePart(speech / split, args.wham_noise / noise, seed, counts)

    rates = [1000 * int(freq[:-1]) for freq in args.scene_freq]
    common = (rates, args.output / "cache", args.workers)
    if "rooms" in args.scenes and any(args.room_counts):
        names = zip(("train-100", "dev", "test"), PARTS, args.room_counts, strict=True)
        parts = {folder: part(name, count) for folder, name, count in names if count}
        make_rooms(args.output / "Rooms", parts, *common)
    if "conversations" in args.scenes and any(args.conversations + args.dev_conversations):
        counts = {"dev": args.dev_conversations, "test": args.conversations}
        parts = {name: part(name, *count) for name, count in counts.items() if any(count)}
        make_conversations(args.output / "Conversations", parts, *common, seconds=args.conversation_seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    default = HERE.parents[2] / "shared" / "corpora"
    parser.add_argument("--librispeech", type=Path, default=default / "LibriSpeech", help="holds train-clean-100")
    parser.add_argument("--wham-noise", type=Path, default=default / "wham_noise", help="noise folders tr, cv, tt")
    parser.add_argument("--output", type=Path, default=Path("data/mini"))
    parser.add_argument("--n-src", type=int, nargs="*", default=[2, 3], help="LibriMix-like sets to make")
    parser.add_argument("--counts", type=int, nargs=3, default=[3000, 300, 300], metavar=("TRAIN", "DEV", "TEST"))
    parser.add_argument("--freq", nargs="+", default=["8k"], choices=["8k", "16k"], help="of the LibriMix-like sets")
    parser.add_argument("--scenes", nargs="*", default=list(SCENES), choices=SCENES, help="sets of scenes to make")
    parser.add_argument("--scene-freq", nargs="+", default=["8k", "16k"], choices=["8k", "16k"])
    parser.add_argument("--room-counts", type=int, nargs=3, default=[300, 300, 300], metavar=("TRAIN", "DEV", "TEST"))
    people = ("TWO", "THREE")
    parser.add_argument("--conversations", type=int, nargs=2, default=[40, 20], metavar=people, help="test, by people")
    parser.add_argument("--dev-conversations", type=int, nargs=2, default=[10, 5], metavar=people)
    parser.add_argument("--conversation-seconds", type=float, default=120.0)
    parser.add_argument("--workers", type=int, default=available_cores())
    args = parser.parse_args()
    with one_line_errors("make_mini.py"):
        if not 4 <= args.conversation_seconds < 3600 or args.workers < 1:
            raise UserError("give from 4 to 3600 --conversation-seconds, and at least 1 of --workers")
        if min(args.counts) < 1 or min(args.room_counts + args.conversations + args.dev_conversations) < 0:
            raise UserError("give at least 1 of each of --counts, and 0 or more rooms and conversations")
        if not set(args.n_src) <= {2, 3}:
            raise UserError(f"--n-src {args.n_src}: sets of 2 and of 3 people can be made")
        if args.librispeech.resolve() == (args.output / "speech").resolve():
            raise UserError(f"{args.librispeech} is where the speech of --output goes: give another --output")
        writable_folder(args.output)
        speech = pick_utterances(args.librispeech, args.output / "speech")
        splits = ("train-clean-100", "dev-clean", "test-clean")
        counts = [f"{split}={count}" for split, count in zip(splits, args.counts)]
        for n_src in args.n_src:
            command = [
                sys.executable,
                str(MAKE_SCRIPT),
                "--librispeech",
                str(speech),
                "--wham-noise",
                str(args.wham_noise),
            ]
            command += ["--output", str(args.output), "--n-src", str(n_src), "--freq", *args.freq, "--mode", "min"]
            command += ["--types", "mix_clean", "mix_both", "--workers", str(args.workers), "--count", *counts]
            status = subprocess.run(command, check=False).returncode
            if status:
                raise SystemExit(status)
        make_scenes(args, speech)


if __name__ == "__main__":
    main()
