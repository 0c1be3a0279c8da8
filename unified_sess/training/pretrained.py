"""Start training from a separation model: strict weights, and an enhancer that begins as an identity."""

import contextlib
import re
import tempfile
from pathlib import Path

import torch

from unified_sess.model_io.model_files import check_state, find_model, is_exported, read_checkpoint, read_states
from unified_sess.model_io.results_folder import best_checkpoint, is_results_folder
from unified_sess.nnet.time_frequency import TimeFrequencyNet
from unified_sess.utils.errors import UserError

SEPARATOR_MODULES = ("encoder", "masknet", "decoder")


def load_pretrained(modules, source, sample_rate):
    """Load the weights of a separation model into the modules of an experiment.

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
    folder = Path(source)
    if not folder.is_dir():
        return _hub_weights(source)
    if is_exported(folder):
        return _exported_weights(folder)
    rate = _sample_rate(folder / "hyperparams.yaml")
    if is_results_folder(folder):
        folder = best_checkpoint(folder)
    names = [*SEPARATOR_MODULES, *(["enhancer"] if (folder / "enhancer.ckpt").is_file() else [])]
    return _with_an_enhancer_or_none({name: read_checkpoint(folder / f"{name}.ckpt") for name in names}), rate


def _exported_weights(folder):
    config, weights = read_states(folder)
    return _with_an_enhancer_or_none(weights), config.sample_rate


def _hub_weights(source):
    from speechbrain.inference.separation import SepformerSeparation

    folder = None
    with contextlib.suppress(UserError):  # SpeechBrain's call says what is wrong with the source
        folder = find_model(source)
    if folder is not None and is_exported(folder):
        return _exported_weights(folder)
    with tempfile.TemporaryDirectory() as folder:
        try:
            model = SepformerSeparation.from_hparams(source=source, savedir=folder)
        except Exception as error:  # noqa: BLE001, the hub and the model's own code raise anything
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
            raise UserError(
                f"{source} is neither a folder nor a separation model of the hub that can be loaded ({reason})"
            ) from None
    # Not `model.mods`: there the masknet of a unified model is the composite with its enhancer.
    parts = model.hparams.pretrainer.loadables
    weights = {name: parts[name].state_dict() for name in (*SEPARATOR_MODULES, "enhancer") if name in parts}
    return _with_an_enhancer_or_none(weights), getattr(model.hparams, "sample_rate", None)


def _with_an_enhancer_or_none(weights):
    """A separator alone that was exported here has an enhancer without weights."""
    return {name: state for name, state in weights.items() if state or name != "enhancer"}


def _sample_rate(hyperparams):
    if not hyperparams.is_file():
        return None
    found = re.search(r"^sample_rate:\s*(\d+)", hyperparams.read_text(encoding="utf-8", errors="replace"), re.MULTILINE)
    return int(found.group(1)) if found else None


@torch.no_grad()
def start_as_identity(enhancer):
    """Change the weights of an enhancer so that its mask is 1 for every input; everything stays trainable.

    One inner channel is made constant and alone feeds the mask. All other paths into the mask start at zero weight,
    where they have a gradient from the first step on.

    Raises
    ------
    UserError
        When the enhancer is neither a Conv-TasNet mask network nor a dual-path model (SpeechBrain's or ours), nor a
        `TimeFrequencyNet`.
    """
    state = dict(enhancer.named_parameters())
    if "mask_conv1x1.conv.weight" in state:
        _constant_convtasnet(state)
    elif "end_conv1x1.weight" in state and "output.0.weight" in state:
        _constant_dual_path(state)
    elif isinstance(enhancer, TimeFrequencyNet):
        enhancer.masks.weight.zero_()
        enhancer.masks.bias.fill_(1)
    else:
        raise UserError(
            f"an enhancer of class {type(enhancer).__name__} cannot start as an identity: "
            "choose a Conv-TasNet, dual-path or time-frequency enhancer to fine-tune with"
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
