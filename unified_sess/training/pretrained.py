"""Start training from a separation model: strict weights, and an enhancer that begins as an identity."""

import re
from collections.abc import Mapping
from typing import Protocol, runtime_checkable

import torch
from torch import nn

from unified_sess.model_io.model_files import is_exported, read_states
from unified_sess.model_io.model_folder import FILES, find_model
from unified_sess.model_io.results_folder import EXPERIMENT, LARGEST_EXPERIMENT, best_checkpoint, is_results_folder
from unified_sess.model_io.weights import check_state, read_checkpoint
from unified_sess.network import MODULE_NAMES
from unified_sess.utils.errors import UserError

SEPARATOR_MODULES = ("encoder", "masknet", "decoder")
TRIAL_FRAMES = 50  # of the features that an enhancer is tried on
HUB_FILES = (*FILES, EXPERIMENT, *(f"{name}.ckpt" for name in MODULE_NAMES))  # of a repository of any of these layouts


@runtime_checkable
class StartsAsIdentity(Protocol):
    """Enhancers that know how to start as an identity themselves."""

    def start_as_identity(self) -> None:
        """Make the mask 1 for every input, all weights still to train."""


def load_pretrained(modules: Mapping[str, nn.Module], source: str, sample_rate: int) -> None:
    """Load the weights of a separation model into the modules of an experiment; nothing of the model is executed.

    Arguments
    ---------
    modules : mapping
        encoder, enhancer, masknet, decoder; filled in place.
    source : str
        Folder of a SpeechBrain separation model (`hyperparams.yaml`, `encoder.ckpt`, `masknet.ckpt`, `decoder.ckpt`)
        or one of ours (with `enhancer.ckpt` too, or `config.json` and `model.safetensors`), a hub id of either, or the
        output folder of a training.
    sample_rate : int
        Rate in Hz of the experiment, which must be the model's.

    Raises
    ------
    UserError
        Naming the file, key, size or rate that does not fit.
    """
    weights, rate = _weights(source)
    if rate is not None and int(rate) != int(sample_rate):
        raise UserError(f"{source} works at {rate} Hz but sample_rate is {sample_rate}: give --sample_rate {rate}")
    for name, state in weights.items():
        check_state(
            modules[name], state, f"{source}, {name}", "choose the --network and num_spks that it was made with"
        )
        modules[name].load_state_dict(state)
    if "enhancer" not in weights and any(True for _ in modules["enhancer"].parameters()):
        start_as_identity(modules["enhancer"])


def _weights(source):
    """State dictionaries of the modules, by name, and the sample rate or None."""
    folder = find_model(source, HUB_FILES)
    if is_exported(folder):
        config, weights = read_states(folder)
        return _with_an_enhancer_or_none(weights), config.sample_rate
    rate = _sample_rate(folder / EXPERIMENT)
    if is_results_folder(folder):
        folder = best_checkpoint(folder)
    names = [*SEPARATOR_MODULES, *(["enhancer"] if (folder / "enhancer.ckpt").is_file() else [])]
    return _with_an_enhancer_or_none({name: read_checkpoint(folder / f"{name}.ckpt") for name in names}), rate


def _with_an_enhancer_or_none(weights):
    """A separator alone that was exported here has an enhancer without weights."""
    return {name: state for name, state in weights.items() if state or name != "enhancer"}


def _sample_rate(hyperparams):
    """The rate in Hz that the first line `sample_rate: ...` of a file says, or None."""
    if not hyperparams.is_file():
        return None
    with open(hyperparams, encoding="utf-8", errors="replace") as file:
        found = re.search(r"^sample_rate:\s*(\d{1,9})\b", file.read(LARGEST_EXPERIMENT), re.MULTILINE)
    return int(found.group(1)) if found else None


@torch.no_grad()
def start_as_identity(enhancer: nn.Module) -> None:
    """Change the weights of an enhancer so that its mask is 1 for every input; everything stays trainable.

    One inner channel is made constant and alone feeds the mask. All other paths into the mask start at zero weight,
    where they have a gradient from the first step on.

    Raises
    ------
    UserError
        When the mask of the enhancer cannot be 1 everywhere, such as a softmax over the channels, or when the enhancer
        is neither a Conv-TasNet mask network nor a dual-path model (SpeechBrain's or ours), nor has a method for it.
    """
    state = dict(enhancer.named_parameters())
    if "mask_conv1x1.conv.weight" in state:
        _constant_convtasnet(state)
        channels = state["layer_norm.gamma"].numel()
    elif "end_conv1x1.weight" in state and "output.0.weight" in state:
        _constant_dual_path(state)
        channels = len(state["end_conv1x1.weight"])
    elif isinstance(enhancer, StartsAsIdentity):
        enhancer.start_as_identity()
        return
    else:
        raise UserError(
            f"an enhancer of class {type(enhancer).__name__} cannot start as an identity: "
            "choose another --network to fine-tune with"
        )
    device = next(iter(state.values())).device
    mask = enhancer(torch.rand(1, channels, TRIAL_FRAMES, device=device))
    if not torch.allclose(mask, torch.ones_like(mask), atol=1e-3):
        raise UserError(
            f"the mask of an enhancer of class {type(enhancer).__name__} with these settings cannot start as an identity "
            f"(it is {float(mask.mean()):.3g} instead of 1): give it mask_nonlinear relu, or another --network"
        )


def _constant_convtasnet(state):
    """The first input channel becomes the constant 1 and travels along the residual path of the first channel."""
    state["layer_norm.gamma"].view(-1)[0] = 0
    state["layer_norm.beta"].view(-1)[0] = 1
    bottleneck = state["bottleneck_conv1x1.conv.weight"]
    bottleneck[0] = 0
    bottleneck[0, 0] = 1
    for name, weight in state.items():
        if re.search(r"temporalblock_\w+\..*conv_1\.conv\.weight$", name):
            weight[0] = 0
    state["mask_conv1x1.conv.weight"].zero_()
    state["mask_conv1x1.conv.weight"][:, 0] = 1


def _constant_dual_path(state):
    """The first channel before the last convolution becomes tanh(1) * sigmoid(1)."""
    for part in ("output.0", "output_gate.0"):
        state[f"{part}.weight"][0] = 0
        state[f"{part}.bias"][0] = 1
    one = torch.ones(())
    state["end_conv1x1.weight"].zero_()
    state["end_conv1x1.weight"][:, 0] = 1 / (one.tanh() * one.sigmoid())
