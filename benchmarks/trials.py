"""Networks after equal processor time of training on equal data: which learns fastest on a CPU.

    python benchmarks/trials.py trials.json --speech libri.npy more.npy --noise tr.npy --dev-speech dev.npy --dev-noise cv.npy --minutes 12 --output results/trials

`trials.json` is a list of trials, `{"what": ..., "network": "bandsplit-small", "options": {...}, "lr": 0.001,
"batch": 4, "seconds": 2.0, "step_weight": 0.3, "precision": "fp32"}`, of which all but `what` and `network` have these or empty defaults.
An `.npy` file holds all recordings of a part decoded to int16 at 16 kHz, one after the other, and a `.json` of the same
name a list of `[speaker, first sample, samples]`, so that data never waits. Trials run one after the other with one
thread. Time is the processor time of the process (the learning rate falls with it too), so that other work on the
machine changes little; every trial of a seed sees the same mixtures in the same order. A killed run goes on with the same
command: its last state is saved every minute of processor time. The table is printed after each trial and stands in OUTPUT/table.md.
Training is separation and enhancement with gradient modulation, as `train.py` does it.
"""

import argparse
import json
import os
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from hyperpyyaml import load_hyperpyyaml

from unified_sess.data import mixing
from unified_sess.data.batches import Batch
from unified_sess.gradient_modulation import GradientModulation
from unified_sess.losses import si_snr_improvement
from unified_sess.network import MODULE_NAMES, separate
from unified_sess.training.joint_step import JointStep
from unified_sess.training.utterance_losses import LossChoice, utterance_losses

RATE = 16000
NETWORKS = Path(__file__).resolve().parent.parent / "hparams" / "networks"
DEFAULTS = {"options": {}, "lr": 1e-3, "batch": 4, "seconds": 2.0, "step_weight": 0.3, "precision": "fp32"}
DEV_MIXTURES, DEV_SECONDS = 40, 4.0
SAVE_EVERY = 60.0  # seconds of processor time
WARM_UP = 0.05  # share of the time in which the learning rate rises
LAMBDA = 0.1


class RecordingPool:
    """Recordings of speakers or noises, decoded one after the other."""

    def __init__(self, files: Sequence[Path]) -> None:
        self.signals = [np.load(file, mmap_mode="r") for file in files]
        self.by_name = {}
        for number, file in enumerate(files):
            for name, start, frames in json.loads(Path(file).with_suffix(".json").read_text()):
                if frames > RATE:
                    self.by_name.setdefault(name, []).append((number, start, frames))
        self.names = sorted(self.by_name)

    def crop(self, name: str, length: int, random: np.random.Generator) -> np.ndarray:
        """A stretch `[length]`, float32, that is not silent; short recordings are repeated."""
        recordings = self.by_name[name]
        for _ in range(10):
            number, start, frames = recordings[int(random.integers(len(recordings)))]
            skip = int(random.integers(max(1, frames - length + 1)))
            signal = self.signals[number][start + skip : start + min(frames, skip + length)] / np.float32(32768)
            if np.abs(signal).max() > 0.01:
                break
        return mixing.extend_noise(signal, length)


def make_batch(
    speech: RecordingPool, noise: RecordingPool, count: int, seconds: float, random: np.random.Generator
) -> Batch:
    """Noisy mixtures of two people at loudness drawn as power, `Batch`."""
    length = int(seconds * RATE)
    sources = np.zeros((count, length, 2), np.float32)
    mixture = np.zeros((count, length), np.float32)
    for row in range(count):
        for k, name in enumerate(random.choice(len(speech.names), 2, replace=False)):
            sources[row, :, k] = _at_level(speech.crop(speech.names[name], length, random), random.uniform(-30, -25))
        name = noise.names[int(random.integers(len(noise.names)))]
        mixture[row] = sources[row].sum(1) + _at_level(noise.crop(name, length, random), random.uniform(-38, -30))
    sources, mixture = torch.from_numpy(sources), torch.from_numpy(mixture)
    return Batch([], mixture, sources.sum(2), sources, torch.full((count,), length))


def _at_level(signal, level):
    return signal * np.float32(10 ** (level / 20) / (np.sqrt(np.mean(signal**2)) + 1e-8))


def build(trial: dict) -> torch.nn.ModuleDict:
    """The modules of a trial's network."""
    text = (NETWORKS / f"{trial['network']}.yaml").read_text(encoding="utf-8")
    settings = load_hyperpyyaml(text, {"num_spks": 2, "sample_rate": RATE} | trial["options"])
    return torch.nn.ModuleDict({name: settings[name] for name in MODULE_NAMES})


@torch.no_grad()
def improvement(modules: torch.nn.ModuleDict, batches: Sequence[Batch]) -> float:
    """Mean SI-SNRi in dB."""
    values = [si_snr_improvement(separate(modules.eval(), b.mixture).sources, b.sources, b.mixture) for b in batches]
    modules.train()
    return float(torch.cat(values).mean())


