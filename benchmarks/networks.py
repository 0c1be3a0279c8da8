"""Our networks beside SpeechBrain's of the same size: time and peak memory against the length of the signal.

    python benchmarks/networks.py sepformer --seconds 4 --threads 2
    python benchmarks/networks.py sepformer --seconds 1 2 4 8 16 30 60 --device cuda --precision bf16 --longest
    python benchmarks/networks.py sepformer --seconds 1 2 4 8 16 --device cuda --precision bf16 --cuda-graphs
    python benchmarks/networks.py convtasnet --mode separate --seconds 60
    python benchmarks/networks.py sepformer --seconds 4 --threads 2 --pairs 10 --apart
    python benchmarks/networks.py sepreformer-b --public .. --seconds 1 4 --device cuda --precision bf16 --cuda-graphs

Stock and ours take turns in one process (first theirs, then ours, `--pairs` times); times are medians, the speed-up is
the median of the ratios of neighbours. `train` is forward, backward and an Adam step through the whole network,
`separate` a forward pass without gradients. Memory is the peak above what was held before (weights, gradients and
Adam's averages of both networks) in a run of its own: PyTorch's counter on a GPU, the resident set on a CPU (Linux).
With `--cuda-graphs` our forward and backward pass is recorded and replayed, as with `train.py --cuda_graphs True`;
SpeechBrain's dual-path model cannot be recorded, since it pads with zeros that it copies from the CPU each time.
With `--apart` (CPU) they take turns in processes of their own, ours keeps freed memory as `train.py` does, and the first
three turns do not count, in which glibc learns what to keep: nearer to two trainings than sharing one process, where
each finds the memory as the other left it.
With `--public FOLDER` the separator alone, without enhancer, stands beside the authors' own code (`public_networks.py`),
SepReformer with the sources of all its stages in training.
On a machine that does other work besides, `--threads 1` and the processor time (second ratio, CPU) are steadier.
"""

import argparse
import ctypes
import gc
import multiprocessing
import re
import statistics
import time
from contextlib import AbstractContextManager, nullcontext, suppress
from multiprocessing.connection import Connection
from pathlib import Path

import torch
from hyperpyyaml import load_hyperpyyaml

from unified_sess.network import MODULE_NAMES, NoEnhancer, separate
from unified_sess.training.cuda_graphs import CALLS_BEFORE, Replay
from unified_sess.utils.allocator import keep_freed_memory
from unified_sess.utils.errors import UserError

FOLDER = Path(__file__).resolve().parent.parent / "hparams" / "networks"


def build(name: str, stock: bool, device: str, overrides: dict, public: Path | None = None) -> torch.nn.ModuleDict:
    """The network of a file, or the same with SpeechBrain's classes in the place of ours.

    With a folder of public code it is the separator alone, or the public one in its place.
    """
    text = (FOLDER / f"{name}.yaml").read_text(encoding="utf-8")
    if stock and public is None:
        text = text.replace("!new:unified_sess.nnet.", "!new:speechbrain.lobes.models.")
        text = re.sub(r"^ +activation_checkpointing:.*\n", "", text, flags=re.MULTILINE)
    settings = load_hyperpyyaml(text, overrides)
    if public is not None:
        settings["enhancer"] = NoEnhancer()
    if stock and public is not None:
        from public_networks import public_separator  # beside this script

        settings["masknet"] = public_separator(settings["masknet"], public, settings)
    return torch.nn.ModuleDict({module: settings[module] for module in MODULE_NAMES}).to(device)


