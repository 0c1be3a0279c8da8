#!/usr/bin/env python3
"""How much gradient modulation has to do: the conflict of the two tasks before any step is taken.

    python recipes/Mini/measure_conflict.py [--steps 20] [--utterances 2 16] -- EXPERIMENT [options of train.py]

Takes an experiment and its options as train.py does (`--pretrained MODEL` chooses the weights; without it they are
random) and draws its training mixtures; on the CPU, in fp32. For steps of so many utterances it prints, by granularity: the conflict rate,
the mean cosine of G_SE and G_SS, the gradient-norm ratio ||G_SE|| / ||G_SS||, and the share of ||G_SE||^2 that GM takes
out, with its 95 % interval over the steps. Where that share is next to nothing, GM and the plain sum train alike.
"""

import argparse
import tempfile
from collections.abc import Iterator, Sequence
from types import SimpleNamespace

import numpy as np
import speechbrain as sb
from scipy.stats import t as student
from tqdm import tqdm

from unified_sess.data.batches import EpochSampler, collate
from unified_sess.data.parts import build_datasets, choose_data_folder
from unified_sess.gradient_modulation import GRANULARITIES, GradientModulation
from unified_sess.training.command_line import parse_command_line
from unified_sess.training.experiment import Experiment
from unified_sess.training.joint_step import JointStep
from unified_sess.training.pretrained import load_pretrained
from unified_sess.training.utterance_losses import LossChoice, UtteranceLosses, refuse_missing_steps, utterance_losses
from unified_sess.utils.errors import UserError, one_line_errors

UTTERANCES_A_PASS = 2  # utterances of one forward pass; larger steps add up their gradients


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=20, help="steps of each size; 2 or more")
    parser.add_argument("--utterances", type=int, nargs="+", default=[2, 16], help="utterances of a step; even numbers")
    parser.add_argument("experiment", nargs="+", help="experiment file and options of train.py, after --")
    arguments = parser.parse_args(arguments)
    if arguments.steps < 2 or any(n < 1 or n % UTTERANCES_A_PASS for n in arguments.utterances):
        raise UserError("give 2 or more --steps, and even numbers of --utterances")
    with tempfile.TemporaryDirectory() as folder:
        joint, batches = prepare(arguments.experiment, folder)
        names = [
            "utterances",
            "granularity",
            "conflict rate",
            "cosine",
            "gradient-norm ratio SE to SS",
            "share of G_SE's energy taken out by GM",
        ]
        print(f"| {' | '.join(names)} |", "|---" * len(names) + "|", sep="\n")
        for utterances in arguments.utterances:
            for row in measure(joint, batches, arguments.steps, utterances // UTTERANCES_A_PASS):
                print(f"| {utterances} | {' | '.join(row)} |", flush=True)


def prepare(arguments: Sequence[str], folder: str) -> tuple[JointStep, Iterator[UtteranceLosses]]:
    """The `JointStep` of an experiment and an endless stream of its training batches."""
    path, _, overrides = parse_command_line(arguments)
    experiment = Experiment(path, overrides | {"output_folder": folder})
    settings = experiment.settings
    dataset = build_datasets(settings, choose_data_folder(settings))["train"]
    sb.utils.seed.seed_everything(settings["seed"])
    modules = experiment.build()["modules"]
    refuse_missing_steps(modules["masknet"], settings.get("step_weight"))
    if settings.get("pretrained"):
        load_pretrained(modules, str(settings["pretrained"]), settings["sample_rate"])
    for name in settings["freeze"]:
        modules[name].requires_grad_(False)
    if len(dataset) < UTTERANCES_A_PASS:
        raise UserError(f"{len(dataset)} training mixtures are too few: give {UTTERANCES_A_PASS} or more")
    joint = JointStep(modules, GradientModulation("gm"), settings["enhancement_weight"], settings["threshold"])
    if not joint.with_enhancement:
        raise UserError(
            "without an SE gradient there is no conflict: give an --enhancement_weight above 0, freeze nothing"
        )
    return joint, _batches(joint, modules, dataset, settings)


def _batches(joint, modules, dataset, settings):
    seconds = settings.get("training_signal_len")
    longest = None if seconds is None else round(seconds * settings["sample_rate"])
    sampler = EpochSampler(dataset.frames, UTTERANCES_A_PASS, settings["seed"], longest)
    choice = LossChoice.of(SimpleNamespace(**settings), with_enhancement=True)
    while True:
        for keys in sampler:
            if len(keys) == UTTERANCES_A_PASS:
                batch = collate([dataset[key] for key in keys])
                yield utterance_losses(modules, batch, choice)
        sampler.set_epoch(sampler.epoch + 1)


def measure(
    joint: JointStep, batches: Iterator[UtteranceLosses], steps: int, forward_passes: int
) -> Iterator[list[str]]:
    """Rows of the table: granularity, conflict rate, cosine, gradient-norm ratio, share taken out."""
    modulations = {g: GradientModulation("gm", g, names=joint.modulation.names) for g in GRANULARITIES}
    shares = {g: [] for g in GRANULARITIES}
    for _ in tqdm(range(steps), desc=f"{UTTERANCES_A_PASS * forward_passes} utterances", unit="step", leave=False):
        for _ in range(forward_passes):
            joint.accumulate(next(batches))
        se, ss = joint.se_gradients, joint.ss_gradients[: len(joint.shared)]
        squared_norm = _squared_norm(se)
        if squared_norm == 0:
            raise UserError("the SE gradient is zero: mixtures without noise have nothing to enhance")
        for granularity, modulation in modulations.items():
            left = modulation.modulate(se, ss)[0]
            shares[granularity].append(1 - _squared_norm(left) / squared_norm)
        joint.reset()
    for granularity, modulation in modulations.items():
        numbers = modulation.statistics()
        mean, error = (
            np.mean(shares[granularity]),
            student.ppf(0.975, steps - 1) * np.std(shares[granularity], ddof=1) / np.sqrt(steps),
        )
        cells = [f"{100 * numbers['conflict_rate']:.0f} %", f"{numbers['cosine']:+.3f}"]
        cells += [f"{numbers['se_norm'] / numbers['ss_norm']:.2g}", f"{100 * mean:.2g} % ± {100 * error:.1g}"]
        yield [granularity, *cells]


def _squared_norm(gradients):
    return sum(float(g.double().square().sum()) for g in gradients if g is not None)


if __name__ == "__main__":
    with one_line_errors("measure_conflict.py"):
        main()
