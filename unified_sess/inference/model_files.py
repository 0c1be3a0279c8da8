"""Model folders that execute nothing: `config.json` and `model.safetensors`."""

import json
from pathlib import Path
from typing import NamedTuple

import safetensors.torch
import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HFValidationError
from safetensors import SafetensorError

from unified_sess.errors import UserError
from unified_sess.files import atomic_path
from unified_sess.inference import module_tree
from unified_sess.network import MODULE_NAMES

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
SHIPPED = Path(__file__).resolve().parent.parent / "models" / "default"


class ModelConfig(NamedTuple):
    """What `config.json` says: trees of the four modules, speakers, sample rate in Hz."""

    modules: dict
    num_spks: int
    sample_rate: int


def find_model(source, **download_options):
    """Folder of a model: a local one, the shipped one (None) or a download from the hub.

    Of a hub repository only `config.json` and `model.safetensors` are fetched.

    Raises
    ------
    UserError
        When there is no such folder or repository.
    """
    if source is None:
        if not (SHIPPED / CONFIG).is_file():
            raise UserError("this installation has no model of its own: give a model folder or a hub id")
        return SHIPPED
    if Path(source).is_dir():
        return Path(source)
    if Path(source).exists():
        raise UserError(f"{source} is a file: give the folder of the model")
    try:
        return Path(snapshot_download(str(source), allow_patterns=[CONFIG, WEIGHTS], **download_options))
    except HFValidationError:
        raise UserError(f"there is no model folder {source}") from None
    except Exception as error:  # noqa: BLE001 - a network can fail in many ways
        reason = type(error).__name__
        raise UserError(f"there is no folder {source}, and no model of that name came from the hub ({reason})") from None


def save_model(folder, config, modules):
    """Write `config.json` and `model.safetensors`."""
    folder = Path(folder)
    tensors = {
        f"{name}.{key}": value.detach().cpu().clone().contiguous()
        for name in MODULE_NAMES
        for key, value in modules[name].state_dict().items()
    }
    content = {"format": "unified_sess", "format_version": 1, **config._asdict()}
    with atomic_path(folder / WEIGHTS) as temporary:
        # Not save_file, whose files nobody else may read.
        Path(temporary).write_bytes(safetensors.torch.save(tensors, metadata={"format": "pt"}))
    with atomic_path(folder / CONFIG) as temporary:
        Path(temporary).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def load_model(folder):
    """Read a model folder without executing anything in it.

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
    for name in (CONFIG, WEIGHTS):
        if not (folder / name).is_file():
            raise UserError(f"{folder} has no {name}: give a folder made by unified-sess export")
    config = read_config(folder / CONFIG)
    try:
        tensors = safetensors.torch.load_file(folder / WEIGHTS)
    except (SafetensorError, OSError, ValueError) as error:
        raise UserError(f"{folder / WEIGHTS} is corrupt ({error}): copy or export it again") from None
    modules = {name: module_tree.build(tree, f"{folder / CONFIG}: {name}") for name, tree in config.modules.items()}
    states = {name: {} for name in MODULE_NAMES}
    for key, tensor in tensors.items():
        name, _, rest = key.partition(".")
        if name not in states:
            raise UserError(f"{folder / WEIGHTS} holds {key!r}, which belongs to no module")
        states[name][rest] = tensor
    for name, module in modules.items():
        load_state(module, states[name], f"{folder / WEIGHTS}: {name}")
    return config, modules


def read_config(path):
    """Read and check a `config.json`; raises `UserError` naming the file and what is wrong in it."""
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} is not a JSON file ({error}): copy or export it again") from None
    if not isinstance(content, dict) or content.get("format") != "unified_sess":
        raise UserError(f"{path} does not describe a model of unified_sess")
    if content.get("format_version") != 1:
        raise UserError(f"{path} has format_version {content.get('format_version')!r}: this version reads 1")
    modules = content.get("modules")
    if not isinstance(modules, dict) or set(modules) != set(MODULE_NAMES):
        raise UserError(f"{path} must describe {', '.join(MODULE_NAMES)}")
    numbers = [content.get(name) for name in ("num_spks", "sample_rate")]
    if not all(type(number) is int and number > 0 for number in numbers):
        raise UserError(f"{path} lacks num_spks or sample_rate")
    return ModelConfig({name: modules[name] for name in MODULE_NAMES}, *numbers)


def load_checkpoint(module, path):
    """Load a state dict saved by torch into a module; `UserError` where it is missing, corrupt or does not fit."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UserError(f"{path} is missing") from None
    except Exception as error:  # noqa: BLE001 - a corrupt file can end in almost any exception
        reason = str(error).splitlines() or [type(error).__name__]
        raise UserError(f"{path} is corrupt ({reason[0][:100]})") from None
    load_state(module, state, path)


def load_state(module, state, where):
    """Load a state dict strictly; `UserError` naming the first parameter that does not fit."""
    own = module.state_dict()
    if not isinstance(state, dict):
        raise UserError(f"{where} holds no weights")
    for key in [*own, *state]:
        if key not in state or key not in own:
            raise UserError(f"{where} {'lacks' if key in own else 'has unexpected'} weights {key!r}: of another network?")
        if own[key].shape != state[key].shape:
            sizes = f"{list(state[key].shape)} where the network has {list(own[key].shape)}"
            raise UserError(f"{where}: weights {key!r} have the shape {sizes}")
    module.load_state_dict(state)
