"""What a network file builds: modules, parameters, work, receptive field and memory."""

import contextlib
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from unified_sess.network import MODULE_NAMES, estimate, separate
from unified_sess.nnet.attention import SelfAttention
from unified_sess.utils.errors import UserError
from unified_sess.utils.yaml_files import UnknownTag, build_yaml, read_yaml

SECONDS = 4  # length of the signal that is measured, as in a training step
PLACEHOLDER = UnknownTag("!PLACEHOLDER")  # of HyperPyYAML: a setting that an override must give
GATES = {"LSTM": 4, "GRU": 3, "RNN_TANH": 1, "RNN_RELU": 1}


def show_network(path: str | Path, overrides: dict | None = None) -> None:
    """Print modules, parameters, multiply-accumulates, receptive field and memory of a network or experiment file.

    Arguments
    ---------
    path : str or Path
        A file of `hparams/networks`, or an experiment with `modules`.
    overrides : dict or None
        Values that replace those of the file, such as `{"num_spks": 3}`.

    Raises
    ------
    UserError
        Naming the file, when it is absent, does not parse or does not build the four modules.
    """
    modules, sample_rate = load_network(path, overrides)
    print(describe(modules, sample_rate, Path(path).stem))


def load_network(path: str | Path, overrides: dict | None = None) -> tuple[dict[str, nn.Module], int]:
    """Modules by name and sample rate (Hz) of a network or experiment file; arguments and `UserError` as of `show_network`."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not text"
        raise UserError(f"cannot read {path} ({reason}): give a file such as hparams/networks/sepformer.yaml") from None
    content = read_yaml(text, path)
    content = content if isinstance(content, dict) else {}
    unset = {name: "." for name, value in content.items() if value == PLACEHOLDER}
    settings = build_yaml(text, path, unset | (overrides or {})) if content else {}
    modules = settings.get("modules") or settings
    missing = [name for name in MODULE_NAMES if not isinstance(modules.get(name), nn.Module)]
    if missing:
        raise UserError(
            f"{path} builds no {' and no '.join(missing)}: a network file defines {', '.join(MODULE_NAMES)}"
        )
    sample_rate = settings.get("sample_rate", 8000)
    if not isinstance(sample_rate, int) or sample_rate < 1:
        raise UserError(f"{path}: sample_rate is {sample_rate!r}, give a whole number of Hz")
    return {name: modules[name] for name in MODULE_NAMES}, sample_rate


def describe(modules: Mapping[str, nn.Module], sample_rate: int, title: str = "network") -> str:
    """Text with a row for each module and what the network needs for a signal of 4 s.

    Arguments
    ---------
    modules : dict of torch.nn.Module
        encoder, enhancer, masknet, decoder.
    sample_rate : int
        Hz.
    title : str
        First line.
    """
    work = multiply_accumulates(modules, sample_rate)
    total = count_parameters(modules.values())
    lines = [title, f"  {'module':<10}{'class':<30}{'parameters':>14}{'MAC/s':>12}"]
    for name, module in modules.items():
        kind = type(module).__name__
        lines.append(f"  {name:<10}{kind:<30}{count_parameters([module]):>14,}{_scaled(work[name]):>12}")
    lines.append(f"  {'total':<40}{total:>14,}{_scaled(sum(work.values())):>12}")
    parameters, activations = training_memory(modules, sample_rate)
    alone = total - count_parameters([modules["enhancer"]])
    lines.append(f"  separation alone (without enhancer): {alone / 1e6:.2f} M parameters")
    lines.append(f"  receptive field: {receptive_field(modules, sample_rate)}")
    lines.append(
        f"  training step on {SECONDS} s at {sample_rate} Hz, batch 1, float32: {_bytes(parameters + activations)}: "
        f"{_bytes(parameters)} weights, gradients and Adam, {_bytes(activations)} kept for the backward pass"
    )
    lines.append("  MAC/s: multiply-accumulates for each second of audio")
    return "\n".join(lines)


def count_parameters(modules: Iterable[nn.Module]) -> int:
    """Number of parameters of several modules, shared ones once."""
    return sum({id(p): p.numel() for module in modules for p in module.parameters()}.values())


def multiply_accumulates(modules: Mapping[str, nn.Module], sample_rate: int) -> dict[str, float]:
    """Multiply-accumulates of each module for a second of audio, measured on 4 s.

    PyTorch's counter sees neither fused attention nor recurrence on a CPU: attention is counted unfused, recurrence
    by its formula, frames * directions * gates * hidden * (inputs + hidden).

    Returns
    -------
    dict of str to float
    """
    recurrent = dict.fromkeys(modules, 0)
    with contextlib.ExitStack() as stack:
        for name, module in modules.items():
            for part in module.modules():
                if isinstance(part, nn.RNNBase):
                    handle = part.register_forward_hook(_recurrence_counter(recurrent, name))
                    stack.callback(handle.remove)
        stack.enter_context(torch.no_grad())
        stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        counts: dict[str, float] = {}
        signal = torch.randn(1, SECONDS * sample_rate)
        features = _counted(counts, "encoder", modules["encoder"], signal)
        features = _counted(counts, "enhancer", estimate, modules["enhancer"], features)[0]
        sources = _counted(counts, "masknet", estimate, modules["masknet"], features)
        _counted(counts, "decoder", modules["decoder"], sources.flatten(0, 1))
    return {name: (counts[name] + recurrent[name]) / SECONDS for name in modules}


def _counted(counts, name, function, *inputs):
    with FlopCounterMode(display=False) as counter:
        y = function(*inputs)
    counts[name] = counter.get_total_flops() / 2
    return y


def _recurrence_counter(counts, name):
    def hook(module, inputs, _):
        frames = inputs[0].shape[0] * inputs[0].shape[1]
        directions = 2 if module.bidirectional else 1
        width = module.input_size
        for _ in range(module.num_layers):
            work = GATES[module.mode] * module.hidden_size * (width + module.hidden_size)
            counts[name] += frames * directions * work
            width = directions * module.hidden_size

    return hook


def receptive_field(modules: Mapping[str, nn.Module], sample_rate: int) -> str:
    """How much signal an output sample sees through the convolutions, in words."""
    parts = [part for name in ("enhancer", "masknet") for part in modules[name].modules()]
    if any(isinstance(part, (nn.RNNBase, nn.MultiheadAttention, SelfAttention)) for part in parts):
        return "the whole signal (attention or recurrence)"
    front = next((part for part in modules["encoder"].modules() if isinstance(part, nn.Conv1d)), None)
    kernel, stride = (front.kernel_size[0], front.stride[0]) if front is not None else (1, 1)
    frames = sum(p.dilation[0] * (p.kernel_size[0] - 1) for p in parts if isinstance(p, nn.Conv1d))
    # An output sample lies in kernel / stride frames of the decoder.
    samples = (frames + -(-kernel // stride) - 1) * stride + kernel
    words = f"{samples / sample_rate:.2f} s ({samples} samples)"
    global_norm = any(type(part).__name__ == "GlobalLayerNorm" for part in parts)
    return f"{words}; norms see the whole signal" if global_norm else words


def training_memory(modules: Mapping[str, nn.Module], sample_rate: int) -> tuple[int, int]:
    """Memory of a training step on 4 s, batch 1: exact counts of what must be kept, without the allocator's reserve.

    Returns
    -------
    parameters : int
        Bytes of weights, gradients and Adam's two averages.
    activations : int
        Bytes kept between forward and backward pass, parameters left out.
    """
    weights = [parameter for module in modules.values() for parameter in module.parameters()]
    own = {weight.untyped_storage().data_ptr() for weight in weights}
    kept = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor.detach()  # the tensor itself would keep its own graph alive

    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        output = separate(modules, torch.randn(1, SECONDS * sample_rate))
    del output
    return 4 * sum(weight.numel() * weight.element_size() for weight in weights), sum(kept.values())


def _scaled(number):
    for limit, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= limit:
            return f"{number / limit:.2f} {unit}"
    return f"{number:.0f}"


def _bytes(number):
    return f"{number / 1e9:.2f} GB" if number >= 1e9 else f"{number / 1e6:.1f} MB"
