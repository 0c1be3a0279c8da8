"""What keeping freed memory saves on a CPU: processor time and peak memory of training steps or separations.

    python benchmarks/allocator.py [--network tfdprnn-small] [--batch 4] [--seconds 3] [--precision bf16]
    python benchmarks/allocator.py --separate --seconds 16

Two processes a repeat, one after the other, of one thread each; medians of user and system time of a step or a batch
(processor time, so that work beside it matters little) and of the largest resident memory. Random signals.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from hyperpyyaml import load_hyperpyyaml
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from benchmarks.train_step import NETWORKS, random_batch
from unified_sess.gradient_modulation import GradientModulation
from unified_sess.network import separate
from unified_sess.training.joint_step import JointStep
from unified_sess.training.utterance_losses import utterance_losses
from unified_sess.utils.allocator import keep_freed_memory


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", default="tfdprnn-small", help=f"a file of {NETWORKS.name}/ without .yaml")
    parser.add_argument("--batch", type=int, default=4, help="mixtures a step")
    parser.add_argument("--seconds", type=float, default=3.0, help="length of a mixture at 8 kHz")
    parser.add_argument("--precision", default="bf16", choices=["fp32", "bf16"])
    parser.add_argument("--separate", action="store_true", help="separate, in fp32, instead of training")
    parser.add_argument("--steps", type=int, default=10, help="steps of a process, the first two are not counted")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--child", choices=["kept", "given back"], help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        return print(json.dumps(measure(arguments)))
    if arguments.steps < 3:
        parser.error("give 3 or more --steps")
    if not keep_freed_memory():
        parser.error("there is no glibc here, or a MALLOC_ variable is set: there is nothing to compare")
    found = {"given back": [], "kept": []}
    for _ in range(arguments.repeats):
        for kind, runs in found.items():
            command = [sys.executable, __file__, *sys.argv[1:], "--child", kind]
            runs.append(
                json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])
            )
    work = "separation" if arguments.separate else f"training in {arguments.precision}"
    print(f"{arguments.network}, {work}, {arguments.batch} x {arguments.seconds:g} s, one thread\n")
    print(
        "| freed memory | user (s a batch) | system (s a batch) | ratio of the sum | peak (GB) |\n|---|---|---|---|---|"
    )
    medians = {kind: [statistics.median(column) for column in zip(*runs)] for kind, runs in found.items()}
    for kind, (user, system, peak) in medians.items():
        ratio = sum(medians["given back"][:2]) / (user + system)
        print(f"| {kind} | {user:.2f} | {system:.2f} | {ratio:.2f} | {peak:.2f} |")


def measure(arguments: argparse.Namespace) -> list[float]:
    """User and system time of a batch (s), and the peak of resident memory (GB)."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    if arguments.child == "kept":
        keep_freed_memory()
    network = load_hyperpyyaml((NETWORKS / f"{arguments.network}.yaml").read_text(encoding="utf-8"))
    modules = {name: network[name] for name in ("encoder", "enhancer", "masknet", "decoder")}
    step = (separation if arguments.separate else training)(arguments, modules)
    for number in range(arguments.steps):
        if number == 2:
            start = resource.getrusage(resource.RUSAGE_SELF)
        step()
    end = resource.getrusage(resource.RUSAGE_SELF)
    times = [(getattr(end, name) - getattr(start, name)) / (arguments.steps - 2) for name in ("ru_utime", "ru_stime")]
    return [*times, end.ru_maxrss * 1024 / 1e9]


def training(arguments: argparse.Namespace, modules: dict[str, nn.Module]) -> Callable[[], object]:
    """A function that takes a training step with gradient modulation."""
    joint = JointStep(modules, GradientModulation("gm"))
    optimizer = torch.optim.Adam(joint.parameters, 1e-5, fused=True)
    batch = random_batch(arguments.batch, round(arguments.seconds * 8000))

    def step():
        with torch.autocast("cpu", torch.bfloat16, enabled=arguments.precision == "bf16"):
            losses = utterance_losses(modules, batch)
        joint.accumulate(losses)
        joint.merge()
        optimizer.step()

    return step


def separation(arguments: argparse.Namespace, modules: dict[str, nn.Module]) -> Callable[[], object]:
    """A function that separates."""
    mixture = random_batch(arguments.batch, round(arguments.seconds * 8000)).mixture
    return torch.no_grad()(lambda: separate(modules, mixture))


if __name__ == "__main__":
    main()
