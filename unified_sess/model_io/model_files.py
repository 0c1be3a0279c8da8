"""Model folders that execute nothing: reading and writing `config.json` and `model.safetensors`."""

import json
from collections.abc import Mapping
from pathlib import Path

import safetensors.torch
import torch
from torch import nn

from unified_sess.model_io.model_folder import (
    CONFIG,
    FILES,
    WEIGHTS,
    ModelConfig,
    check_sample_rate,
    checked_numbers,
    checked_options,
)
from unified_sess.model_io.module_tree import as_of_today, check_size
from unified_sess.model_io.weights import build_with_weights, by_module, check_fit, read_header, read_tensors
from unified_sess.network import MODULE_NAMES, minimum_length, separate
from unified_sess.utils.errors import UserError
from unified_sess.utils.files import atomic_path, read_text

LARGEST_CONFIG = 1_000_000  # bytes; that of a published network has 3,000
LARGEST_OVERLAP = 32  # frames of the encoder that a sample lies in
TRIAL_LENGTH = 4  # kernels of the encoder in the silence that a new network is tried on


def is_exported(folder: str | Path) -> bool:
    """Whether a folder holds a model of ours that executes nothing; SpeechBrain's repositories have a `config.json` too."""
    return all((Path(folder) / name).is_file() for name in FILES)


def save_model(folder: str | Path, config: ModelConfig, modules: Mapping[str, nn.Module]) -> None:
    """Write `config.json` and `model.safetensors`."""
    folder = Path(folder)
    tensors = {
        f"{name}.{key}": value.detach().cpu().clone().contiguous()
        for name in MODULE_NAMES
        for key, value in modules[name].state_dict().items()
    }
    said = {key: value for key, value in config._asdict().items() if value is not None}
    content = {"format": "unified_sess", "format_version": 1, **said}
    with atomic_path(folder / WEIGHTS) as temporary:
        # Not save_file, whose files nobody else may read.
        Path(temporary).write_bytes(safetensors.torch.save(tensors, metadata={"format": "pt"}))
    with atomic_path(folder / CONFIG) as temporary:
        Path(temporary).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def load_model(folder: str | Path) -> tuple[ModelConfig, dict[str, nn.Module]]:
    """Read a model folder without executing anything in it.

    The names and shapes that the header of the weights holds are compared with the network of `config.json` before
    either takes memory.

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
    config = _config_of(folder)
    where, weights = folder / CONFIG, folder / WEIGHTS
    check_fit(config.modules, by_module(read_header(weights), weights), where, weights)
    modules = build_with_weights(config.modules, by_module(read_tensors(weights), weights), where, weights)
    check_speakers(modules, config.num_spks, where)
    return config, modules


def read_states(folder: str | Path) -> tuple[ModelConfig, dict[str, dict]]:
    """The `ModelConfig` of a model folder and the state dicts of its modules by name; raises as `load_model` does."""
    path = Path(folder) / WEIGHTS
    config = _config_of(folder)
    return config, by_module(read_tensors(path), path)


def _config_of(folder):
    folder = Path(folder)
    for name in FILES:
        if not (folder / name).is_file():
            raise UserError(f"{folder} has no {name}: give a folder made by unified-sess export")
    return read_config(folder / CONFIG)


def check_speakers(modules: Mapping[str, nn.Module], num_spks: int, where: str | Path) -> None:
    """Raise `UserError` unless the four modules fit together and give `num_spks` sources as long as their mixture."""
    for module in modules.values():
        module.eval()
    length = TRIAL_LENGTH * minimum_length(modules["encoder"])
    filters = [part for part in modules["encoder"].modules() if isinstance(part, nn.Conv1d)]
    if any(part.kernel_size[0] > LARGEST_OVERLAP * part.stride[0] for part in filters):
        raise UserError(
            f"{where}: its encoder's frames overlap more than {LARGEST_OVERLAP} times, which no network needs"
        )
    try:
        with torch.no_grad():
            sources, features, *_ = separate(modules, torch.zeros(1, length))
            decoded = modules["decoder"](features).shape[-1]
    except (RuntimeError, ValueError, TypeError, IndexError, AssertionError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"{where}: its modules do not fit together ({reason}): export the model again") from None
    if sources.shape[2] != num_spks:
        raise UserError(
            f"{where} says {num_spks} speakers, but its network gives {sources.shape[2]}: export the model again"
        )
    if not length / 2 <= decoded <= 2 * length:
        raise UserError(f"{where}: {length} samples come out as {decoded}: its encoder and decoder do not fit together")


def read_config(path: str | Path) -> ModelConfig:
    """Read and check a `config.json`; raises `UserError` naming the file and what is wrong in it."""
    try:
        content = json.loads(read_text(path, LARGEST_CONFIG))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} is not a JSON file ({error}): copy or export it again") from None
    if not isinstance(content, dict) or content.get("format") != "unified_sess":
        raise UserError(f"{path} does not describe a model of unified_sess")
    if content.get("format_version") != 1:
        raise UserError(f"{path} has format_version {content.get('format_version')!r}: this version reads 1")
    modules = content.get("modules")
    if not isinstance(modules, dict) or set(modules) != set(MODULE_NAMES):
        raise UserError(f"{path} must describe {', '.join(MODULE_NAMES)}")
    speakers, rate = checked_numbers(content, path)
    check_sample_rate(rate, path)
    check_size(modules, path)
    trees = {name: as_of_today(modules[name]) for name in MODULE_NAMES}
    return ModelConfig(trees, speakers, rate, *checked_options(content, path))