class Runner:
    """One network and its optimizer."""

    def __init__(
        self, network: torch.nn.ModuleDict, arguments: argparse.Namespace, sample_rate: int, recorded: bool = False
    ) -> None:
        self.network, self.arguments, self.sample_rate, self.recorded = network, arguments, sample_rate, recorded
        self.parameters = [p for p in network.parameters() if p.requires_grad]
        self.optimizer = torch.optim.Adam(self.parameters, lr=1e-5, fused=True)
        self.start()

    def start(self) -> None:
        """Nothing is recorded yet."""
        self.gradients = Replay(self.gradients_of) if self.recorded else self.gradients_of

    def time(self, seconds: float) -> tuple[float, float] | None:
        """Seconds on the clock and of processor time that a signal takes, or None out of memory."""
        start = time.perf_counter(), time.process_time()
        if not self.run(seconds):
            return None
        return time.perf_counter() - start[0], time.process_time() - start[1]

    def memory(self, seconds: float) -> int | None:
        """Peak bytes that a signal takes, or None out of memory."""
        self.start()  # what a recording holds would count as held before
        before = start_peak(self.arguments.device)
        runs = CALLS_BEFORE + 1 if self.recorded else 1
        return peak(self.arguments.device) - before if all(self.run(seconds) for _ in range(runs)) else None

    def run(self, seconds: float) -> bool:
        """True, or False out of memory."""
        generator = torch.Generator().manual_seed(0)
        signal = torch.randn(self.arguments.batch, round(seconds * self.sample_rate), generator=generator)
        signal = signal.to(self.arguments.device)
        try:
            self.train(signal) if self.arguments.mode == "train" else self.separate(signal)
            synchronize(self.arguments.device)
        except (torch.OutOfMemoryError, UserError):  # the second where it comes up in a recording
            return False
        finally:
            self.optimizer.zero_grad()
        return True

    def precision(self) -> AbstractContextManager:
        kind = "cuda" if self.arguments.device.startswith("cuda") else "cpu"
        return torch.autocast(kind, torch.bfloat16) if self.arguments.precision == "bf16" else nullcontext()

    def train(self, signal: torch.Tensor) -> None:
        for parameter, gradient in zip(self.parameters, self.gradients(signal), strict=True):
            parameter.grad = gradient
        self.optimizer.step()

    def gradients_of(self, signal: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        with self.precision():
            output = separate(self.network, signal, all_steps=True)
        total = sum((sources.float() ** 2).mean() for sources in (output.sources, *output.earlier))
        return torch.autograd.grad(total, self.parameters, allow_unused=True)

    def separate(self, signal: torch.Tensor) -> None:
        with torch.no_grad(), self.precision():
            separate(self.network, signal)


class Apart:
    """A `Runner` in a process of its own."""

    recorded = False

    def __init__(self, stock: bool, arguments: argparse.Namespace, sample_rate: int) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        context.Process(target=serve, args=(stock, arguments, sample_rate, theirs), daemon=True).start()

    def time(self, seconds: float) -> tuple[float, float] | None:
        return self._ask("time", seconds)

    def memory(self, seconds: float) -> int | None:
        return self._ask("memory", seconds)

    def _ask(self, *question):
        self.connection.send(question)
        return self.connection.recv()


def serve(stock: bool, arguments: argparse.Namespace, sample_rate: int, connection: Connection) -> None:
    """Answers calls of a `Runner`'s methods until nobody asks any more."""
    if not stock:
        keep_freed_memory()
    torch.set_num_threads(arguments.threads or torch.get_num_threads())
    runner = runner_of(stock, arguments, sample_rate)
    with suppress(EOFError):
        while True:
            method, seconds = connection.recv()
            connection.send(getattr(runner, method)(seconds))


def runner_of(stock: bool, arguments: argparse.Namespace, sample_rate: int, recorded: bool = False) -> Runner:
    overrides = {"activation_checkpointing": True} if arguments.checkpointing and not stock else {}
    network = build(arguments.network, stock, arguments.device, overrides, arguments.public)
    return Runner(network, arguments, sample_rate, recorded)


def synchronize(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize()


def start_peak(device: str) -> int:
    """Begin to watch memory; returns the bytes held now."""
    gc.collect()
    if device.startswith("cuda"):
        torch.cuda.empty_cache()
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated()
    ctypes.CDLL(None).malloc_trim(0)  # what is free goes back, so that the peak counts from what is held
    Path("/proc/self/clear_refs").write_text("5")
    return _resident("VmRSS")


def peak(device: str) -> int:
    """Most bytes held since `start_peak`."""
    return torch.cuda.max_memory_allocated() if device.startswith("cuda") else _resident("VmHWM")


def _resident(field):
    status = Path("/proc/self/status").read_text()
    return 1024 * int(re.search(rf"^{field}:\s+(\d+) kB", status, re.MULTILINE)[1])


def compare(stock: Runner | Apart, ours: Runner | Apart, seconds: float, pairs: int) -> str:
    """One row: length, both times, ratios of clock and processor time, both memories and their ratio."""
    runners, times = (stock, ours), []
    warm = 3 if isinstance(ours, Apart) else CALLS_BEFORE + 1 if ours.recorded else 1
    for turn in range(pairs + warm):
        pair = [runner.time(seconds) for runner in runners]
        if turn >= warm or None in pair:
            times.append(pair)
    memories = [runner.memory(seconds) for runner in runners]
    cells = [f"{seconds:>7g}"]
    for runs in zip(*times, strict=True):
        cells.append("         -" if None in runs else f"{statistics.median(run[0] for run in runs) * 1e3:>10.0f}")
    for clock, width in ((0, 8), (1, 5)):
        ratios = [theirs[clock] / mine[clock] for theirs, mine in times if theirs and mine]
        cells.append(f"{statistics.median(ratios):>{width}.2f}x" if ratios else f"{'-':>{width + 1}}")
    cells += ["         -" if memory is None else f"{memory / 1e9:>10.2f}" for memory in memories]
    cells.append("      -" if None in memories else f"{memories[1] / max(memories[0], 1):>7.0%}")
    return " ".join(cells)


def longest(runner: Runner) -> float:
    """Longest signal in seconds, to a tenth, that fits into memory."""
    low, high = 0, 1
    while runner.run(high):
        low, high = high, 2 * high
    while high - low > 0.1 * low + 0.1:
        middle = (low + high) / 2
        low, high = (middle, high) if runner.run(middle) else (low, middle)
    return low


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    names = sorted(file.stem for file in FOLDER.glob("*.yaml"))
    parser.add_argument("network", choices=names, help="a file of hparams/networks, without .yaml")
    parser.add_argument("--seconds", type=float, nargs="+", default=[1, 2, 4, 8], help="lengths of the signal")
    parser.add_argument("--mode", choices=["train", "separate"], default="train")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--threads", type=int, default=None, help="CPU threads")
    parser.add_argument("--longest", action="store_true", help="also the longest signal that fits (GPU)")
    parser.add_argument("--cuda-graphs", action="store_true", help="ours recorded and replayed (GPU, train)")
    parser.add_argument("--apart", action="store_true", help="each network in a process of its own (CPU)")
    parser.add_argument("--checkpointing", action="store_true", help="ours with activation checkpointing")
    parser.add_argument("--public", type=Path, help="folder with the authors' code (SepReformer, TF-Locoformer)")
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)

    sample_rate, on_gpu = 8000, arguments.device.startswith("cuda")
    recorded = arguments.cuda_graphs and on_gpu and arguments.mode == "train"
    if arguments.apart and on_gpu:
        parser.error("--apart is for a CPU")
    if arguments.apart:
        runners = [Apart(stock, arguments, sample_rate) for stock in (True, False)]
    else:
        runners = [runner_of(stock, arguments, sample_rate, recorded and not stock) for stock in (True, False)]
    where = torch.cuda.get_device_name() if on_gpu else f"{torch.get_num_threads()} threads"
    how = ", ours replayed" if runners[1].recorded else ", each in its own process" if arguments.apart else ""
    print(f"{arguments.network}, {arguments.mode}, {arguments.precision}, batch {arguments.batch}, {where}{how}")
    print("      s   stock ms    ours ms  speed-up    CPU   stock GB    ours GB  memory", flush=True)
    for seconds in arguments.seconds:
        print(compare(*runners, seconds, arguments.pairs), flush=True)
    if arguments.longest and on_gpu:
        for name, runner in zip(("stock", "ours"), runners, strict=True):
            print(f"longest signal, {name}: {longest(runner):.1f} s", flush=True)


if __name__ == "__main__":
    main()
