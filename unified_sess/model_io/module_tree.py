"""Networks as plain trees of class names and arguments, built through a whitelist.

A tree is a dictionary `{"class": dotted name, "args": {...}}` whose arguments are plain values or trees again. The
same tree becomes `config.json` and the `!new:` nodes of an exported `hyperparams.yaml`.
"""

import functools
import importlib
import inspect
import math
from collections.abc import Mapping
from typing import Any

import yaml
from torch import nn

from unified_sess.moved import new_name
from unified_sess.network import MODULE_NAMES
from unified_sess.utils.errors import UserError
from unified_sess.utils.yaml_files import read_yaml

NETWORKS = "unified_sess.nnet"
SPEECHBRAIN = "speechbrain.lobes.models"
# All that a model file may name. Each class only computes: no argument of theirs names a file or code.
CLASSES = {
    "unified_sess.network.NoEnhancer",
    f"{NETWORKS}.band_split.BandSplitNet",
    f"{NETWORKS}.conv_tasnet.MaskNet",
    f"{NETWORKS}.dual_path.Dual_Path_Model",
    f"{NETWORKS}.dual_path.SBRNNBlock",
    f"{NETWORKS}.dual_path.SBTransformerBlock",
    f"{NETWORKS}.locoformer.TFLocoformer",
    f"{NETWORKS}.resepformer.ResourceEfficientSeparator",
    f"{NETWORKS}.sepreformer.GeluEncoder",
    f"{NETWORKS}.sepreformer.SepReformer",
    f"{NETWORKS}.time_frequency.SpectralDecoder",
    f"{NETWORKS}.time_frequency.SpectralEncoder",
    f"{NETWORKS}.time_frequency.TimeFrequencyNet",
    f"{SPEECHBRAIN}.conv_tasnet.MaskNet",
    f"{SPEECHBRAIN}.dual_path.Decoder",
    f"{SPEECHBRAIN}.dual_path.Dual_Path_Model",
    f"{SPEECHBRAIN}.dual_path.Encoder",
    f"{SPEECHBRAIN}.dual_path.SBRNNBlock",
    f"{SPEECHBRAIN}.dual_path.SBTransformerBlock",
    f"{SPEECHBRAIN}.resepformer.MemLSTM",
    f"{SPEECHBRAIN}.resepformer.ResourceEfficientSeparator",
    f"{SPEECHBRAIN}.resepformer.SBRNNBlock",
    f"{SPEECHBRAIN}.resepformer.SBTransformerBlock_wnormandskip",
    f"{SPEECHBRAIN}.resepformer.SegLSTM",
}
RECURRENCES = ("RNN", "LSTM", "GRU", "LiGRU")  # looked up by name in a module of SpeechBrain
TRAINING_ONLY = {"activation_checkpointing"}

# What the numbers of a network may be, smallest and largest, by argument. The largest lie far above every published
# network; beyond them a few bytes of an untrusted file would cost minutes or gigabytes.
# X: dilations reach 2 ** (X - 1).
# stages: the rate is divided by 2 ** stages.
LAYERS = dict.fromkeys(
    ("num_layers", "layer", "repeats", "cells", "R", "encoder_blocks", "decoder_blocks"), (1, 64)
) | {
    "X": (1, 12),
    "stages": (1, 12),
}
WIDTHS = dict.fromkeys(
    ("N", "B", "H", "channels", "hidden", "hidden_channels", "hidden_size", "input_size", "input_dim", "in_channels",
     "out_channels", "outsize", "unit", "d_model", "d_ffn", "kdim", "vdim", "input_shape", "frequency_hidden", "width"),
    (1, 8192),
)  # fmt: skip
NUMBERS = {
    **LAYERS,
    **WIDTHS,
    "kernel_size": (1, 8192),
    "stride": (1, 8192),
    "frequencies": (2, 8193),
    "bands": (1, 8193),
    "high_frequencies": (0, 8192),
    "high_pooling": (1, 8192),
    "P": (1, 255),
    "K": (2, 2500),
    "segment_size": (1, 2500),
    "max_length": (1, 20000),
    "max_distance": (1, 20000),
    "num_spks": (1, 16),
    "num_spk": (1, 16),
    "C": (1, 16),
    "nhead": (1, 128),
    "groups": (1, 128),
    "pooling": (1, 64),
    "block": (1, 64),
    "past": (0, 64),
    "delay": (1, 64),
    "dropout": (0, 1),
}
LARGEST_LAYER_COUNT = 1000  # layers of a network with those inside them; the largest published one has 37
DEEPEST_TREE = 4  # levels of modules inside modules and lists inside lists; a dual-path network has 2
LONGEST_TEXT = 64  # characters, such as of the name of a norm
LONGEST_LIST = 64  # items, such as bands of a spectrogram


def build(tree: dict, where: object) -> nn.Module:
    """Build the module that a tree describes.

    Arguments
    ---------
    tree : dict
        `{"class": ..., "args": {...}}`.
    where : str
        The file and key, for messages.

    Raises
    ------
    UserError
        For anything but a whitelisted class with plain arguments that it takes, in the bounds of `NUMBERS`.
    """
    check(tree, where)
    return _build(tree, where)


def check_size(trees: Mapping[str, dict], where: object) -> None:
    """Raise `UserError` where trees are no network of a size that exists."""
    for name, tree in trees.items():
        check(tree, f"{where}: {name}")
    layers = sum(map(_count_layers, trees.values()))
    if layers > LARGEST_LAYER_COUNT:
        raise UserError(f"{where} describes {layers} layers, and more than {LARGEST_LAYER_COUNT} no network needs")


