"""The trained network of a results folder."""

import math
from pathlib import Path

from torch import nn

from unified_sess.model_io.model_files import check_speakers
from unified_sess.model_io.model_folder import ModelConfig, checked_numbers, checked_options
from unified_sess.model_io.module_tree import trees_of_experiment
from unified_sess.model_io.weights import build_with_weights, read_checkpoint
from unified_sess.network import MODULE_NAMES
from unified_sess.utils.errors import UserError
from unified_sess.utils.files import read_text
from unified_sess.utils.yaml_files import read_yaml

EXPERIMENT = "hyperparams.yaml"
LARGEST_EXPERIMENT = 1_000_000  # bytes; that of a published network has 6,000


def is_results_folder(folder: str | Path) -> bool:
    """Whether a folder looks like the output of a training."""
    return (Path(folder) / EXPERIMENT).is_file() and (Path(folder) / "save").is_dir()


def load_trained_network(folder: str | Path) -> tuple[ModelConfig, dict[str, nn.Module]]:
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
    checkpoint = (
        best_checkpoint(folder) if experiment.is_file() else folder
    )  # without an experiment the next lines end it
    try:
        text = read_text(experiment, LARGEST_EXPERIMENT)
    except (OSError, ValueError):
        raise UserError(f"{folder} has no readable {EXPERIMENT}: give the output folder of a training") from None
    trees, settings = trees_of_experiment(text, experiment)
    speakers, rate = checked_numbers(settings, experiment)
    options = checked_options(settings, experiment)
    states = {name: read_checkpoint(checkpoint / f"{name}.ckpt") for name in MODULE_NAMES}
    modules = build_with_weights(trees, states, experiment, checkpoint)
    check_speakers(modules, speakers, experiment)
    return ModelConfig(trees, speakers, rate, *options), modules


def best_checkpoint(folder: str | Path) -> Path:
    """Folder of the checkpoint with the highest SI-SNR improvement on validation; `UserError` where there is none."""
    save = Path(folder) / "save"
    found, failed = [], []
    for marker in save.glob("CKPT*/CKPT.yaml"):
        try:
            meta = read_yaml(read_text(marker, LARGEST_EXPERIMENT), marker)
        except (OSError, ValueError, UserError):
            raise UserError(f"{marker} is corrupt: move that checkpoint out of {save}") from None
        meta = meta if isinstance(meta, dict) else {}
        # A checkpoint inside an epoch has no validation: it serves when there is no other.
        value = meta.get("si_snri")
        if meta.get("failed") or value != value:  # the network gave NaN or infinity in validation
            failed.append(marker.parent)
        else:
            found.append((_number(value), _number(meta.get("unixtime")), marker.parent))
    if not found and failed:
        raise UserError(f"no epoch of {folder} has finite losses on its validation part: there is no model to take")
    if not found:
        raise UserError(f"no checkpoint in {save}: train first")
    return max(found)[-1]


def _number(value):
    return value if isinstance(value, (int, float)) and math.isfinite(value) else -math.inf
