"""Our networks beside SpeechBrain's of the same size: time and peak memory against the length of the signal.

    python benchmarks/networks.py sepformer --seconds 4 --threads 2
    python benchmarks/networks.py sepformer --seconds 1 2 4 8 16 30 60 --device cuda --precision bf16 --longest
    python benchmarks/networks.py convtasnet --mode separate --seconds 60

Stock and ours take turns in one process (first theirs, then ours, `--pairs` times); times are medians, the speed-up is
the median of the ratios of neighbours. `train` is forward, backward and an Adam step through the whole network,
`separate` a forward pass without gradients. Memory is the peak above what was held before (weights, gradients and
Adam's averages of both networks): PyTorch's counter on a GPU, the resident set on a CPU (Linux).
"""

import argparse
import ctypes
import gc
import re
import statistics
import time
from contextlib import nullcontext
from pathlib import Path

import torch
from hyperpyyaml import load_hyperpyyaml

from unified_sess.network import MODULE_NAMES, separate

FOLDER = Path(__file__).resolve().parent.parent / "hparams" / "networks"


def build(name, stock, device, overrides):
    """The network of a file, or the same with SpeechBrain's classes in the place of ours."""
    text = (FOLDER / f"{name}.yaml").read_text(encoding="utf-8")
    if stock:
        text = text.replace("!new:unified_sess.nnet.", "!new:speechbrain.lobes.models.")
        text = re.sub(r"^ +activation_checkpointing:.*\n", "", text, flags=re.MULTILINE)
    settings = load_hyperpyyaml(text, overrides)
    return torch.nn.ModuleDict({module: settings[module] for module in MODULE_NAMES}).to(device)


class Runner:
    """One network and its optimizer; `run(seconds)` gives seconds taken and peak bytes, or None out of memory."""

    def __init__(self, network, arguments, sample_rate):
        self.network, self.arguments, self.sample_rate = network, arguments, sample_rate
        self.optimizer = torch.optim.Adam(network.parameters(), lr=1e-5)

    def run(self, seconds):
        device = self.arguments.device
        generator = torch.Generator().manual_seed(0)
        signal = torch.randn(self.arguments.batch, round(seconds * self.sample_rate), generator=generator).to(device)
        before = start_peak(device)
        start = time.perf_counter()
        try:
            self.train(signal) if self.arguments.mode == "train" else self.separate(signal)
            synchronize(device)
        except torch.OutOfMemoryError:
            return None
        finally:
            self.optimizer.zero_grad()
        return time.perf_counter() - start, peak(device) - before

    def precision(self):
        kind = "cuda" if self.arguments.device.startswith("cuda") else "cpu"
        return torch.autocast(kind, torch.bfloat16) if self.arguments.precision == "bf16" else nullcontext()

    def train(self, signal):
        with self.precision():
            output = separate(self.network, signal)
        (output.sources.float() ** 2).mean().backward()
        self.optimizer.step()

    def separate(self, signal):
        with torch.no_grad(), self.precision():
            separate(self.network, signal)


def synchronize(device):
    if device.startswith("cuda"):
        torch.cuda.synchronize()


def start_peak(device):
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


def peak(device):
    """Most bytes held since `start_peak`."""
    return torch.cuda.max_memory_allocated() if device.startswith("cuda") else _resident("VmHWM")


def _resident(field):
    status = Path("/proc/self/status").read_text()
    return 1024 * int(re.search(rf"^{field}:\s+(\d+) kB", status, re.MULTILINE)[1])


def compare(stock, ours, seconds, pairs):
    """One row: length, both times, ratio, both memories."""
    measured = {"stock": [], "ours": []}
    for turn in range(pairs + 1):  # the first pair warms up
        for name, runner in (("stock", stock), ("ours", ours)):
            result = runner.run(seconds)
            if turn or result is None:
                measured[name].append(result)
    cells = [f"{seconds:>7g}"]
    failed = {name: None in results for name, results in measured.items()}
    for column in (0, 1):
        for name, results in measured.items():
            value = float("nan") if failed[name] else statistics.median(result[column] for result in results)
            cells.append(f"{value * 1e3:>10.0f}" if column == 0 else f"{value / 1e9:>10.2f}")
    if any(failed.values()):
        ratio, share = "   -", "   -"
    else:
        both = list(zip(measured["stock"], measured["ours"], strict=True))
        ratio = f"{statistics.median(a[0] / b[0] for a, b in both):.2f}x"
        share = f"{statistics.median(b[1] / max(a[1], 1) for a, b in both):.0%}"
    cells.insert(3, f"{ratio:>9}")
    return " ".join([*cells, f"{share:>7}"])


def longest(runner):
    """Longest signal in seconds, to a tenth, that fits into memory."""
    low, high = 0, 1
    while runner.run(high) is not None:
        low, high = high, 2 * high
    while high - low > 0.1 * low + 0.1:
        middle = (low + high) / 2
        low, high = (low, middle) if runner.run(middle) is None else (middle, high)
    return low


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("network", help="a file of hparams/networks, without .yaml")
    parser.add_argument("--seconds", type=float, nargs="+", default=[1, 2, 4, 8], help="lengths of the signal")
    parser.add_argument("--mode", choices=["train", "separate"], default="train")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--threads", type=int, default=None, help="CPU threads")
    parser.add_argument("--longest", action="store_true", help="also the longest signal that fits (GPU)")
    parser.add_argument("--checkpointing", action="store_true", help="ours with activation checkpointing")
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)

    sample_rate = 8000
    runners = []
    for stock in (True, False):
        overrides = {"activation_checkpointing": True} if arguments.checkpointing and not stock else {}
        runners.append(Runner(build(arguments.network, stock, arguments.device, overrides), arguments, sample_rate))
    where = torch.cuda.get_device_name() if arguments.device.startswith("cuda") else f"{torch.get_num_threads()} threads"
    print(f"{arguments.network}, {arguments.mode}, {arguments.precision}, batch {arguments.batch}, {where}")
    print("      s   stock ms    ours ms  speed-up  stock GB    ours GB  memory", flush=True)
    for seconds in arguments.seconds:
        print(compare(*runners, seconds, arguments.pairs), flush=True)
    if arguments.longest and arguments.device.startswith("cuda"):
        for name, runner in zip(("stock", "ours"), runners, strict=True):
            print(f"longest signal, {name}: {longest(runner):.1f} s", flush=True)


if __name__ == "__main__":
    main()
