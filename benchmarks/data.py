#!/usr/bin/env python3
"""Data measured beside its peers in interleaved rounds: the public LibriMix generator, SpeechBrain's dynamic mixing.

Scenes have no peer: seconds of them a second of one core (--tables scenes --corpora ../shared/corpora).

Run: python benchmarks/data.py --corpora ../shared/corpora --librimix LibriMix --speechbrain speechbrain
(checkouts of github.com/JorisCos/LibriMix and github.com/speechbrain/speechbrain; --tables chooses, --cold takes the
files that are read out of the operating system's cache first)
"""

import argparse
import importlib.util
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import soundfile
import soxr

MAKE_SCRIPT = Path(__file__).resolve().parents[1] / "data_prep" / "make_librimix.py"


def write_metadata(corpora: Path, folder: Path, rows: int) -> None:
    """Random rows over copies of the corpus: each reads files of its own, as in LibriSpeech, where none comes twice."""
    random = np.random.default_rng(0)
    speech = sorted((corpora / "LibriSpeech" / "train-clean-100").rglob("*.flac"))
    noises = sorted((corpora / "wham_noise" / "tr").glob("*.wav"))
    table = []
    for k in range(rows):
        row = {"mixture_ID": f"mixture-{k}"}
        for n, i in enumerate(random.choice(len(speech), 2, replace=False), 1):
            path = f"train-clean-100/{k}/{n}.flac"
            row |= {f"source_{n}_path": copy(speech[i], folder / "speech" / path, path)}
            row |= {f"source_{n}_gain": random.uniform(0.2, 0.8)}
        path = f"tr/{k}.wav"
        row |= {"noise_path": copy(random.choice(noises), folder / "noise" / path, path)}
        table.append(row | {"noise_gain": random.uniform(0.2, 0.8)})
    (folder / "metadata").mkdir()
    pd.DataFrame(table).to_csv(folder / "metadata" / "libri2mix_train-clean-100.csv", index=False)


def copy(source: Path, target: Path, name: str) -> str:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)
    return name


def evict(folders: Iterable[Path]) -> None:
    """Take all audio under the folders out of the operating system's cache; what waits to be written would stay."""
    for path in (p for folder in folders for pattern in ("*.wav", "*.flac") for p in folder.rglob(pattern)):
        file = os.open(path, os.O_RDONLY)
        os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(file)


def generation(args: argparse.Namespace, folder: Path) -> None:
    """Mixtures a second of the whole command, all three types; the same rows, each generator with its own processes."""
    write_metadata(args.corpora, folder, args.rows)
    os.sync()
    speech, noise, meta = folder / "speech", folder / "noise", folder / "metadata"
    peer = [sys.executable, args.librimix / "scripts" / "create_librimix_from_metadata.py", "--librispeech_dir", speech]
    peer += ["--wham_dir", noise, "--metadata_dir", meta, "--n_src", "2"]
    ours = [sys.executable, MAKE_SCRIPT, "--librispeech", speech, "--wham-noise", noise, "--metadata", meta]
    for freqs, modes in ((["8k"], ["min"]), (["8k", "16k"], ["min", "max"])):
        rates = []
        commands = [*peer, "--freqs", *freqs, "--modes", *modes], [*ours, "--freq", *freqs, "--mode", *modes]
        for k in range(args.rounds):
            pair = []
            for command, option in zip(commands, ("--librimix_outdir", "--output")):
                with tempfile.TemporaryDirectory(dir=folder) as out:
                    evict([speech, noise] if args.cold else [])
                    start = time.perf_counter()
                    subprocess.run(
                        [*command, option, out], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
                    )
                    pair.append(args.rows / (time.perf_counter() - start))
            rates.append(pair)
        report(f"generation, {args.rows} mixtures, {' '.join(freqs + modes)}{', cold' * args.cold}", rates)


def dynamic_mixing(args: argparse.Namespace, folder: Path) -> None:
    """Two-speaker 4-second noisy mixtures a second in one process of one thread, as a worker is, after a warm round."""
    import torch

    from unified_sess.data.dynamic_mixing import DynamicMixingDataset

    torch.set_num_threads(1)
    peer = speechbrain_mixer(args, folder)
    os.sync()
    same = (folder / "speech", folder / "Libri" / "wav8k/min/train-360/noise")
    original = (args.corpora / "LibriSpeech" / "train-clean-100", args.corpora / "wham_noise" / "tr")
    ours = {
        "the peer's 8 kHz WAV, kept decoded": DynamicMixingDataset(*same, folder / "index", cache_gib=8),
        "the peer's 8 kHz WAV, read each time": DynamicMixingDataset(*same, folder / "index", cache_gib=0),
        "16 kHz FLAC, kept decoded": DynamicMixingDataset(*original, folder / "index", cache_gib=8),
        "16 kHz FLAC, decoded each time": DynamicMixingDataset(*original, folder / "index", cache_gib=0),
    }
    cold = [*same, *original] if args.cold else []
    ours = {name: dataset for name, dataset in ours.items() if not (args.cold and "kept" in name)}
    rates = {name: [] for name in ours}
    for k in range(args.rounds + 1):
        for name, dataset in ours.items():
            pair = (peer, range(len(peer))), (dataset, [(k, i, 32000) for i in range(len(peer))])
            rates[name].append([items_a_second(*each, cold) for each in pair])
    for name, pairs in rates.items():
        report(f"dynamic mixing, 4 s, 8 kHz, ours from {name}{', cold' * args.cold}", pairs[1:])