def check(tree: object, where: object, depth: int = 1) -> None:
    """Raise `UserError` unless a tree holds whitelisted classes and plain values within bounds alone."""
    if not isinstance(tree, dict) or set(tree) != {"class", "args"} or not isinstance(tree["args"], dict):
        raise UserError(f"{where} is not a module with 'class' and 'args': export the model again")
    if not isinstance(tree["class"], str) or new_name(tree["class"]) not in CLASSES:
        raise UserError(f"{where} names the class {str(tree['class'])[:100]!r}, which model files may not use")
    if depth > DEEPEST_TREE:
        raise UserError(f"{where} nests deeper than {DEEPEST_TREE} levels, which no network needs")
    for name, value in tree["args"].items():
        _check_value(value, name, f"{where}.{str(name)[:LONGEST_TEXT]}", depth)
    known = _arguments(new_name(tree["class"]))
    unknown = [name for name in tree["args"] if name not in known]
    if unknown and not any(each.kind is each.VAR_KEYWORD for each in known.values()):
        raise UserError(f"{where} has the argument {str(unknown[0])[:LONGEST_TEXT]!r}, which its class does not take")


def _check_value(value, name, where, depth):
    if isinstance(value, dict):
        check(value, where, depth + 1)
    elif isinstance(value, list) and depth <= DEEPEST_TREE and len(value) <= LONGEST_LIST:
        for item in value:
            _check_value(item, name, where, depth + 1)
    elif isinstance(value, bool) or value is None:
        pass
    elif isinstance(value, (int, float)):
        if name not in NUMBERS:
            raise UserError(f"{where} is a number that model files may not set")
        smallest, largest = NUMBERS[name]
        if not smallest <= value <= largest:  # nor is NaN
            raise UserError(f"{where} is {str(value)[:LONGEST_TEXT]}, which no network needs")
    elif not isinstance(value, str) or len(value) > LONGEST_TEXT:
        raise UserError(f"{where} is not a plain value")
    elif name == "rnn_type" and value not in RECURRENCES:
        raise UserError(f"{where} is {value!r}: choose one of {', '.join(RECURRENCES)}")


def _count_layers(tree):
    """Layers that a tree builds, those inside other layers as often as these."""
    args = tree["args"]
    own = math.prod(args[name] for name in LAYERS if isinstance(args.get(name), int))
    return own * (1 + sum(map(_count_inside, args.values())))


def _count_inside(value):
    if isinstance(value, list):
        return sum(map(_count_inside, value))
    return _count_layers(value) if isinstance(value, dict) else 0


@functools.cache
def _arguments(path):
    """Names and defaults of the arguments of a class."""
    module, _, name = path.rpartition(".")
    return inspect.signature(getattr(importlib.import_module(module), name)).parameters


def with_defaults(tree: dict) -> dict:
    """A checked tree with the defaults of the arguments it leaves out: equal for networks that compute the same."""
    path = new_name(tree["class"])
    defaults = {each.name: each.default for each in _arguments(path).values() if each.default is not each.empty}
    given = {key: with_defaults(value) if isinstance(value, dict) else value for key, value in tree["args"].items()}
    return {"class": path, "args": defaults | given}


def _build(value, where):
    if isinstance(value, list):
        return [_build(item, where) for item in value]
    if not isinstance(value, dict):
        return value
    module, _, name = new_name(value["class"]).rpartition(".")
    arguments = {key: _build(item, f"{where}.{key}") for key, item in value["args"].items()}
    try:
        return getattr(importlib.import_module(module), name)(**arguments)
    except (TypeError, ValueError, AttributeError, RuntimeError, ZeroDivisionError, AssertionError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"{where} cannot be built as {name}: {reason}") from None


def trees_of_experiment(text: str, where: object) -> tuple[dict[str, dict], dict]:
    """Trees of the four modules of a resolved experiment file, and its scalar settings.

    Arguments
    ---------
    text : str
        A resolved HyperPyYAML file; its tags are read, never obeyed.
    where : str
        The file, for messages.

    Returns
    -------
    trees : dict of str to dict
    settings : dict

    Raises
    ------
    UserError
        When the file does not parse or a module is missing or not in the whitelist.
    """
    content = read_yaml(text, where)
    content = content if isinstance(content, dict) else {}
    modules = content.get("modules")
    modules = modules if isinstance(modules, dict) else {}
    missing = [name for name in MODULE_NAMES if name not in modules]
    if missing:
        raise UserError(f"{where} has no {', '.join(missing)} under 'modules': give the results folder of a training")
    check_size({name: modules[name] for name in MODULE_NAMES}, where)
    trees = {name: as_of_today(modules[name]) for name in MODULE_NAMES}
    return trees, {k: v for k, v in content.items() if isinstance(v, (str, int, float, bool, type(None)))}


def as_of_today(value: object) -> Any:
    """A checked tree with classes by the names they have now, without what serves training alone."""
    if not isinstance(value, dict):
        return value
    args = {key: as_of_today(item) for key, item in value["args"].items() if key not in TRAINING_ONLY}
    return {"class": new_name(value["class"]), "args": args}


class TreeDumper(yaml.SafeDumper):
    """Writes trees wrapped in `NewNode` as `!new:` nodes."""

    def ignore_aliases(self, data: object) -> bool:
        """Write everything out, also what occurs twice."""
        return True


class NewNode(dict):
    """A tree that is to be written as a `!new:` node."""


def as_yaml(value: object) -> object:
    """Wrap all trees in a value for `TreeDumper`."""
    if isinstance(value, dict) and set(value) == {"class", "args"}:
        return NewNode({"class": value["class"], "args": as_yaml(value["args"])})
    if isinstance(value, dict):
        return {key: as_yaml(item) for key, item in value.items()}
    return value


TreeDumper.add_representer(
    NewNode, lambda dumper, node: dumper.represent_mapping(f"!new:{node['class']}", node["args"].items())
)
