"""One trained separator as the common start of all rows, whatever their size and number of speakers."""

import re
import shutil
from pathlib import Path

import torch

from unified_sess.errors import UserError
from unified_sess.files import atomic_path
from unified_sess.inference.results_folder import best_checkpoint

MASKS = "mask_conv1x1.conv.weight"
BLOCK = re.compile(r"temporal_conv_net\.temporalblock_(\d+)_(.*)")


def write_warm_start(results, folder, repeats=None, speakers=2):
    """Write a folder for `--pretrained` that separates just as the best checkpoint of a training does.

    Arguments
    ---------
    results : str or Path
        Output folder of a training of `convtasnet-separation.yaml`.
    folder : str or Path
        Gets `encoder.ckpt`, `masknet.ckpt` and `decoder.ckpt`; without an enhancer, which then starts as an identity.
    repeats : int
        Repeats of the separator; those that are new start as identities.
    speakers : int
        Masks of the separator; those that are new start as the mean of the others.

    Returns
    -------
    folder : Path
    """
    checkpoint, folder = best_checkpoint(results), Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("encoder", "decoder"):
        with atomic_path(folder / f"{name}.ckpt") as temporary:
            shutil.copyfile(checkpoint / f"{name}.ckpt", temporary)
    masknet = torch.load(checkpoint / "masknet.ckpt", map_location="cpu", weights_only=True)
    if MASKS not in masknet:
        raise UserError(f"{results} is no Conv-TasNet: train recipes/Mini/convtasnet-separation.yaml to start from")
    _add_repeats(masknet, repeats)
    _add_speakers(masknet, torch.load(checkpoint / "encoder.ckpt", weights_only=True), speakers)
    with atomic_path(folder / "masknet.ckpt") as temporary:
        torch.save(masknet, temporary)
    return folder


def _add_repeats(masknet, repeats):
    """A block adds to its input, so one whose last convolution is zero lets it pass."""
    blocks = [(key, BLOCK.match(key)) for key in masknet if BLOCK.match(key)]
    last = max(int(found.group(1)) for _, found in blocks)
    for new in range(last + 1, repeats or 0):
        for key, found in blocks:
            if int(found.group(1)) == last:
                weight = masknet[key].clone()
                masknet[f"temporal_conv_net.temporalblock_{new}_{found.group(2)}"] = (
                    torch.zeros_like(weight) if key.endswith("conv_1.conv.weight") else weight
                )


def _add_speakers(masknet, encoder, speakers):
    channels = encoder["conv1d.weight"].shape[0]
    masks = list(masknet[MASKS].split(channels))
    mean = torch.stack(masks).mean(0)
    masknet[MASKS] = torch.cat([*masks, *[mean] * (speakers - len(masks))])
