"""What gradient modulation costs: FLOPs, time and peak memory of a training step, as ratios to joint training.

    python benchmarks/train_step.py --network sepformer --device cpu --seconds 0.5
    python benchmarks/train_step.py --network dprnn --device cuda --precision bf16 --seconds 4 --repeats 20 --cuda-graphs

One row a rule, one step of `UnifiedBrain.fit_batch` each, interleaved; medians. `textbook` is the naive two-backward loop: two calls
of `backward` with copies of `grad`, then dot product, test and projection tensor by tensor. Random signals. The first
command takes two minutes on two cores; FLOPs and memory want a longer signal on a larger machine. Memory is all that
tensors hold, weights and Adam's averages included: the allocator's counter on a GPU, the profiler's events on a CPU.
"""

import argparse
import gc
import itertools
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from hyperpyyaml import load_hyperpyyaml
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from unified_sess.data.batches import Batch
from unified_sess.gradient_modulation import GradientModulation
from unified_sess.training.brain import UnifiedBrain
from unified_sess.training.utterance_losses import utterance_losses

NETWORKS = Path(__file__).resolve().parent.parent / "hparams" / "networks"


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", default="sepformer", help=f"a file of {NETWORKS.name}/ without .yaml")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--precision", default="fp32", choices=["fp32", "bf16", "fp16"])
    parser.add_argument("--batch", type=int, default=1, help="mixtures a step")
    parser.add_argument("--seconds", type=float, default=2.0, help="length of a mixture at 8 kHz")
    parser.add_argument("--repeats", type=int, default=5, help="timed steps of each rule")
    parser.add_argument("--cuda-graphs", action="store_true", help="replay steps, as train.py does (all but textbook)")
    parser.add_argument("--rows", nargs="+", help="rows beside sum, such as gm textbook; by default all")
    parser.add_argument("--torchjd", default="MGDA", help="aggregator of TorchJD; left out where it cannot be had")
    arguments = parser.parse_args()

    torch.manual_seed(0)
    batch = random_batch(arguments.batch, round(arguments.seconds * 8000))
    steps = make_steps(arguments, batch)
    if arguments.rows:
        if unknown := set(arguments.rows) - set(steps):
            parser.error(f"no row {unknown.pop()!r}: choose from {', '.join(steps)}")
        steps = {name: step for name, step in steps.items() if name in ("sum", *arguments.rows)}
    flops = {name: count_flops(step) for name, step in steps.items()}  # also the warm-up
    memory = {
        name: peak_of(step, arguments.device) for name, step in steps.items()
    }  # the second call: none is recorded yet
    for step in steps.values():
        step()  # the call that records
    times = {name: [] for name in steps}
    for _ in range(arguments.repeats):
        for name, step in steps.items():
            times[name].append(seconds_of(step, arguments.device))
    title = (
        f"{arguments.network}, {arguments.batch} x {arguments.seconds:g} s, {arguments.precision}, {arguments.device}"
    )
    title += ", replayed" if arguments.cuda_graphs else ""
    print_table(title, flops, times, memory)


def make_steps(arguments: argparse.Namespace, batch: Batch) -> dict[str, Callable[[], object]]:
    """Name of a row to a function that makes one training step; all train the same network."""
    network = load_hyperpyyaml((NETWORKS / f"{arguments.network}.yaml").read_text(encoding="utf-8"))
    modules = {name: network[name] for name in ("encoder", "enhancer", "masknet", "decoder")}
    parameters = sum(p.numel() for m in modules.values() for p in m.parameters())
    shared = sum(p.numel() for name in ("encoder", "enhancer") for p in modules[name].parameters())
    print(f"{parameters / 1e6:.2f} M parameters, {shared / 1e6:.2f} M of them shared by both tasks")
    rules = {"separation only": "sum", "sum": "sum", "gm": "gm", "pcgrad": "pcgrad", "remedy": "remedy"}
    rules[f"torchjd:{arguments.torchjd}"] = f"torchjd:{arguments.torchjd}"
    steps, optimizer = {}, None
    for name, rule in rules.items():
        try:
            modulation = GradientModulation(rule)
        except ValueError as error:
            print(f"left out {name}: {error}", file=sys.stderr)
            continue
        hparams = {
            "modulation": modulation,
            "enhancement_weight": 0.0 if name == "separation only" else 0.1,
            "threshold": -30.0,
            "gradient_statistics": False,  # sum: one backward pass, as plain joint training
            "detach_clean_features": False,
            "lr": 1e-5,
            "lr_factors": {},
            "freeze": [],
            "cuda_graphs": arguments.cuda_graphs,
            "training_signal_len": arguments.seconds,
        }
        run_opts = {"device": arguments.device, "precision": arguments.precision, "max_grad_norm": 5.0}
        brain = UnifiedBrain(modules, lambda p: torch.optim.Adam(p, 1e-5, fused=True), hparams, run_opts)
        brain.modules.train()
        brain.init_optimizers()
        optimizer = optimizer or brain.optimizer
        brain.optimizer = optimizer
        brain.optimizers_dict = {"opt_class": optimizer}
        steps[name] = _fit_batch(brain, batch)
        if name == "gm":
            steps["textbook"] = _textbook(brain, batch)
    return steps


