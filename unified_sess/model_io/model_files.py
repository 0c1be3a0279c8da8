"""Model folders that execute nothing: `config.json` and `model.safetensors`."""

import json
from pathlib import Path
from typing import NamedTuple

import safetensors.torch
import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HFValidationError
from safetensors import SafetensorError

from unified_sess.model_io import module_tree
from unified_sess.network import MODULE_NAMES, count_speakers
from unified_sess.utils.errors import UserError
from unified_sess.utils.files import atomic_path

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
SAMPLE_RATES = (1000, 768000)  # Hz
SHIPPED = Path(__file__).resolve().parent.parent / "models" / "default"


class ModelConfig(NamedTuple):
    """What `config.json` says.

    modules : dict
        Trees of the four modules by name.
    num_spks, sample_rate : int
        Outputs, and the rate in Hz.
    silence_threshold : float
        dB relative to the mixture below which an output holds nobody. Models trained with losses that know silence and
        level have it, and their outputs keep the level that the network gives. None: trained with SI-SNR, free in level.
    """

    modules: dict
    num_spks: int
    sample_rate: int
    silence_threshold: float | None = None


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
            raise UserError("this installation has no model of its own: give a model folder or hub id (--model)")
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
        raise UserError(
            f"there is no folder {source}, and no model of that name came from the hub ({reason})"
        ) from None


def is_exported(folder):
    """Whether a folder holds a model of ours that executes nothing; SpeechBrain's repositories have a `config.json` too."""
    return all((Path(folder) / name).is_file() for name in (CONFIG, WEIGHTS))


def save_model(folder, config, modules):
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
    config, states = read_states(folder)
    with torch.device("meta"):  # sizes are compared before a hostile config can take memory
        for name, module in _build(config, folder).items():
            check_state(module, states[name], f"{folder / WEIGHTS}: {name}")
    modules = _build(config, folder)
    for name, module in modules.items():
        module.load_state_dict(states[name])
    check_speakers(modules, config.num_spks, folder / CONFIG)
    return config, modules


def read_states(folder):
    """The `ModelConfig` of a model folder and the state dicts of its modules by name; raises as `load_model` does."""
    folder = Path(folder)
    for name in (CONFIG, WEIGHTS):
        if not (folder / name).is_file():
            raise UserError(f"{folder} has no {name}: give a folder made by unified-sess export")
    config = read_config(folder / CONFIG)
    try:
        tensors = safetensors.torch.load_file(folder / WEIGHTS)
    except (SafetensorError, OSError, ValueError) as error:
        raise UserError(f"{folder / WEIGHTS} is corrupt ({error}): copy or export it again") from None
    states = {name: {} for name in MODULE_NAMES}
    for key, tensor in tensors.items():
        name, _, rest = key.partition(".")
        if name not in states:
            raise UserError(f"{folder / WEIGHTS} holds {key!r}, which belongs to no module")
        states[name][rest] = tensor
    return config, states


def _build(config, folder):
    return {name: module_tree.build(tree, f"{folder / CONFIG}: {name}") for name, tree in config.modules.items()}


def check_speakers(modules, num_spks, where):
    """Raise `UserError` unless the four modules fit together and give `num_spks` sources."""
    for module in modules.values():
        module.eval()
    try:
        found = count_speakers(modules)
    except (RuntimeError, ValueError, TypeError, IndexError, AssertionError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"{where}: its modules do not fit together ({reason}): export the model again") from None
    if found != num_spks:
        raise UserError(f"{where} says {num_spks} speakers, but its network gives {found}: export the model again")


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
    if not SAMPLE_RATES[0] <= numbers[1] <= SAMPLE_RATES[1]:
        raise UserError(
            f"{path} has a sample rate of {numbers[1]} Hz, where {SAMPLE_RATES[0]} to {SAMPLE_RATES[1]} work"
        )
    threshold = checked_silence_threshold(content.get("silence_threshold"), path)
    return ModelConfig({name: modules[name] for name in MODULE_NAMES}, *numbers, threshold)


def checked_silence_threshold(value, where: str | Path) -> float | None:
    """The number in dB, or None where there is none; `UserError` naming `where` for anything else."""
    if value is None:
        return None
    if type(value) not in (int, float) or not -120 <= value < 0:
        raise UserError(f"{where}: silence_threshold {value!r} is no number of dB from -120 to 0")
    return float(value)


def load_checkpoint(module, path):
    """Load a state dict saved by torch into a module; `UserError` where it is missing, corrupt or does not fit."""
    state = read_checkpoint(path)
    check_state(module, state, path)
    module.load_state_dict(state)


def read_checkpoint(path):
    """A state dict saved by torch; `UserError` where it is missing, corrupt or something else."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UserError(f"{path} is missing: give the folder of a whole model or of a training") from None
    except Exception as error:  # noqa: BLE001 - a corrupt file can end in almost any exception
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:100]
        raise UserError(f"{path} is corrupt ({reason}): copy or train it again") from None
    if not isinstance(state, dict) or not all(map(torch.is_tensor, state.values())):
        raise UserError(f"{path} holds no weights: give a checkpoint of SpeechBrain or of a training")
    return state


def check_state(module, state, where, way_out="of another network?"):
    """Raise `UserError` naming the first weights of a state dict that do not fit a module, and the way out."""
    own = module.state_dict()
    for key in [*own, *state]:
        if key not in state or key not in own:
            raise UserError(f"{where} {'lacks' if key in own else 'has unexpected'} weights {key!r}: {way_out}")
        if own[key].shape != state[key].shape:
            sizes = f"{list(state[key].shape)} where the network has {list(own[key].shape)}"
            raise UserError(f"{where}: weights {key!r} have the shape {sizes}: {way_out}")
