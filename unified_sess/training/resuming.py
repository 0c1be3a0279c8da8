"""Whether a run may go on in its folder: compared before anything is written there."""

import os
from pathlib import Path

from speechbrain.utils.logger import get_logger

from unified_sess.model_io.module_tree import TRAINING_ONLY
from unified_sess.moved import new_name
from unified_sess.network import MODULE_NAMES
from unified_sess.training.settings import SETTINGS
from unified_sess.utils.errors import UserError
from unified_sess.utils.yaml_files import read_yaml

HYPERPARAMS = "hyperparams.yaml"
FOLDERS = ("data_folder", "speech_folder", "noise_folder", "speakers", "pretrained")

logger = get_logger(__name__)


def refuse_another_run(settings: dict) -> None:
    """Refuse to go on in a folder that holds a run with other weights, optimizer groups or data.

    What else differs, such as `number_of_epochs`, `lr` or `num_workers`, changes. Only reads.

    Arguments
    ---------
    settings : dict
        Of an `Experiment`: its settings and the trees of its modules.

    Raises
    ------
    UserError
        Naming what differs, what it is in the run, and the way out.
    """
    folder = Path(settings["output_folder"])
    if not any(Path(settings["save_folder"]).glob("CKPT*")):
        return
    file = folder / HYPERPARAMS
    try:
        text = file.read_text(encoding="utf-8")
    except FileNotFoundError:
        return  # the weights will tell
    except (OSError, UnicodeDecodeError):
        raise UserError(f"cannot read {file}, the settings of the run in it: give another --output_folder") from None
    before = read_yaml(text, file)
    differences = _differences(before if isinstance(before, dict) else {}, settings)
    if differences:
        raise UserError(
            f"{folder} holds a run with other settings ({'; '.join(differences)}): give another --output_folder to start "
            "a new run, or the settings of this one to go on with it"
        )


def refuse_other_batches(before: list[int] | None, now: list[int]) -> None:
    """Refuse to go on inside an epoch of other batches: its step would stand for other mixtures.

    Arguments
    ---------
    before, now : list of int
        Mixtures of an epoch and of a batch over all ranks, in the checkpoint (None in an old one) and in this run.

    Raises
    ------
    UserError
        When they differ.
    """
    if before is not None and before != now:
        raise UserError(
            f"the last checkpoint lies inside an epoch of {before[0]} mixtures in batches of {before[1]}, now they are "
            f"{now[0]} in batches of {now[1]}: give the same data and batch_size (times processes) to end that epoch"
        )


def _differences(before, now):
    differences = []
    for name, setting in SETTINGS.items():
        if not setting.fixed or name not in before or name not in now:
            continue
        old, new = before[name] or None, now[name] or None
        if old == new or (name in FOLDERS and _same_place(name, old, new)):
            continue
        differences.append(f"{name} is {_shown(new)}, there {_shown(old)}")
    modules = before.get("modules"), now.get("modules")
    if all(isinstance(trees, dict) for trees in modules):
        for name in MODULE_NAMES:
            difference = _tree_difference(name, *(_comparable(trees.get(name)) for trees in modules))
            if difference:
                differences.append(f"network: {difference}")
                break
    return differences


def _same_place(name, old, new):
    """Whether two paths are one, seen from here, or the old one was moved."""
    if old is None or new is None:
        return False
    if os.path.realpath(str(old)) == os.path.realpath(str(new)):
        return True
    if os.path.isabs(str(old)) and not os.path.exists(str(old)) and os.path.exists(str(new)):
        logger.warning(f"{name} was {old}, which is not there any more: going on with {new}")
        return True
    return False


def _comparable(tree):
    """A module's tree with today's class names and without what only the training's memory depends on."""
    if isinstance(tree, dict) and set(tree) == {"class", "args"}:
        arguments = {k: _comparable(v) for k, v in tree["args"].items() if k not in TRAINING_ONLY}
        return {"class": new_name(tree["class"]), "args": arguments}
    return [_comparable(item) for item in tree] if isinstance(tree, list) else tree


def _tree_difference(where, old, new):
    """The first difference of two modules in words; None where they are alike."""
    if old == new:
        return None
    if not all(isinstance(tree, dict) and set(tree) == {"class", "args"} for tree in (old, new)):
        return f"{where} is {_shown(new)}, there {_shown(old)}"
    if old["class"] != new["class"]:
        return f"{where} is a {new['class'].rpartition('.')[2]}, there a {old['class'].rpartition('.')[2]}"
    names = [*new["args"], *(name for name in old["args"] if name not in new["args"])]
    parts = (_tree_difference(f"{where}.{n}", old["args"].get(n), new["args"].get(n)) for n in names)
    return next(part for part in parts if part)


def _shown(value):
    return "null" if value is None else value