def _fit_batch(brain, batch):
    def step():
        brain.step += 1
        brain.fit_batch(batch)

    return step


def _textbook(brain, batch):
    modules, optimizer, scaler = brain.modules, brain.optimizer, brain.scaler
    parameters = brain.joint_step.parameters
    shared = brain.joint_step.shared

    def step():
        with brain.training_ctx:
            losses = utterance_losses(modules, batch.to(brain.device))
            se, ss = 0.1 * losses.enhancement.mean(), losses.separation.mean()
        scaler.scale(se).backward(retain_graph=True)
        se_grads = [None if p.grad is None else p.grad.clone() for p in shared]
        optimizer.zero_grad()
        scaler.scale(ss).backward()
        for parameter, g in zip(shared, se_grads):
            if g is None or parameter.grad is None:
                continue
            dot = (g * parameter.grad).sum()
            if dot < 0:
                g = g - dot / parameter.grad.square().sum() * parameter.grad
            parameter.grad += g
        scaler.unscale_(optimizer)
        torch.nn.utils.clip_grad_norm_(parameters, 5.0)
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()

    return step


def random_batch(size: int, frames: int) -> Batch:
    """Noise-like sources and noise."""
    sources = 0.1 * torch.randn(size, frames, 2)
    clean = sources.sum(-1)
    mixture = clean + 0.03 * torch.randn_like(clean)
    return Batch([str(i) for i in range(size)], mixture, clean, sources, torch.full((size,), frames))


def count_flops(step: Callable[[], object]) -> float:
    """Floating-point operations of matrix products, convolutions, attention and LSTMs, forward and backward."""
    lstm = _LstmFlops()
    with lstm, sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        step()
    # The counter sees nothing of a fused LSTM; where it is taken apart, only its matrix products.
    fused = sum(v for k, v in counter.get_flop_counts()["Global"].items() if "lstm" in str(k) or "rnn" in str(k))
    return counter.get_total_flops() - fused + lstm.flops


class _LstmFlops:
    """FLOPs of every LSTM by formula: twice the weights a frame forward, twice that for each pass backward."""

    def __init__(self) -> None:
        self.flops, self.handle = 0, None

    def __enter__(self):
        self.handle = torch.nn.modules.module.register_module_forward_hook(self._forward)
        return self

    def __exit__(self, *_):
        self.handle.remove()

    def _forward(self, module, inputs, output):
        if not isinstance(module, torch.nn.LSTM):
            return
        x = inputs[0]
        weights = sum(w.numel() for name, w in module.named_parameters() if "weight" in name)
        flops = 2 * weights * (x.numel() // x.shape[-1])
        self.flops += flops
        if output[0].requires_grad:
            output[0].register_hook(lambda gradient: self._backward(2 * flops))

    def _backward(self, flops):
        self.flops += flops


def seconds_of(step: Callable[[], object], device: str) -> float:
    """Wall time of a step."""
    gc.collect()
    _wait(device)
    start = time.perf_counter()
    step()
    _wait(device)
    return time.perf_counter() - start


def peak_of(step: Callable[[], object], device: str) -> int:
    """Largest memory in bytes that tensors take during a step."""
    if device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats(device)
        step()
        return torch.cuda.max_memory_allocated(device)
    gc.collect()
    tensors = [x for x in gc.get_objects() if issubclass(type(x), torch.Tensor)]
    held = sum({x.untyped_storage().data_ptr(): x.untyped_storage().nbytes() for x in tensors}.values())
    del tensors
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True) as profiler:
        step()
    # Resident memory would do, but what the C library keeps to itself varies by several percent.
    events = [e for e in profiler.profiler.kineto_results.events() if e.name() == "[memory]"]
    changes = [e.nbytes() for e in sorted(events, key=lambda e: e.start_ns())]
    return held + max(itertools.accumulate(changes))


def _wait(device):
    if device.startswith("cuda"):
        torch.cuda.synchronize()


def print_table(
    title: str, flops: Mapping[str, float], times: Mapping[str, list[float]], memory: Mapping[str, float]
) -> None:
    """A Markdown table; a time's ratio is the median of the ratios of interleaved pairs."""
    print(f"\n{title}\n\n| rule | GFLOP | ratio | time, ms | ratio | peak, MB | ratio |\n|---|---|---|---|---|---|---|")
    for name, seconds in times.items():
        ratio = statistics.median(a / b for a, b in zip(seconds, times["sum"]))
        print(
            f"| {name} | {flops[name] / 1e9:.1f} | {flops[name] / flops['sum']:.3f} "
            f"| {1000 * statistics.median(seconds):.0f} | {ratio:.3f} "
            f"| {memory[name] / 1e6:.0f} | {memory[name] / memory['sum']:.3f} |"
        )


if __name__ == "__main__":
    main()
