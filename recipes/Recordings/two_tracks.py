"""What the recipes of networks that hear a model's two tracks have in common: command line, scenes, weights."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from unified_sess.data.dynamic_mixing import DynamicMixingDataset
from unified_sess.inference.separating import Separator
from unified_sess.utils.errors import UserError, one_line_errors, writable_file
from unified_sess.utils.files import atomic_path


def run(
    script: str,
    doc: str | None,
    weights: Path,
    scenes: int,
    fewest: tuple[int, int],
    make: Callable[[argparse.Namespace, Separator], Any],
    train: Callable[[Any, int], Any],
) -> None:
    """Read the command line, make what is learnt from, train and write the weights; any mistake is one line.

    Arguments
    ---------
    script, doc : str
        Name of the recipe, and what it says of itself.
    weights : Path
        Where they go if nothing else is asked.
    scenes : int
        How many are made if nothing else is asked.
    fewest : tuple of int
        Scenes and steps to be worth it.
    make, train : callable
        From options and model to what is learnt from, and from that and a number of steps to a network with `arrays`.
    """
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--speech", nargs="+", required=True, help="folders of speech, one person a file")
    parser.add_argument(
        "--speakers", nargs="+", help="CSV with the columns path,speaker for each folder; null: the folder tells"
    )
    parser.add_argument("--shares", nargs="+", type=float, help="share of the scenes from each folder")
    parser.add_argument("--noise", nargs="+", required=True, help="folders of noise")
    parser.add_argument("--noise-shares", nargs="+", type=float, help="share of the noise from each folder")
    parser.add_argument("--cache", type=Path, required=True, help="folder for decoded audio and rooms")
    parser.add_argument("--model", type=Path, help="that separates; default: the model that ships")
    parser.add_argument("--scenes", type=int, default=scenes)
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--output", type=Path, default=weights, help="default: the file of the package")
    options = parser.parse_args()
    with one_line_errors(script):
        if options.scenes < fewest[0] or options.steps < fewest[1]:
            raise UserError(f"give at least {fewest[0]} --scenes and {fewest[1]} --steps")
        writable_file(options.output)
        model = Separator.load(options.model)
        if model.num_spks != 2:
            raise UserError(f"{model.name} has {model.num_spks} outputs, where this network hears two")
        network = train(make(options, model), options.steps)
        with atomic_path(options.output) as temporary, open(temporary, "wb") as file:
            np.savez_compressed(file, **network.arrays())


def dataset(
    options: argparse.Namespace, sample_rate: int, seconds: float, seed: int, scenes: dict
) -> DynamicMixingDataset:
    """Scenes of up to two people from the folders of the command line; the same arguments give the same ones."""
    tables = options.speakers and [None if table == "null" else table for table in options.speakers]
    return DynamicMixingDataset(
        options.speech, options.noise, options.cache, sample_rate, 2, round(seconds * sample_rate), seed=seed,
        speed_factors=None, speakers=tables, speech_shares=options.shares, noise_shares=options.noise_shares, scenes=scenes,
    )  # fmt: skip
