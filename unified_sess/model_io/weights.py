"""Weights of untrusted models: names, shapes and sizes are checked before memory of that size is taken."""

import pickletools
import zipfile
from collections.abc import Mapping
from pathlib import Path

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from unified_sess.model_io.module_tree import build, check_size
from unified_sess.network import MODULE_NAMES
from unified_sess.utils.errors import UserError

LARGEST_WEIGHTS = 4_000_000_000  # bytes of a file; the largest published network has 120 million
LARGEST_HEADER = 10_000_000  # bytes in which the names and shapes of the weights stand
FLOATS = ("F16", "BF16", "F32", "F64")
# What a state dict's pickle may name: it makes tensors of stored numbers and nothing else.
PICKLED = ("collections OrderedDict", "torch._utils _rebuild_tensor_v2", "torch._utils _rebuild_parameter") + tuple(
    f"torch {kind}Storage" for kind in ("Half", "BFloat16", "Float", "Double", "Long")
)


def read_header(path: str | Path) -> dict[str, torch.Tensor]:
    """Tensors without memory, in the shapes of those in a safetensors file, by name.

    Raises
    ------
    UserError
        When the file is corrupt, too large or holds anything but floating-point numbers.
    """
    try:
        _refuse_large(path)
        with open(path, "rb") as file:
            if int.from_bytes(file.read(8), "little") > LARGEST_HEADER:
                raise UserError(f"{path} is corrupt (its header is too long): copy or export it again")
        with safe_open(path, "pt") as file:  # it compares the shapes with the size of the file
            slices = {key: file.get_slice(key) for key in file.keys()}  # noqa: SIM118 - not a dictionary
            strange = next((key for key, part in slices.items() if part.get_dtype() not in FLOATS), None)
            if strange is not None:
                raise UserError(f"{path} holds {strange!r}, which are no floating-point numbers")
            return {key: torch.empty(part.get_shape(), device="meta") for key, part in slices.items()}
    except (SafetensorError, OSError, ValueError, RuntimeError) as error:
        raise UserError(f"{path} is corrupt ({error}): copy or export it again") from None


def read_tensors(path: str | Path) -> dict[str, torch.Tensor]:
    """The tensors of a safetensors file by name; `UserError` as of `read_header`."""
    read_header(path)
    try:
        return safetensors.torch.load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise UserError(f"{path} is corrupt ({error}): copy or export it again") from None


def by_module(tensors: Mapping[str, torch.Tensor], path: str | Path) -> dict[str, dict[str, torch.Tensor]]:
    """State dicts of the four modules from tensors named `module.key`; `UserError` for another name."""
    states: dict[str, dict[str, torch.Tensor]] = {name: {} for name in MODULE_NAMES}
    for key, tensor in tensors.items():
        name, _, rest = key.partition(".")
        if name not in states:
            raise UserError(f"{path} holds {key!r}, which belongs to no module")
        states[name][rest] = tensor
    return states


def load_checkpoint(module: nn.Module, path: str | Path) -> None:
    """Load a state dict saved by torch into a module; `UserError` where it is missing, corrupt or does not fit."""
    state = read_checkpoint(path)
    check_state(module, state, path)
    module.load_state_dict(state)


def read_checkpoint(path: str | Path) -> dict[str, torch.Tensor]:
    """A state dict saved by torch, in memory of at most about its file's size.

    Raises
    ------
    UserError
        When the file is missing, corrupt, packed or holds something else.
    """
    try:
        _refuse_large(path)
        _refuse_strange_pickle(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UserError(f"{path} is missing: give the folder of a whole model or of a training") from None
    except UserError:
        raise
    except Exception as error:  # noqa: BLE001 - a corrupt file can end in almost any exception
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:100]
        raise UserError(f"{path} is corrupt ({reason}): copy or train it again") from None
    if not isinstance(state, dict) or not all(map(torch.is_tensor, state.values())):
        raise UserError(f"{path} holds no weights: give a checkpoint of SpeechBrain or of a training")
    if sum(tensor.numel() * tensor.element_size() for tensor in state.values()) > Path(path).stat().st_size:
        raise UserError(f"{path} is corrupt (it claims more weights than it holds): copy or train it again")
    return state


def _refuse_large(path):
    if Path(path).stat().st_size > LARGEST_WEIGHTS:
        raise UserError(f"{path} is larger than {LARGEST_WEIGHTS / 1e9:.0f} GB, which no network here needs")


def _refuse_strange_pickle(path):
    """Raise for a file of torch that unpacks to more than its size or names more than tensors."""
    with zipfile.ZipFile(path) as file:
        parts = file.infolist()
        packed = any(part.compress_type != zipfile.ZIP_STORED for part in parts)
        if packed or sum(part.file_size for part in parts) > Path(path).stat().st_size:
            raise ValueError("it is packed")
        for part in parts:
            if part.filename.endswith(".pkl"):
                for operation, argument, _ in pickletools.genops(file.read(part)):
                    names = operation.name in ("GLOBAL", "INST", "STACK_GLOBAL", "EXT1", "EXT2", "EXT4")
                    if names and argument not in PICKLED:
                        raise ValueError(f"it names {argument}")


def build_with_weights(
    trees: Mapping[str, dict], states: Mapping[str, dict], where: object, weights: object
) -> dict[str, nn.Module]:
    """Build the modules of a network, each with its weights; memory is taken only where the weights fit the trees.

    Arguments
    ---------
    trees : dict of str to dict
        By name of the module.
    states : dict of str to dict
        State dicts by name of the module.
    where, weights : str or Path
        Where the trees and the weights come from, for messages.

    Raises
    ------
    UserError
        As `build`, and naming the first weights that are missing, too many or of another shape.
    """
    check_fit(trees, states, where, weights)
    modules = {name: build(tree, f"{where}: {name}") for name, tree in trees.items()}
    for name, module in modules.items():
        module.load_state_dict(states[name])
    return modules


def check_fit(trees: Mapping[str, dict], states: Mapping[str, dict], where: object, weights: object) -> None:
    """Raise `UserError` unless the modules of trees take the weights, compared by name and shape without memory.

    Arguments
    ---------
    trees : dict of str to dict
        By name of the module.
    states : dict of str to dict
        State dicts by name of the module, on any device.
    where, weights : str or Path
        Where the trees and the weights come from, for messages.
    """
    check_size(trees, where)
    with torch.device("meta"):
        for name, tree in trees.items():
            check_state(build(tree, f"{where}: {name}"), states[name], f"{weights}: {name}")


def check_state(module: nn.Module, state: dict, where: object, way_out: str = "of another network?") -> None:
    """Raise `UserError` naming the first weights of a state dict that do not fit a module, and the way out."""
    own = module.state_dict()
    for key in [*own, *state]:
        if key not in state or key not in own:
            raise UserError(f"{where} {'lacks' if key in own else 'has unexpected'} weights {key!r}: {way_out}")
        if own[key].shape != state[key].shape:
            sizes = f"{list(state[key].shape)} where the network has {list(own[key].shape)}"
            raise UserError(f"{where}: weights {key!r} have the shape {sizes}: {way_out}")
