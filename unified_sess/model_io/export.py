"""Turn the results folder of a training into a model folder."""

import io
import json
import os
import re
from pathlib import Path

import torch
import yaml
from speechbrain.utils.logger import get_logger

from unified_sess.model_io.model_card import MEASURES, evaluations_of, read_evaluations, write_model_card
from unified_sess.model_io.model_files import is_exported, load_model, save_model
from unified_sess.model_io.model_folder import CONFIG, ONNX, WEIGHTS, ModelConfig
from unified_sess.model_io.module_tree import TreeDumper, as_yaml
from unified_sess.model_io.onnx_export import to_onnx
from unified_sess.model_io.results_folder import load_trained_network
from unified_sess.network import MODULE_NAMES
from unified_sess.nnet import (
    attention,
    band_split,
    dereverberation,
    fourier,
    locoformer,
    sepreformer,
    sepreformer_blocks,
    time_frequency,
)
from unified_sess.utils.errors import UserError, writable_folder
from unified_sess.utils.files import atomic_path

logger = get_logger(__name__)

SUFFIX = Path(ONNX).suffix
HYPERPARAMS = "hyperparams.yaml"
CUSTOM = "custom.py"
# What SpeechBrain does not have; a later file may use an earlier one, and no two have a name in common.
OWN_FILES = (
    fourier,
    dereverberation,
    time_frequency,
    band_split,
    attention,
    locoformer,
    sepreformer_blocks,
    sepreformer,
)
OWN_IMPORTS = re.compile(r"^from (unified_sess\S*) import (?:\([^)]*\)|.*)\n", re.MULTILINE)
# What it replaces; first where SpeechBrain and `from_pretrained` start to read: a folder that has those is whole.
FILES = (HYPERPARAMS, CONFIG, CUSTOM, ONNX, *(f"{name}.ckpt" for name in MODULE_NAMES))
CARD = "README.md"
# What the files of an export hold, by which one that was killed half-way is told from somebody else's files.
OURS = {
    HYPERPARAMS: "# Made by unified-sess export.",
    CONFIG: '"format": "unified_sess"',
    CUSTOM: "class CustomInterface",
    CARD: "library_name: unified_sess",
}
HEADER = """\
# Made by unified-sess export. SpeechBrain executes this file; config.json and model.safetensors hold the same model
# as plain data.

"""
# SpeechBrain's separation class knows no enhancer: its masknet is the composite of both.
WIRING = """
masknet: !new:unified_sess.model_io.composite.CompositeMaskNet
  enhancer: !ref <enhancer>
  masknet: !ref <separator>

modules:
  encoder: !ref <encoder>
  masknet: !ref <masknet>
  decoder: !ref <decoder>

pretrainer: !new:speechbrain.utils.parameter_transfer.Pretrainer
  loadables:
    encoder: !ref <encoder>
    enhancer: !ref <enhancer>
    masknet: !ref <separator>
    decoder: !ref <decoder>
"""


def export(
    results: str | Path,
    folder: str | Path,
    half: bool = False,
    plain: bool = False,
    onnx: bool = False,
    measured: str | Path | None = None,
    notes: str = "",
) -> Path:
    """Write the best checkpoint of a results folder, or the model of another model folder, as a model folder or ONNX file.

    Arguments
    ---------
    results : str or Path
        `output_folder` of a training, or a model folder.
    folder : str or Path
        The model folder; made, or filled where it exists. What it holds of another model is replaced; files of the same names
        that no export wrote are never. A name that ends in `.onnx` is the one file to write.
    half : bool
        Write 16-bit weights, half the size; they are 32-bit again when loaded.
    plain : bool
        Leave out what is for SpeechBrain and would be executed.
    onnx : bool
        Also write `model.onnx`, which runs without torch; see `onnx_export.to_onnx`.
    measured : str or Path, optional
        What `unified-sess evaluate` wrote: its numbers go into the card, in place of those of `results`.
    notes : str
        Text for the end of the card.

    Returns
    -------
    Path
        The file, or the folder, with `hyperparams.yaml`, `custom.py` and `*.ckpt` for SpeechBrain, `config.json` and
        `model.safetensors` for `UnifiedSeparation.from_pretrained` and the hub, and the model card `README.md`.

    Raises
    ------
    UserError
        When the results folder lacks something, `measured` holds no results, the model folder cannot be written or holds
        somebody else's files, or the network cannot be ONNX.
    """
    results, folder = Path(results), Path(folder)
    if folder.exists() and results.exists() and os.path.samefile(results, folder):
        raise UserError(f"{folder} is the results folder itself: give another folder for the model")
    _check_is_ours(folder)
    if is_exported(results):
        (config, modules), evaluations = load_model(results), read_evaluations(results)
    else:
        (config, modules), evaluations = load_trained_network(results), evaluations_of(results)
    if measured is not None and not (evaluations := evaluations_of(measured)):
        raise UserError(f"{measured} holds no results: run unified-sess evaluate --model {results} first")
    if half:
        _halve(modules)
    alone = folder.suffix == SUFFIX and not folder.is_dir()
    as_onnx = to_onnx(config, modules, half) if onnx or alone else None  # before the folder's old model goes
    if as_onnx is not None and alone:
        writable_folder(folder.parent)
        _write(folder, as_onnx)
        return folder
    writable_folder(folder)
    clear_model_folder(folder)
    write_model_card(folder, config, modules, evaluations, notes=notes)
    if as_onnx is not None:
        _write(folder / ONNX, as_onnx)
        write_model_card(folder, config, modules, evaluations, notes=notes)  # which tells of the file
    if not plain:
        _write_for_speechbrain(folder, config, modules)
    save_model(folder, config, modules)
    if not evaluations:
        logger.warning(f"{results} has no {MEASURES}: the model card carries no numbers")
    return folder


