#!/usr/bin/env python3
"""How long a training step takes beside other busy processes, by how OpenMP's threads wait for one another.

Threads that spin at a barrier keep a core from the very thread they wait for, as soon as there are fewer free cores than
threads. Each way of waiting is a process of its own; quiet and busy runs take turns.

    python benchmarks/busy_machine.py [--rounds 3] [--steps 5] [--busy 1] [--threads 2]
"""

import argparse
import multiprocessing
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

WAYS = {
    "as it comes": {},
    "OMP_WAIT_POLICY=passive": {"OMP_WAIT_POLICY": "passive"},
    "GOMP_SPINCOUNT=1000": {"GOMP_SPINCOUNT": "1000"},
    "GOMP_SPINCOUNT=10000": {"GOMP_SPINCOUNT": "10000"},
    "one thread": {"OMP_NUM_THREADS": "1"},
}


def spin() -> None:
    """Another busy process."""
    while True:
        pass


def measure(steps: int) -> None:
    """Print the median seconds of a step of the default experiment's network on 4 x 2 s at 8 kHz."""
    from functools import partial

    from hyperpyyaml import load_hyperpyyaml

    from tests.networks import brain_settings, random_batch
    from unified_sess.training.brain import UnifiedBrain
    from unified_sess.training.muon import MuonAdamW

    network = Path(__file__).parent.parent / "hparams/networks/tfdprnn-laptop.yaml"
    parts = load_hyperpyyaml(network.read_text(encoding="utf-8"))
    modules = {name: parts[name] for name in ("encoder", "enhancer", "masknet", "decoder")}
    optimizer = partial(MuonAdamW, lr=1e-4, muon=True)
    brain = UnifiedBrain(modules, optimizer, brain_settings(), {"device": "cpu"})
    brain.init_optimizers()
    batch, times = random_batch([16000] * 4), []
    for brain.step in range(1, steps + 2):
        begin = time.perf_counter()
        brain.fit_batch(batch)
        times.append(time.perf_counter() - begin)
    print(statistics.median(times[1:]))


def main() -> None:
    """Measure all ways and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="pairs of a quiet and a busy run")
    parser.add_argument("--steps", type=int, default=5, help="steps of a run")
    parser.add_argument("--busy", type=int, default=1, help="other processes of the busy runs")
    parser.add_argument("--threads", type=int, default=2, help="OpenMP's threads of a step")
    parser.add_argument("--measure", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        return measure(arguments.measure)
    command = [sys.executable, __file__, "--measure", str(arguments.steps)]
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("OMP_", "KMP_", "GOMP_"))}
    times = {(way, busy): [] for way in WAYS for busy in (False, True)}
    print(f"load of the machine at the start: {os.getloadavg()[0]:.1f}")
    for _ in range(arguments.rounds):
        for way, variables in WAYS.items():
            for busy in (False, True):
                others = [multiprocessing.Process(target=spin, daemon=True) for _ in range(arguments.busy * busy)]
                for other in others:
                    other.start()
                environment = clean | {"OMP_NUM_THREADS": str(arguments.threads)} | variables
                done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
                times[way, busy].append(float(done.stdout.splitlines()[-1]))
                print(f"{way}, {'busy' if busy else 'quiet'}: {times[way, busy][-1]:.2f} s", flush=True)
                for other in others:
                    other.kill()
    print(f"{'way':<28}{'quiet (s)':>12}{'busy (s)':>12}   all runs")
    for way in WAYS:
        quiet, busy = times[way, False], times[way, True]
        runs = " ".join(f"{a:.2f}/{b:.2f}" for a, b in zip(quiet, busy))
        print(f"{way:<28}{statistics.median(quiet):>12.2f}{statistics.median(busy):>12.2f}   {runs}")


if __name__ == "__main__":
    main()
