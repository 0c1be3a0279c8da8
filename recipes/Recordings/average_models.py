#!/usr/bin/env python3
"""Average the weights of models of one network that come from one start, such as a model before and after a training.

    python recipes/Recordings/average_models.py OUTPUT MODEL=0.4 MODEL=0.6

Between a model and what a training on harder scenes made of it lies one that keeps much of what both can do (compare
WiSE-FT, Wortsman et al. 2022, arXiv 2109.01903). Threshold and other keys are those of the last model.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch

from unified_sess.model_io.export import clear_model_folder
from unified_sess.model_io.model_card import write_model_card
from unified_sess.model_io.model_files import load_model, save_model
from unified_sess.model_io.module_tree import with_defaults
from unified_sess.utils.errors import UserError, one_line_errors, writable_folder


def main() -> None:
    """Read models and their shares, write the average."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path, help="folder to write")
    parser.add_argument("models", nargs="+", metavar="MODEL=SHARE", help="exported folders and their shares")
    options = parser.parse_args()
    with one_line_errors("average_models.py"):
        average([_model_and_share(word) for word in options.models], options.output)


@torch.no_grad()
def average(models: Sequence[tuple[str | Path, float]], folder: str | Path) -> None:
    """Write the average of models with shares that add up to 1, in 16 bits.

    Raises
    ------
    UserError
        When the shares do not add up, or the networks differ.
    """
    if not abs(sum(share for _, share in models) - 1) <= 1e-6:  # NaN too
        raise UserError("the shares of the models must add up to 1")
    loaded = [load_model(source) for source, _ in models]
    config, modules = loaded[-1]
    for (other, _), (source, _) in zip(loaded, models, strict=True):
        if (_network(other), other.sample_rate) != (_network(config), config.sample_rate):
            raise UserError(f"{source} has another network or rate than {models[-1][0]}: average models of one network")
    for name, module in modules.items():
        states = [each[name].state_dict() for _, each in loaded]
        mean = {
            key: sum(share * state[key].float() for (_, share), state in zip(models, states, strict=True))
            for key in states[0]
        }
        module.load_state_dict(mean)
        module.half()
    folder = Path(writable_folder(folder))
    clear_model_folder(folder)
    write_model_card(folder, config, modules)  # first: by it a folder that was not finished is known
    save_model(folder, config, modules)


def _network(config):
    # Models that were exported before an option existed do not name it.
    return {name: with_defaults(tree) for name, tree in config.modules.items()}


def _model_and_share(word):
    source, _, share = word.rpartition("=")
    try:
        return source, float(share)
    except ValueError:
        raise UserError(f"'{word}' is no MODEL=SHARE, such as my-model=0.5") from None


if __name__ == "__main__":
    main()