def items_a_second(dataset: Any, keys: Sequence, cold: Iterable[Path]) -> float:
    """With folders in `cold` every item finds them out of the cache; taking them out is not timed."""
    seconds = 0.0
    for key in keys:
        evict(cold)
        start = time.perf_counter()
        dataset[key]
        seconds += time.perf_counter() - start
    return len(keys) / seconds


def speechbrain_mixer(args: argparse.Namespace, folder: Path) -> Any:
    """The peer's dataset over 8 kHz copies of the corpus, which it needs."""
    jobs = [
        (p, folder / "speech" / p.relative_to(args.corpora / "LibriSpeech" / "train-clean-100").with_suffix(".wav"))
        for p in (args.corpora / "LibriSpeech" / "train-clean-100").rglob("*.flac")
    ]
    jobs += [
        (p, folder / "Libri" / "wav8k/min/train-360/noise" / p.name) for p in (args.corpora / "wham_noise/tr").glob("*")
    ]
    for source, target in jobs:
        target.parent.mkdir(parents=True, exist_ok=True)
        signal, rate = soundfile.read(source)
        soundfile.write(target, soxr.resample(signal, rate, 8000), 8000)
    rows = folder / "rows.csv"
    rows.write_text("ID,duration,mix_wav\n" + "".join(f"{k},1,x\n" for k in range(100)), encoding="utf-8")
    path = args.speechbrain / "recipes/LibriMix/separation/dynamic_mixing.py"
    spec = importlib.util.spec_from_file_location("peer_dynamic_mixing", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    settings = {"train_data": str(rows), "data_folder": str(folder / "Libri"), "base_folder_dm": str(folder / "speech")}
    settings |= {"sample_rate": 8000, "num_spks": 2, "training_signal_len": 32000, "use_wham_noise": True}
    settings["dataloader_opts"] = {"batch_size": 1, "num_workers": 0}
    return module.dynamic_mix_data_prep_librimix(settings).dataset


def scenes(args: argparse.Namespace, folder: Path) -> None:
    """Seconds of scenes a second of one core at 16 kHz, with rooms, turns and devices, after a warm round."""
    from unified_sess.data.dynamic_mixing import DynamicMixingDataset

    options = {"active": [0.02, 0.18, 0.5, 0.3], "level_difference": 15, "noise_snr": [-5, 25], "room_count": 100}
    kinds = {
        "plain mixtures": {},
        "turns": {"turns": 1, "backchannels": 0.3},
        "rooms": {"rooms": 1},
        "devices": {"devices": 1, "clipping": 0.1},
        "rooms, turns, devices": {"rooms": 1, "turns": 1, "backchannels": 0.3, "devices": 1, "clipping": 0.1},
        "the same and a codec": {"rooms": 1, "turns": 1, "backchannels": 0.3, "devices": 1, "codec": 1},
    }
    places = (args.corpora / "LibriSpeech" / "train-clean-100", args.corpora / "wham_noise" / "tr", folder / "index")
    for name, kind in kinds.items():
        dataset = DynamicMixingDataset(*places, sample_rate=16000, num_spks=3, scenes=options | kind if kind else None)
        for seconds in (4, 10):
            rates = []
            for epoch in range(args.rounds + 1):
                start = time.process_time()
                for index in range(args.scenes):
                    dataset[epoch, index, seconds * 16000]
                rates.append(args.scenes * seconds / (time.process_time() - start))
            said = f"scenes of {seconds} s, 16 kHz, {name}: {statistics.median(rates[1:]):.0f} s a second of one core"
            print(f"{said}, {min(rates[1:]):.0f} to {max(rates[1:]):.0f} in {args.rounds} rounds", flush=True)


def manifest(args: argparse.Namespace, folder: Path) -> None:
    """Time and peak memory to open a synthetic manifest of 1,000,000 utterances."""
    from unified_sess.data.manifest import read_manifest, write_manifest

    def row(k):
        paths = [
            f"$data_root/wav8k/min/train-360/{p}/{k:08}.wav" for p in ("mix_both", "mix_clean", "s1", "s2", "noise")
        ]
        return [f"{k:08}", 10.0, 80000, 8000, *paths]

    write_manifest(folder / "m.csv", (row(k) for k in range(10**6)), 2)
    start = time.perf_counter()
    opened = read_manifest(folder / "m.csv", "/data")
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"manifest of {len(opened):,} utterances: {seconds:.1f} s, peak {peak:.2f} GiB")


def report(name: str, rates: Sequence[Sequence[float]]) -> None:
    ratio = statistics.median(ours / peer for peer, ours in rates)
    peer, ours = (statistics.median(column) for column in zip(*rates))
    print(f"{name}: peer {peer:.1f}/s, ours {ours:.1f}/s, median ratio {ratio:.2f} of {len(rates)} pairs", flush=True)


def main() -> None:
    tables = {"manifest": manifest, "dynamic": dynamic_mixing, "generation": generation, "scenes": scenes}
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--corpora", type=Path, required=True)
    parser.add_argument("--librimix", type=Path)
    parser.add_argument("--speechbrain", type=Path)
    parser.add_argument("--rows", type=int, default=400)
    parser.add_argument("--scenes", type=int, default=60, help="scenes of a round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--cold", action="store_true", help="read from the disk, as from a corpus larger than the memory"
    )
    parser.add_argument("--tables", nargs="+", default=list(tables), choices=list(tables))
    args = parser.parse_args()
    for name in filter(args.tables.__contains__, tables):  # the manifest first: its peak memory is its own
        with tempfile.TemporaryDirectory() as folder:
            tables[name](args, Path(folder))


if __name__ == "__main__":
    main()
