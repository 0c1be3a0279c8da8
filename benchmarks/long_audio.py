#!/usr/bin/env python3
"""Memory and time of separating long recordings, beside stock SpeechBrain on the same (random) weights.

    python benchmarks/long_audio.py [--network convtasnet-small] [--minutes 1 4 15 60]

Each measurement is a process of its own: peak resident memory with all libraries, seconds of the work itself. Ours
runs what `unified-sess separate` runs, from file to files; stock is `SepformerSeparation.separate_batch` with
SpeechBrain's own classes, from tensor to tensor. Then an input of 8 s, in interleaved pairs.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch

RATE = 8000
REPOSITORY = Path(__file__).resolve().parent.parent


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--network", default="convtasnet-small", help="a file of hparams/networks")
    parser.add_argument(
        "--minutes",
        type=float,
        nargs="*",
        default=[1, 4, 15, 60],
        help="lengths of the recordings; none leaves the input of 8 s",
    )
    parser.add_argument("--stock-gigabytes", type=float, default=12, help="memory that the stock class may take")
    parser.add_argument("--stock-seconds", type=float, default=60, help="time that the stock class may take")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--pairs", type=int, default=9, help="pairs of the 8-second measurement")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        make_models(folder, options.network)
        print(f"{options.network}, {RATE} Hz, {options.threads} threads")
        if options.minutes:
            compare_lengths(folder, options)
        compare_short(folder, options.pairs)


def compare_lengths(folder: Path, options: argparse.Namespace) -> None:
    """Peak memory and seconds by length."""
    print(
        "| minutes | ours: peak MB | s | real-time factor | stock: peak MB | s |\n|---|---|---|---|---|---|", flush=True
    )
    beyond = None  # the limit that the stock class ran into
    for minutes in options.minutes:
        make_recording(folder / "mixture.wav", minutes)
        ours = measure("ours", folder, options)
        stock = measure("stock", folder, options) if beyond is None else {"beyond": beyond}
        beyond = stock.get("beyond")
        factor = ours["seconds"] / 60 / minutes
        cells = f"{beyond} | -" if beyond else f"{stock['megabytes']:.0f} | {stock['seconds']:.1f}"
        print(f"| {minutes:g} | {ours['megabytes']:.0f} | {ours['seconds']:.1f} | {factor:.4f} | {cells} |", flush=True)


def make_models(folder: Path, network: str) -> None:
    """An exported folder with random weights, and the same with SpeechBrain's own classes."""
    from hyperpyyaml import load_hyperpyyaml
    from speechbrain.utils.epoch_loop import EpochCounter

    from unified_sess.model_io.export import export
    from unified_sess.training.checkpoints import AtomicCheckpointer
    from unified_sess.training.experiment import Experiment

    torch.manual_seed(0)
    experiment = Experiment(REPOSITORY / "hparams" / "unified.yaml", {"network": network, "output_folder": str(folder)})
    (folder / "results").mkdir()
    experiment.save(folder / "results" / "hyperparams.yaml")
    modules = load_hyperpyyaml(experiment.text)["modules"]
    AtomicCheckpointer(folder / "results" / "save", {**modules, "counter": EpochCounter(1)}).save_checkpoint()
    export(folder / "results", folder / "ours")
    export(folder / "results", folder / "stock")
    path = folder / "stock" / "hyperparams.yaml"
    path.write_text(path.read_text().replace("unified_sess.nnet.", "speechbrain.lobes.models."))


def make_recording(path: Path, minutes: float) -> None:
    """Speech-like noise, written in pieces."""
    generator = np.random.default_rng(0)
    with soundfile.SoundFile(path, "w", RATE, 1, subtype="PCM_16") as file:
        for _ in range(round(minutes * 6)):
            loudness = np.repeat(generator.random(50), 10 * RATE // 50)
            file.write(0.1 * loudness * generator.standard_normal(10 * RATE))


def measure(kind: str, folder: Path, options: argparse.Namespace) -> dict:
    """Run a measurement in a process of its own; `{"beyond": limit}` when it takes too much memory or time."""
    command = [sys.executable, __file__, "--child", kind, str(folder), str(options.threads)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    end = time.monotonic() + options.stock_seconds
    beyond = None
    while kind == "stock" and beyond is None and process.poll() is None:
        taken, available = memory(process.pid)
        if taken > options.stock_gigabytes or available < 1:
            beyond = f"over {min(taken, options.stock_gigabytes):.0f} GB"
        elif time.monotonic() > end:
            beyond = f"over {options.stock_seconds:.0f} s"
        time.sleep(0.05)
    if beyond is not None:
        process.kill()
    text, _ = process.communicate()
    if beyond is not None:
        return {"beyond": beyond}
    if process.returncode and kind == "stock":
        return {"beyond": "failed"}
    if process.returncode:
        raise SystemExit(f"the measurement ended with status {process.returncode}")
    return json.loads(text.splitlines()[-1])


def memory(pid: int) -> tuple[float, float]:
    """Resident memory of a process and what the machine has left, in GiB (Linux)."""
    taken = int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * resource.getpagesize() / 2**30
    lines = Path("/proc/meminfo").read_text().splitlines()
    return taken, next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable")) / 2**20


def child(kind: str, folder: str | Path, threads: int) -> None:
    """Separate the recording once and print seconds and peak memory as JSON."""
    torch.set_num_threads(threads)
    folder = Path(folder)
    if kind == "ours":
        from unified_sess.inference.files.planning import Job
        from unified_sess.inference.files.separate_files import Options, separate_recording

        model = load_ours(folder)
        (folder / "out").mkdir(exist_ok=True)
        start = time.perf_counter()
        separate_recording(
            model, Job(folder / "mixture.wav", Path(), "mixture"), folder / "out", Options(overwrite=True)
        )
    else:
        model = load_stock(folder)
        mixture = torch.from_numpy(soundfile.read(folder / "mixture.wav", dtype="float32")[0]).unsqueeze(0)
        start = time.perf_counter()
        model.separate_batch(mixture)
    seconds = time.perf_counter() - start
    print(json.dumps({"seconds": seconds, "megabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}))


def load_ours(folder: Path) -> Any:
    """UnifiedSeparation."""
    from unified_sess.inference import UnifiedSeparation

    return UnifiedSeparation.from_pretrained(folder / "ours", device="cpu")


def load_stock(folder: Path) -> Any:
    """SepformerSeparation with SpeechBrain's own classes."""
    from speechbrain.inference.separation import SepformerSeparation

    return SepformerSeparation.from_hparams(source=str(folder / "stock"), run_opts={"device": "cpu"})


def compare_short(folder: Path, pairs: int) -> None:
    """Median seconds for 8 s of audio and the median ratio over interleaved pairs."""
    models = {"ours": load_ours(folder), "stock": load_stock(folder)}
    mixture = 0.1 * torch.randn(1, 8 * RATE)
    outputs = {name: model.separate_batch(mixture) for name, model in models.items()}
    difference = (outputs["ours"] - outputs["stock"]).abs().max()
    times = {name: [] for name in models}
    for _ in range(pairs):
        for name, model in models.items():
            start = time.perf_counter()
            model.separate_batch(mixture)
            times[name].append(time.perf_counter() - start)
    ours, stock = (np.array(times[name]) for name in ("ours", "stock"))
    print(
        f"8 s: ours {np.median(ours):.3f} s, stock {np.median(stock):.3f} s, stock / ours {np.median(stock / ours):.2f}; ",
        end="",
    )
    print(f"largest difference of the outputs {difference:.1e}")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        child(sys.argv[2], sys.argv[3], int(sys.argv[4]))
    else:
        main()