def speed(modules: torch.nn.ModuleDict, seconds: int = 8) -> float:
    """Milliseconds of processor time that a second of audio takes, the best of three."""
    signal, best = torch.randn(1, seconds * RATE), float("inf")
    modules.eval()
    with torch.no_grad():
        for _ in range(4):
            start = time.process_time()
            separate(modules, signal)
            best = min(best, time.process_time() - start)
    modules.train()
    return 1000 * best / seconds


class TrialRun:
    """The training of one trial, which goes on where it was killed."""

    def __init__(self, trial: dict, arguments: argparse.Namespace) -> None:
        self.trial, self.arguments = trial, arguments
        torch.manual_seed(arguments.seed)
        self.modules = build(trial)
        self.joint = JointStep(self.modules, GradientModulation("gm"), LAMBDA, -30.0, False)
        self.optimizer = torch.optim.Adam(self.modules.parameters(), lr=trial["lr"], fused=True)
        self.file = arguments.output / f"{trial['what'].replace(' ', '_').replace('/', '-')}-{arguments.seed}.pt"
        self.step, self.used, self.curve = 0, 0.0, []
        if self.file.exists():
            state = torch.load(self.file, weights_only=True)
            self.step, self.used, self.curve = state["step"], state["used"], state["curve"]
            for name in ("modules", "optimizer"):
                getattr(self, name).load_state_dict(state[name])

    def save(self) -> None:
        """Write the state to a file beside and put it in place at once."""
        state = {"step": self.step, "used": self.used, "curve": self.curve}
        state |= {name: getattr(self, name).state_dict() for name in ("modules", "optimizer")}
        new = self.file.with_suffix(".new")
        torch.save(state, new)
        os.replace(new, self.file)

    def train(self, speech: RecordingPool, noise: RecordingPool) -> None:
        """Train until the processor time is used up."""
        total, choice = 60 * self.arguments.minutes, LossChoice(step_weight=self.trial["step_weight"])
        saved = self.used
        while self.used < total:
            random = np.random.default_rng([self.arguments.seed, self.step])
            batch = make_batch(speech, noise, self.trial["batch"], self.trial["seconds"], random)
            start = time.process_time()
            done = self.used / total
            for group in self.optimizer.param_groups:
                group["lr"] = self.trial["lr"] * min(1.0, (done + 0.002) / WARM_UP) * (1 - 0.8 * done)
            with torch.autocast("cpu", torch.bfloat16, enabled=self.trial["precision"] == "bf16"):
                losses = utterance_losses(self.modules, batch, choice)
            self.joint.add(self.joint.gradients(losses, None))
            self.joint.merge(None)
            torch.nn.utils.clip_grad_norm_(self.modules.parameters(), 5.0)
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
            self.used += time.process_time() - start
            self.step += 1
            self.curve.append([self.used, float(losses.separation.detach().mean())])
            if self.used - saved > SAVE_EVERY or self.used >= total:
                saved = self.used
                self.save()
                recent = [loss for _, loss in self.curve[-20:]]
                print(
                    f"{self.trial['what']}: {self.used:.0f} s, step {self.step}, loss {np.mean(recent):.2f}", flush=True
                )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("trials", type=Path)
    for name in ("--speech", "--noise", "--dev-speech", "--dev-noise"):
        parser.add_argument(name, type=Path, nargs="+", required=True)
    parser.add_argument("--minutes", type=float, default=30.0, help="of processor time a trial")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--output", type=Path, default=Path("results/trials"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    arguments.output.mkdir(parents=True, exist_ok=True)
    speech, noise = RecordingPool(arguments.speech), RecordingPool(arguments.noise)
    dev_speech, dev_noise = RecordingPool(arguments.dev_speech), RecordingPool(arguments.dev_noise)
    dev = [
        make_batch(dev_speech, dev_noise, 4, DEV_SECONDS, np.random.default_rng([9, k]))
        for k in range(DEV_MIXTURES // 4)
    ]
    table = arguments.output / "table.md"
    rows = [
        "| what | parameters | ms a second | steps | training loss | SI-SNRi (dB) |",
        "|---" * 6 + "|",
    ]
    for trial in json.loads(arguments.trials.read_text()):
        run = TrialRun(DEFAULTS | trial, arguments)
        run.train(speech, noise)
        result = run.file.with_suffix(".json")
        if not result.exists():
            parameters = sum(p.numel() for p in run.modules.parameters())
            result.write_text(json.dumps([parameters, speed(run.modules), run.step, improvement(run.modules, dev)]))
        parameters, ms, steps, gain = json.loads(result.read_text())
        loss = np.mean([value for _, value in run.curve[-max(10, len(run.curve) // 10) :]])
        rows.append(f"| {trial['what']} | {parameters / 1e6:.2f} M | {ms:.0f} | {steps} | {loss:.2f} | {gain:.2f} |")
        print("\n".join(rows), flush=True)
        table.write_text("\n".join(rows) + "\n")


if __name__ == "__main__":
    main()
