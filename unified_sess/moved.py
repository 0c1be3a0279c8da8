"""Modules under their names of before the package had folders, for files that users have.

`hyperparams.yaml`, `config.json` and exported folders name classes by their module. One table leads an old name to
the new one, and importing the old name gives the very same module.
"""

import importlib
import sys
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

# Old name -> new name, below the package.
MOVED = {
    "allocator": "utils.allocator",
    "audio": "utils.audio",
    "brain": "training.brain",
    "checkpointing": "training.checkpoints",
    "config": "training.experiment",
    "cuda_graphs": "training.cuda_graphs",
    "data.datasets": "data.parts",
    "data.demo_corpus": "data.demo.corpus",
    "data.demo_speech": "data.demo.speech",
    "data.held_out": "data.own_folders.held_out",
    "data.librimix_drawing": "data.librimix.drawing",
    "data.librimix_generation": "data.librimix.generation",
    "data.librimix_sources": "data.librimix.sources",
    "data.noise_speed": "data.librimix.noise_speed",
    "data.speech_folders": "data.own_folders.speech_folders",
    "distributed": "training.distributed",
    "errors": "utils.errors",
    "evaluation.gradient_plots": "training.gradient_plots",
    "evaluation.gradient_table": "training.gradient_table",
    "files": "utils.files",
    "flat_gradients": "gradient_modulation.flat_gradients",
    "inference.composite": "model_io.composite",
    "inference.custom": "model_io.custom",
    "inference.export": "model_io.export",
    "inference.long_audio": "inference.windows",
    "inference.marks": "inference.files.marks",
    "inference.model_card": "model_io.model_card",
    "inference.model_files": "model_io.model_files",
    "inference.module_tree": "model_io.module_tree",
    "inference.planning": "inference.files.planning",
    "inference.recordings": "inference.files.recordings",
    "inference.results_folder": "model_io.results_folder",
    "inference.separate_files": "inference.files.separate_files",
    "joint_step": "training.joint_step",
    "nnet.global_norm": "nnet.kernels.global_norm",
    "nnet.gpu_layer": "nnet.kernels.gpu_layer",
    "nnet.prelu": "nnet.kernels.prelu",
    "pretrained": "training.pretrained",
    "rule_description": "gradient_modulation.rule_description",
    "show_network": "model_io.show_network",
    "torchjd_rule": "gradient_modulation.torchjd_rule",
}


def new_name(name: str) -> str:
    """The name that a dotted name of a module or class has now; a name that never moved stays.

    Example
    -------
    >>> new_name("unified_sess.checkpointing.AtomicCheckpointer")
    'unified_sess.training.checkpoints.AtomicCheckpointer'
    """
    package, _, rest = name.partition(".")
    for old, new in MOVED.items():
        if package == "unified_sess" and (rest == old or rest.startswith(old + ".")):
            return f"{package}.{new}{rest[len(old) :]}"
    return name


class _OldNames:
    """Imports an old name by importing the new one: a finder and a loader, without the slow import of their base classes."""

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        return ModuleSpec(fullname, self) if new_name(fullname) != fullname else None  # type: ignore[arg-type]

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return ModuleType(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        sys.modules[module.__name__] = importlib.import_module(new_name(module.__name__))


def install() -> None:
    """Let Python's import know the old names, once."""
    if not any(isinstance(finder, _OldNames) for finder in sys.meta_path):
        sys.meta_path.append(_OldNames())