def clear_model_folder(folder: Path, any_card: bool = False) -> None:
    """Delete the model that lies in a folder, but for weights and card, which are replaced.

    `UserError` where it is none of ours; with `any_card` a card may be anybody's, as of a new repository.
    """
    _check_is_ours(folder, any_card)
    for name in FILES:
        (folder / name).unlink(missing_ok=True)


def _check_is_ours(folder, any_card=False):
    """`UserError` where a folder that holds no model of ours has files under the names of one."""
    if is_exported(folder):
        return
    names = [name for name in (*OURS, *FILES, WEIGHTS) if name != CARD or not any_card]
    there = [folder / name for name in names if (folder / name).exists()]
    texts = {path: _is_of_an_export(path) for path in there if path.name in OURS}
    # Of an export that was killed, its card at least is there.
    foreign = [path for path in there if not texts.get(path, any(texts.values()))]
    if foreign:
        raise UserError(f"{foreign[0]} was not written by an export, which would replace it: give another folder")


def _is_of_an_export(path):
    try:
        return OURS[path.name] in path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False


def _write(path, data):
    with atomic_path(path) as temporary:
        Path(temporary).write_bytes(data)


def _halve(modules):
    for name, module in modules.items():
        module.half()
        if not all(torch.isfinite(weights).all() for weights in module.state_dict().values()):
            raise UserError(f"weights of {name} are too large for 16 bits: export without --half")


def _write_for_speechbrain(folder, config, modules):
    """Checkpoints, `hyperparams.yaml` and `custom.py`."""
    for name in MODULE_NAMES:
        with atomic_path(folder / f"{name}.ckpt") as temporary:
            buffer = io.BytesIO()  # torch's own writer hides why it failed, such as a full disk
            torch.save(modules[name].state_dict(), buffer)
            Path(temporary).write_bytes(buffer.getbuffer())
    with atomic_path(folder / HYPERPARAMS) as temporary:
        Path(temporary).write_text(_hyperparams(config), encoding="utf-8")
    with atomic_path(folder / CUSTOM) as temporary:
        Path(temporary).write_text(_custom(config), encoding="utf-8")


def _custom(config: ModelConfig) -> str:
    """The text of `custom.py`, which needs this package neither for SpeechBrain's classes nor for what it brings."""
    parts, wanted = [Path(__file__).with_name("custom.py").read_text(encoding="utf-8")], json.dumps(config.modules)
    for file in reversed(OWN_FILES):
        if f"{file.__name__}." in wanted:
            text = Path(str(file.__file__)).read_text(encoding="utf-8")
            wanted += "".join(f"{name}." for name in OWN_IMPORTS.findall(text))
            parts.insert(0, OWN_IMPORTS.sub("", text))  # in one file, what one takes from another stands above
    return "\n\n".join(parts)


def _hyperparams(config):
    names = {"masknet": "separator"}
    nodes = {names.get(name, name): as_yaml(tree) for name, tree in config.modules.items()}
    content = {**{name: value for name, value in config._asdict().items() if name != "modules"}, **nodes}
    text = yaml.dump(content, Dumper=TreeDumper, sort_keys=False, default_flow_style=False, allow_unicode=True)
    return HEADER + text + WIRING
