"""Find out what a data folder holds (LibriMix, WHAM!, WHAMR!) and index it."""

import hashlib
import json
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from unified_sess.data.manifest import ROOT, write_manifest
from unified_sess.utils.audio import audio_info, is_audio
from unified_sess.utils.errors import UserError
from unified_sess.utils.files import atomic_path

SPLITS: dict[str, dict[str, tuple[str, ...]]] = {
    "LibriMix": {"train": ("train-360", "train-100"), "valid": ("dev",), "test": ("test",)},
    "WHAM": {"train": ("tr",), "valid": ("cv",), "test": ("tt",)},
}
# Folder names of the mixture, the clean mixture, source k and, where it is another file, the reverberant image of source k.
LAYOUTS = {
    "LibriMix": ("mix_both", "mix_clean", "s{k}", None),
    "WHAM": ("mix_both", "mix_clean", "s{k}", None),
    "WHAMR": ("mix_both_reverb", "mix_clean_reverb", "s{k}_anechoic", "s{k}_reverb"),
}
MODES = ("min", "max")
MAX_SPEAKERS = 10
ROWS_A_TASK = 500


class Corpus(NamedTuple):
    """A corpus on disk.

    Attributes
    ----------
    kind : str
        LibriMix, WHAM or WHAMR.
    root : Path
        Folder of the splits, `.../wav8k/min`; `$data_root` of the manifests.
    splits : dict
        Names of the folders of train, valid and test.
    num_spks, sample_rate : int
        Speakers of a mixture, Hz.
    mixture, clean : str
        Folder names of the mixture that is separated and of the clean mixture.
    """

    kind: str
    root: Path
    splits: dict
    num_spks: int
    sample_rate: int
    mixture: str
    clean: str


def find_corpus(
    data_folder: str | Path,
    sample_rate: int = 8000,
    mode: str | None = None,
    num_spks: int | None = None,
    train_split: str | None = None,
    parts: Sequence[str] = ("train", "valid", "test"),
    exact: bool = True,
) -> Corpus:
    """Detect layout and number of speakers of a data folder.

    Arguments
    ---------
    data_folder : str or Path
        The corpus, or its `wav8k`, or `wav8k/min`, or a folder that holds the corpus alone.
    sample_rate : int
        Rate in Hz that the experiment wants.
    mode : str
        `min` or `max`; None takes the one that is there, `min` first.
    num_spks : int
        Speakers that the experiment wants; None takes what is there.
    train_split : str
        `train-360` or `train-100`; None takes the larger that is there.
    parts : sequence of str
        What has to be there.
    exact : bool
        Refuse another number of speakers than `num_spks`; False prefers that number where there are several corpora.

    Returns
    -------
    Corpus

    Raises
    ------
    UserError
        For a folder that is missing, empty or of another layout, or that contradicts what is wanted.
    """
    folder = Path(data_folder)
    if not folder.is_dir():
        raise UserError(f"the data folder {folder} does not exist: give the folder of a LibriMix or WHAM! corpus")
    if mode not in (None, *MODES):
        raise UserError(f"mode must be min or max, not '{mode}'")
    root, kind, found = _root(folder, sample_rate, mode, num_spks)
    mixture, clean, *_ = LAYOUTS[kind]
    names = SPLITS["LibriMix" if kind == "LibriMix" else "WHAM"]
    splits = {}
    for part, choices in names.items():
        if part not in parts:
            continue
        if part == "train" and train_split is not None:
            choices = (train_split,)
        present = [name for name in choices if (root / name / mixture).is_dir()]
        if not present:
            raise UserError(f"{root} has no {' or '.join(choices)} with {mixture}: the {part} part is missing")
        splits[part] = present[0]
    if exact and num_spks is not None and found != num_spks:
        raise UserError(
            f"{root} holds mixtures of {found} speakers but num_spks is {num_spks}: "
            f"give --num_spks {found} or another data folder"
        )
    return Corpus(kind, root, splits, found, sample_rate, mixture, clean)


