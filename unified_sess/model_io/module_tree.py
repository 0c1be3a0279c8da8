"""Networks as plain trees of class names and arguments, built through a whitelist.

A tree is a dictionary `{"class": dotted name, "args": {...}}` whose arguments are plain values or trees again. The
same tree becomes `config.json` and the `!new:` nodes of an exported `hyperparams.yaml`.
"""

import importlib

import yaml

from unified_sess.network import MODULE_NAMES
from unified_sess.utils.errors import UserError

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
    f"{NETWORKS}.resepformer.ResourceEfficientSeparator",
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
LARGEST = 65536  # of any whole number in a tree: no network comes near, a hostile one would fill the memory
TRAINING_ONLY = {"activation_checkpointing"}


def build(tree, where):
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
        For anything but a whitelisted class with plain arguments that it takes.
    """
    check(tree, where)
    return _build(tree, where)


def check(tree, where):
    """Raise `UserError` unless a tree holds whitelisted classes and plain values alone."""
    if not isinstance(tree, dict) or set(tree) != {"class", "args"} or not isinstance(tree["args"], dict):
        raise UserError(f"{where} is not a module with 'class' and 'args': export the model again")
    if not isinstance(tree["class"], str) or tree["class"] not in CLASSES:
        raise UserError(f"{where} names the class {tree['class']!r}, which model files may not use")
    for name, value in tree["args"].items():
        _check_value(value, name, f"{where}.{name}")


def _check_value(value, name, where):
    if isinstance(value, dict):
        check(value, where)
    elif isinstance(value, list):
        for item in value:
            _check_value(item, name, where)
    elif isinstance(value, (int, float)) and abs(value) > LARGEST:
        raise UserError(f"{where} is {value}, which no network needs")
    elif not isinstance(value, (str, int, float, bool, type(None))):
        raise UserError(f"{where} is not a plain value")
    elif name == "rnn_type" and value not in RECURRENCES:
        raise UserError(f"{where} is {value!r}: choose one of {', '.join(RECURRENCES)}")


def _build(value, where):
    if isinstance(value, list):
        return [_build(item, where) for item in value]
    if not isinstance(value, dict):
        return value
    module, _, name = value["class"].rpartition(".")
    arguments = {key: _build(item, f"{where}.{key}") for key, item in value["args"].items()}
    try:
        return getattr(importlib.import_module(module), name)(**arguments)
    except (TypeError, ValueError, AttributeError, RuntimeError, ZeroDivisionError, AssertionError) as error:
        raise UserError(f"{where} cannot be built as {name}: {str(error) or type(error).__name__}") from None


def trees_of_experiment(text, where):
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
    try:
        content = yaml.load(text, Loader=_TreeLoader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        raise UserError(f"{where} is not valid YAML{f' in line {mark.line + 1}' if mark else ''}") from None
    modules = content.get("modules") if isinstance(content, dict) else None
    missing = [name for name in MODULE_NAMES if not isinstance(modules, dict) or name not in modules]
    if missing:
        raise UserError(f"{where} has no {', '.join(missing)} under 'modules': give the results folder of a training")
    trees = {name: _without_training_options(modules[name]) for name in MODULE_NAMES}
    for name, tree in trees.items():
        check(tree, f"{where}: {name}")
    return trees, {k: v for k, v in content.items() if isinstance(v, (str, int, float, bool, type(None)))}


def _without_training_options(value):
    if not isinstance(value, dict):
        return value
    return {k: _without_training_options(v) for k, v in value.items() if k not in TRAINING_ONLY}


class _TreeLoader(yaml.SafeLoader):
    """Reads `!new:` nodes as trees; any other tag becomes an object that `check` refuses."""


def _new(loader, name, node):
    arguments = loader.construct_mapping(node, deep=True) if isinstance(node, yaml.MappingNode) else {}
    return {"class": name, "args": arguments}


_TreeLoader.add_multi_constructor("!new:", _new)
_TreeLoader.add_multi_constructor("!", lambda loader, suffix, node: object())


class TreeDumper(yaml.SafeDumper):
    """Writes trees wrapped in `NewNode` as `!new:` nodes."""

    def ignore_aliases(self, data):
        """Write everything out, also what occurs twice."""
        return True


class NewNode(dict):
    """A tree that is to be written as a `!new:` node."""


def as_yaml(value):
    """Wrap all trees in a value for `TreeDumper`."""
    if isinstance(value, dict) and set(value) == {"class", "args"}:
        return NewNode({"class": value["class"], "args": as_yaml(value["args"])})
    if isinstance(value, dict):
        return {key: as_yaml(item) for key, item in value.items()}
    return value


TreeDumper.add_representer(
    NewNode, lambda dumper, node: dumper.represent_mapping(f"!new:{node['class']}", node["args"].items())
)
