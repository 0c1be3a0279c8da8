"""One trained separator as the common start of all rows, whatever their size and number of speakers."""

import re
from pathlib import Path

import torch

from unified_sess.model_io.model_files import load_model
from unified_sess.model_io.results_folder import is_results_folder, load_trained_network
from unified_sess.training.pretrained import SEPARATOR_MODULES
from unified_sess.utils.errors import UserError
from unified_sess.utils.files import atomic_path

LAYER = re.compile(r"layers\.(\d+)\.(.*)")


def write_warm_start(results: str | Path, folder: str | Path, layers: int | None = None, speakers: int = 2) -> Path:
    """Write a folder for `--pretrained` that separates just as the best checkpoint of a training does.

    Arguments
    ---------
    results : str or Path
        Output folder of a training of `unified.yaml` with `--enhancer none`, of two speakers, or what `unified-sess export` made of it.
    folder : str or Path
        Gets `encoder.ckpt`, `masknet.ckpt` and `decoder.ckpt`; without an enhancer, which then starts as an identity.
    layers : int
        Layers of the separator; those that are new start as identities.
    speakers : int
        Masks of the separator; those that are new start as the mean of the others.

    Returns
    -------
    folder : Path

    Raises
    ------
    UserError
        Naming what is missing, corrupt or of another network.
    """
    _, modules = load_trained_network(results) if is_results_folder(results) else load_model(results)
    states = {name: modules[name].state_dict() for name in SEPARATOR_MODULES}
    masknet = states["masknet"]
    if "masks.weight" not in masknet:
        raise UserError(
            f"{results} has another network: train recipes/Mini/unified.yaml with --enhancer none to start from"
        )
    _add_layers(masknet, layers)
    for name, dimension in (("masks.weight", 1), ("masks.bias", 0)):
        masknet[name] = _add_masks(masknet[name], dimension, speakers)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for name, state in states.items():
        with atomic_path(folder / f"{name}.ckpt") as temporary:
            torch.save(state, temporary)
    return folder


def _add_layers(masknet, layers):
    """A path adds to its input, so one whose last layer is zero lets it pass."""
    found = [(key, LAYER.match(key)) for key in masknet if LAYER.match(key)]
    last = max(int(match.group(1)) for _, match in found)
    for new in range(last + 1, layers or 0):
        for key, match in found:
            if int(match.group(1)) == last:
                weight = masknet[key]
                masknet[f"layers.{new}.{match.group(2)}"] = (
                    torch.zeros_like(weight) if "linear" in key else weight.clone()
                )


def _add_masks(weight, dimension, speakers):
    """Two channels a speaker, for the real and the imaginary parts."""
    masks = list(weight.split(2, dimension))
    return torch.cat([*masks, *[torch.stack(masks).mean(0)] * (speakers - len(masks))], dimension)