def rate_there(data_folder: str | Path, sample_rate: int) -> int:
    """`sample_rate`, or where a data folder names other rates alone (`wav8k`), the highest of those; in Hz."""
    folder = Path(data_folder)
    names = {path.name for path in (*folder.glob("wav*k"), *folder.glob("*/wav*k"))} | set(folder.absolute().parts)
    rates = {1000 * int(m.group(1)) for m in map(re.compile(r"wav(\d+)k").fullmatch, names) if m}
    return sample_rate if not rates or sample_rate in rates else max(rates)


def _root(folder, sample_rate, mode, num_spks):
    """The folder of the splits below `folder`, its layout and its number of speakers."""
    candidates = []
    inside = sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))
    for top in [folder, *inside]:
        for rate_folder in [top, *sorted(top.glob("wav*k"))]:
            for last in [rate_folder, *(rate_folder / name for name in MODES)]:
                kind = _layout(last)
                if kind:
                    candidates.append((last, kind, _count_speakers(last, kind)))
    candidates = list(dict.fromkeys(candidates))
    if not candidates:
        raise UserError(
            f"{folder} is no LibriMix or WHAM! corpus: looked for (wav8k/)(min/)train-100/mix_both and tr/mix_both in it"
        )

    def named(path, pattern):
        return next((m.group(1) for m in map(re.compile(pattern).fullmatch, reversed(path.parts)) if m), None)

    rate = [c for c in candidates if named(c[0], r"wav(\d+)k") in (None, str(sample_rate // 1000))]
    if not rate:
        there = ", ".join(sorted({f"{named(c[0], r'wav([0-9]+)k')}000 Hz" for c in candidates}))
        raise UserError(
            f"{folder} has {there} but sample_rate is {sample_rate}: change --sample_rate or the data folder"
        )
    right_mode = [c for c in rate if mode is None or named(c[0], "(min|max)") in (None, mode)]
    if not right_mode:
        raise UserError(f"{folder} has no {mode} folder: change --mode or the data folder")
    speakers = [c for c in right_mode if num_spks is None or c[2] == num_spks] or right_mode
    speakers.sort(key=lambda c: named(c[0], "(min|max)") == "max")  # min first; the sort is stable
    if len({c[0].parent if c[0].name in MODES else c[0] for c in speakers}) > 1:
        raise UserError(f"{folder} holds several corpora ({speakers[0][0]}, {speakers[1][0]}): give one of them")
    return speakers[0]


def _layout(root):
    for kind in ("WHAMR", "WHAM", "LibriMix"):
        names = SPLITS["LibriMix" if kind == "LibriMix" else "WHAM"]
        if any((root / split / LAYOUTS[kind][0]).is_dir() for choices in names.values() for split in choices):
            return kind
    return None


def _count_speakers(root, kind):
    split = next(p for p in sorted(root.iterdir()) if (p / LAYOUTS[kind][0]).is_dir())
    source = LAYOUTS[kind][2]
    return sum((split / source.format(k=k)).is_dir() for k in range(1, MAX_SPEAKERS + 1))


def prepare_manifests(corpus: Corpus, save_folder: str | Path, progress: bool = True) -> dict[str, Path]:
    """Index the three parts of a corpus, again only where its files changed.

    Every header is read: durations are true, and a file that cannot be used is found before training starts.

    Returns
    -------
    manifests : dict
        Paths of the CSV files of train, valid and test.

    Raises
    ------
    UserError
        Naming the mixture without its source, the file that cannot be read, is not mono, at another rate, or of
        another length than its mixture.
    """
    save_folder = Path(save_folder)
    save_folder.mkdir(parents=True, exist_ok=True)
    manifests = {}
    for part, split in corpus.splits.items():
        manifests[part] = save_folder / f"{part}.csv"
        _prepare(corpus, split, manifests[part], progress)
    return manifests


def _prepare(corpus, split, path, progress):
    files = {name: _files(corpus.root / split / name) for name in _folders(corpus)}
    fingerprint = _fingerprint(corpus, split, files)
    stamp = path.with_suffix(".json")
    if path.is_file() and stamp.is_file() and json.loads(stamp.read_text(encoding="utf-8")) == fingerprint:
        return
    mixtures = files[corpus.mixture]
    if not mixtures:
        raise UserError(f"{corpus.root / split / corpus.mixture} has no audio files: make the corpus first")
    sources, parts = _source_folders(corpus)
    for name in sources + parts:
        missing = sorted(set(mixtures) - set(files[name]))
        if missing:
            raise UserError(
                f"{len(missing)} mixtures of {corpus.root / split} lack their source in {name}, "
                f"such as {missing[0]}: make the corpus again"
            )

    def row(stem):
        paths = [mixtures[stem], files[corpus.clean].get(stem), *(files[n][stem] for n in sources)]
        paths += [files["noise"].get(stem), *(files[n][stem] for n in parts)]
        frames = _common_length(corpus, [p for p in paths if p])
        relative = [f"{ROOT}/{p.relative_to(corpus.root).as_posix()}" if p else "" for p in paths]
        return [stem, round(frames / corpus.sample_rate, 6), frames, corpus.sample_rate, *relative]

    order, rows = sorted(mixtures), []
    # Reading headers waits for the disk. In slices, so that an error or Ctrl-C does not wait for all of them.
    with (
        ThreadPoolExecutor(8) as pool,
        tqdm(total=len(order), desc=f"Indexing {split}", disable=not progress, leave=False) as bar,
    ):
        for first in range(0, len(order), ROWS_A_TASK):
            rows += pool.map(row, order[first : first + ROWS_A_TASK])
            bar.update(len(rows) - first)
    write_manifest(path, rows, corpus.num_spks, bool(parts))
    with atomic_path(stamp) as temporary:
        Path(temporary).write_text(json.dumps(fingerprint), encoding="utf-8")


def _source_folders(corpus):
    """Folders of the sources, and of their reverberant images where those are other files."""
    numbers = range(1, corpus.num_spks + 1)
    return [[name.format(k=k) for k in numbers] if name else [] for name in LAYOUTS[corpus.kind][2:]]


def _folders(corpus):
    sources, parts = _source_folders(corpus)
    return [corpus.mixture, corpus.clean, *sources, *parts, "noise"]


def _files(folder):
    if not folder.is_dir():
        return {}
    return {p.stem: p for p in sorted(folder.iterdir()) if is_audio(p.name) and p.name[0] != "."}


def _fingerprint(corpus, split, files):
    """Names, sizes and times of all files: the folder may move, but a changed file is read again."""
    digest = hashlib.sha256()
    for name, by_stem in files.items():
        for path in by_stem.values():
            stat = path.stat()
            digest.update(f"{name}/{path.name} {stat.st_size} {stat.st_mtime_ns}\n".encode())
    return {"split": split, "sample_rate": corpus.sample_rate, "num_spks": corpus.num_spks, "files": digest.hexdigest()}


def _common_length(corpus, paths):
    infos = [audio_info(path) for path in paths]
    for path, info in zip(paths, infos):
        if info.missing:
            raise UserError(f"{path} is truncated or damaged: it lacks {info.missing:.2f} s; copy or make it again")
        if info.channels != 1:
            raise UserError(f"{path} has {info.channels} channels where 1 is expected: convert it to mono")
        if info.sample_rate != corpus.sample_rate:
            raise UserError(
                f"{path} is at {info.sample_rate} Hz where {corpus.sample_rate} Hz is expected: "
                "resample the data or change --sample_rate"
            )
        if info.frames != infos[0].frames:
            raise UserError(
                f"{path} has {info.frames} samples where its mixture has {infos[0].frames}: make the corpus again"
            )
    return infos[0].frames
