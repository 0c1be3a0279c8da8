"""The trained network of a results folder."""

from pathlib import Path

import yaml

from unified_sess.model_io import module_tree
from unified_sess.model_io.model_files import (
    ModelConfig,
    check_speakers,
    checked_silence_threshold,
    load_checkpoint,
)
from unified_sess.network import MODULE_NAMES
from unified_sess.utils.errors import UserError

EXPERIMENT = "hyperparams.yaml"


def is_results_folder(folder):
    """Whether a folder looks like the output of a training."""
    return (Path(folder) / EXPERIMENT).is_file() and (Path(folder) / "save").is_dir()


def load_results(folder):
    """The network of the best checkpoint of a results folder; nothing in the folder is executed.

    Arguments
    ---------
    folder : str or Path
        `output_folder` of a training.

    Returns
    -------
    config : ModelConfig
    modules : dict of torch.nn.Module

    Raises
    ------
    UserError
        Naming the file that is missing, corrupt or of another network.
    """
    folder = Path(folder)
    experiment = folder / EXPERIMENT
    if not folder.is_dir():
        raise UserError(f"there is no results folder {folder}")
    try:
        text = experiment.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        raise UserError(f"{folder} has no readable {EXPERIMENT}: give the output folder of a training") from None
    trees, settings = module_tree.trees_of_experiment(text, experiment)
    numbers = [settings.get(name) for name in ("num_spks", "sample_rate")]
    if not all(type(number) is int and number > 0 for number in numbers):
        raise UserError(f"{experiment} lacks num_spks or sample_rate")
    modules = {name: module_tree.build(tree, f"{experiment}: {name}") for name, tree in trees.items()}
    checkpoint = best_checkpoint(folder)
    for name in MODULE_NAMES:
        load_checkpoint(modules[name], checkpoint / f"{name}.ckpt")
    check_speakers(modules, numbers[0], experiment)
    threshold = checked_silence_threshold(settings.get("silence_threshold"), experiment)
    return ModelConfig(trees, *numbers, threshold), modules


def best_checkpoint(folder):
    """Folder of the checkpoint with the highest SI-SNR improvement on validation; `UserError` where there is none."""
    save = Path(folder) / "save"
    found = []
    for marker in save.glob("CKPT*/CKPT.yaml"):
        try:
            meta = yaml.safe_load(marker.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, yaml.YAMLError):
            raise UserError(f"{marker} is corrupt: remove that checkpoint") from None
        meta = meta if isinstance(meta, dict) else {}
        # A checkpoint inside an epoch has no validation: it serves when there is no other.
        found.append((meta.get("si_snri", float("-inf")), meta.get("unixtime", 0), marker.parent))
    if not found:
        raise UserError(f"no checkpoint in {save}: train first")
    return max(found)[-1]
