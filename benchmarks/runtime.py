#!/usr/bin/env python3
"""`unified-sess separate` with torch and as an ONNX file: start-up, real-time factor and peak memory, in pairs.

Each run is a process of its own, torch and ONNX in turns; a pair is one of each. `--onnx-python` takes the Python of an
environment with the small package alone (`pip install ./packaging/runtime`), else both run in this one. Other work on
the machine makes seconds longer, and processor time hardly: both are printed, as medians over the pairs.

    python benchmarks/runtime.py [--onnx-python fresh/bin/python] [--network bandsplit-small] [--pairs 5] [--seconds 60] [--recording FILE]
"""

import argparse
import os
import re
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile

RATE = 16000
SHORT = 3.0  # s of the recording that start-up is measured with
RUNTIMES = ("torch", "onnx")
FACTOR = re.compile(r"real-time factor ([\d.]+)")


class Run(NamedTuple):
    """What a process took: wall-clock and processor time in s, peak memory in MB, real-time factor of the separation."""

    wall: float
    processor: float
    megabytes: float
    factor: float


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--torch-python", default=sys.executable, help="Python with the whole package")
    parser.add_argument("--onnx-python", default=sys.executable, help="Python with the small package")
    parser.add_argument("--model", help="model folder with model.onnx; without it the model that ships")
    parser.add_argument("--network", help="a file of hparams/networks instead, with random weights, 3 people, 16 kHz")
    parser.add_argument(
        "--agreement", action="store_true", help="how far ONNX is from torch by length, and nothing else"
    )
    parser.add_argument("--pairs", type=int, default=5, help="runs of each")
    parser.add_argument("--seconds", type=float, default=60, help="of the long recording")
    parser.add_argument("--cores", type=int, nargs="*", default=[1, 2], help="cores that a process may use")
    parser.add_argument("--recording", help="sound file to take both recordings from; without it noise")
    options = parser.parse_args()
    if options.agreement:
        return agreement(options.model)
    print(f"load of the machine at the start: {os.getloadavg()[0]:.1f}")
    print(
        "| recording, cores | runtime | s | s of processor time | peak MB | real-time factor |\n|---|---|---|---|---|---|"
    )
    with tempfile.TemporaryDirectory() as folder:
        short, long = Path(folder, "short.wav"), Path(folder, "long.wav")
        for path, seconds in ((short, SHORT), (long, options.seconds)):
            soundfile.write(path, samples(seconds, options.recording), RATE)
        if options.network:
            options.model = str(make_model(Path(folder, "model"), options.network))
        compare(short, SHORT, 1, options)
        for cores in options.cores:
            compare(long, options.seconds, cores, options)


def agreement(source: str | None) -> None:
    """A table of the largest deviation of a folder's model.onnx from torch, as a share of the largest sample, by length."""
    from unified_sess.model_io import onnx_export
    from unified_sess.model_io.model_files import load_model
    from unified_sess.model_io.model_folder import ONNX, find_model

    folder = find_model(source)
    config, modules = load_model(folder)
    print("| s | mixtures at once | largest deviation |\n|---|---|---|")
    for trial in onnx_export.TRIALS:
        onnx_export.TRIALS = (trial,)
        deviation = onnx_export.check_onnx((folder / ONNX).read_bytes(), config, modules)
        print(f"| {trial[0]:g} | {trial[1]} | {deviation:.1e} |", flush=True)


def make_model(folder: Path, network: str) -> Path:
    """A model folder with model.onnx of a network with random weights."""
    import torch
    from hyperpyyaml import load_hyperpyyaml

    from unified_sess.model_io.model_files import save_model
    from unified_sess.model_io.model_folder import ONNX, ModelConfig
    from unified_sess.model_io.module_tree import trees_of_experiment
    from unified_sess.model_io.onnx_export import to_onnx
    from unified_sess.training.experiment import Experiment

    torch.manual_seed(0)
    options = {"network": network, "num_spks": 3, "sample_rate": RATE, "output_folder": str(folder)}
    text = Experiment(Path(__file__).resolve().parent.parent / "hparams/unified.yaml", options).text
    modules = load_hyperpyyaml(text)["modules"]
    config = ModelConfig(trees_of_experiment(text, network)[0], 3, RATE)
    folder.mkdir(exist_ok=True)
    save_model(folder, config, modules)
    (folder / ONNX).write_bytes(to_onnx(config, modules))
    return folder


def samples(seconds: float, recording: str | None) -> np.ndarray:
    """Seconds of a recording at 16 kHz, repeated where it is shorter; of noise that swells without one."""
    if recording is None:
        noise = 0.1 * np.random.default_rng(0).standard_normal(round(seconds * RATE))
        return noise * (1 + np.sin(np.arange(len(noise)) / RATE))
    signal, rate = soundfile.read(recording, always_2d=True)
    if rate != RATE:
        raise SystemExit(f"{recording} has {rate} Hz: give one of {RATE} Hz")
    return np.resize(signal.mean(1), round(seconds * RATE))


def compare(path: Path, seconds: float, cores: int, options: argparse.Namespace) -> None:
    """A row for each runtime, and how they compare pair by pair."""
    runs: dict[str, list[Run]] = {runtime: [] for runtime in RUNTIMES}
    for _ in range(options.pairs):
        for runtime in RUNTIMES:
            runs[runtime].append(separated(runtime, path, cores, options))
    for runtime in RUNTIMES:
        wall, processor, megabytes, factor = (statistics.median(column) for column in zip(*runs[runtime]))
        what = f"{seconds:g} s, {cores}"
        print(f"| {what} | {runtime} | {wall:.2f} | {processor:.2f} | {megabytes:.0f} | {factor:.3f} |")
    pairs = list(zip(runs["torch"], runs["onnx"]))
    for field in Run._fields:
        print(f"torch / onnx, {field}: {spread(getattr(a, field) / getattr(b, field) for a, b in pairs)}", flush=True)


def spread(values: Iterable[float]) -> str:
    """Smallest to largest value and the median."""
    values = sorted(values)
    return f"{values[0]:.2f} to {values[-1]:.2f} (median {statistics.median(values):.2f})"


def separated(runtime: str, path: Path, cores: int, options: argparse.Namespace) -> Run:
    """Run the command once, from the repository with torch, as it is installed with ONNX."""
    python = options.torch_python if runtime == "torch" else options.onnx_python
    with tempfile.TemporaryDirectory() as results:
        command = [python, "-m", "unified_sess.cli", "separate", str(path), "--output-dir", results]
        command += ["--runtime", runtime, *(["--model", options.model] if options.model else [])]
        command += ["--device", "cpu"]
        environment = os.environ | {"OMP_NUM_THREADS": str(cores)}
        if python != sys.executable:  # so that it does not find the sources of this repository
            environment.pop("PYTHONPATH", None)
        affinity = set(sorted(os.sched_getaffinity(0))[:cores])
        begin = os.times().elapsed
        process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
            cwd=results,
            preexec_fn=lambda: os.sched_setaffinity(0, affinity),
        )
        out, err = process.stdout.read(), process.stderr.read()
        _, status, usage = os.wait4(process.pid, 0)
        wall = os.times().elapsed - begin
        if status:
            raise SystemExit(err)
        factor = float(FACTOR.search(out)[1])
        return Run(wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024, factor)


if __name__ == "__main__":
    main()
