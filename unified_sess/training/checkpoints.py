"""Checkpoints that are whole or absent, with the random state inside."""

import logging
import math
import os
import random
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from speechbrain.utils import checkpoints
from speechbrain.utils.distributed import ddp_barrier, if_main_process
from speechbrain.utils.logger import get_logger

from unified_sess.gradient_modulation import GradientModulation
from unified_sess.training.conflict_null import ConflictNull
from unified_sess.utils.errors import UserError

logger = get_logger(__name__)

INCOMPLETE = "incomplete-"


class AtomicCheckpointer(checkpoints.Checkpointer):
    """SpeechBrain's checkpointer, safe against being killed while it saves.

    SpeechBrain writes the file that marks a folder as a checkpoint before the parameters, so a run killed in between
    finds half a checkpoint at its next start. Here everything is written to a folder of another name, flushed to
    the disk and then renamed.
    """

    def __init__(self, checkpoints_dir: str | Path, recoverables: dict[str, Any] | None = None, **kwargs: Any) -> None:
        super().__init__(checkpoints_dir, recoverables, **kwargs)
        self.add_recoverable("random_state", RandomState(), optional_load=True)
        self.remove_incomplete()

    def remove_incomplete(self) -> None:
        """Delete what a killed run left half-written."""
        if if_main_process():
            for folder in self.checkpoints_dir.glob(INCOMPLETE + "*"):
                shutil.rmtree(folder, ignore_errors=True)

    def save_checkpoint(
        self, meta: dict = {}, end_of_epoch: bool = True, name: str | None = None, verbosity: int = logging.INFO
    ) -> checkpoints.Checkpoint | None:  # noqa: B006
        """Save a checkpoint; see SpeechBrain's `Checkpointer.save_checkpoint`. `UserError` where it cannot be written."""
        try:
            # Quiet here: the folder's name in SpeechBrain's message is still the temporary one.
            saved = super().save_checkpoint(meta=meta, end_of_epoch=end_of_epoch, name=name, verbosity=logging.DEBUG)
        except BaseException as error:
            self.remove_incomplete()
            # torch's writer turns a failed write, as on a full disk, into a RuntimeError of its own.
            words = ("inline_container", "StreamWriter", "iostream")
            if isinstance(error, RuntimeError) and any(word in str(error) for word in words):
                raise UserError(
                    f"cannot write a checkpoint in {self.checkpoints_dir}: free some space on the disk, then run the "
                    "same command again; it goes on from the last checkpoint"
                ) from None
            raise
        renamed = self._rename(saved, verbosity) if if_main_process() else None
        ddp_barrier()  # before anybody lists the checkpoints
        return renamed

    def _rename(self, saved, verbosity):
        for file in saved.path.iterdir():
            _flush(file)
        _flush(saved.path)  # the names of the files are in the folder
        whole = saved.path.with_name(saved.path.name.removeprefix(INCOMPLETE))
        if whole.exists():  # saved under a name given before
            shutil.rmtree(whole)
        os.rename(saved.path, whole)
        _flush(self.checkpoints_dir)
        _flush(self.checkpoints_dir.parent)  # the first checkpoint's folder may be as new as it is
        logger.log(verbosity, f"Saved a checkpoint in {whole}")
        return checkpoints.Checkpoint(
            whole, saved.meta, {name: whole / path.name for name, path in saved.paramfiles.items()}
        )

    def find_checkpoints(
        self,
        importance_key: Callable | None = None,
        max_key: str | None = None,
        min_key: str | None = None,
        ckpt_predicate: Callable | None = None,
        **kwargs: Any,
    ) -> list[checkpoints.Checkpoint]:
        """Checkpoints by rank; see SpeechBrain's `Checkpointer.find_checkpoints`. A NaN in `max_key` is no value."""
        predicate = ckpt_predicate
        if max_key is not None:

            def predicate(checkpoint):
                finite = math.isfinite(checkpoint.meta.get(max_key, math.nan))
                return finite and (ckpt_predicate is None or ckpt_predicate(checkpoint))

        return super().find_checkpoints(importance_key, max_key, min_key, predicate, **kwargs)

    def load_checkpoint(self, checkpoint: checkpoints.Checkpoint) -> None:
        """Load a checkpoint; one that was made with another network or optimizer is a `UserError`."""
        try:
            super().load_checkpoint(checkpoint)
        except (RuntimeError, ValueError, KeyError) as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise UserError(
                f"{checkpoint.path} does not fit this experiment ({reason}): give the settings that it was trained with, or "
                "another --output_folder"
            ) from None

    def save_and_keep_only(self, *args: Any, importance_keys: Iterable = (), **kwargs: Any) -> None:
        """Save, then delete the least important; see SpeechBrain's `Checkpointer.save_and_keep_only`."""
        # SpeechBrain appends to its default list at every call.
        super().save_and_keep_only(*args, importance_keys=list(importance_keys), **kwargs)

    def _new_checkpoint_dirpath(self):
        return _renamed(super()._new_checkpoint_dirpath())

    def _custom_checkpoint_dirpath(self, name):
        return _renamed(super()._custom_checkpoint_dirpath(name))


def _renamed(path):
    return Path(path).with_name(INCOMPLETE + Path(path).name)


def _flush(path):
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@checkpoints.register_checkpoint_hooks
class RandomState:
    """The random state of Python, NumPy and torch (this process's devices), as something to save and recover."""

    @checkpoints.mark_as_saver
    def save(self, path: str | Path) -> None:
        """Write the state of all generators."""
        state = {"torch": torch.get_rng_state(), "numpy": np.random.get_state(), "python": random.getstate()}
        if torch.cuda.is_available():
            state["cuda"] = torch.cuda.get_rng_state_all()
        torch.save(state, path)

    @checkpoints.mark_as_loader
    def load(self, path: str | Path, end_of_epoch: bool) -> None:
        """Read the state of all generators back."""
        # Written by `save` above in the user's own results folder; NumPy's state needs unpickling.
        state = torch.load(path, weights_only=False, map_location="cpu")
        torch.set_rng_state(state["torch"])
        np.random.set_state(state["numpy"])
        random.setstate(state["python"])
        if "cuda" in state and len(state["cuda"]) == torch.cuda.device_count():
            torch.cuda.set_rng_state_all(state["cuda"])


def recover_best(
    checkpointer: checkpoints.Checkpointer, max_key: str | None = None, min_key: str | None = None
) -> None:
    """Load the checkpoint with the highest `max_key` or lowest `min_key`.

    Raises
    ------
    UserError
        When there is none, or no epoch had finite losses on the validation part.
    """
    if checkpointer.recover_if_possible(max_key=max_key, min_key=min_key) is not None:
        return
    folder = checkpointer.checkpoints_dir
    if any(checkpoint.meta.get("failed") for checkpoint in checkpointer.list_checkpoints()):
        raise UserError(
            f"no epoch of {folder.parent} has finite losses on the validation part, so there is no best checkpoint: "
            "lower lr, or check the data (unified-sess check-data); the last checkpoint stays"
        )
    raise UserError(f"no checkpoint in {folder}: train first, or give the --output_folder of a run")


def options_as_made(optimizer: torch.optim.Optimizer, state: dict) -> dict:
    """The optimizer's state with all options but the learning rate, which has a schedule, as the experiment says.

    PyTorch would take them from the checkpoint, while the scaler of fp16 looks at how the optimizer was made.
    """
    made = {name: value for name, value in optimizer.defaults.items() if name != "lr"}
    return state | {"param_groups": [group | made for group in state["param_groups"]]}


def save_statistics(statistics: GradientModulation | ConflictNull, path: str | Path) -> None:
    """Write the statistics of gradients, which an epoch collects, and what the rule remembers."""
    torch.save(statistics.state_dict(), path)


def load_statistics(statistics: GradientModulation | ConflictNull, path: str | Path, end_of_epoch: bool) -> None:
    """Read what `save_statistics` wrote."""
    statistics.load_state_dict(torch.load(path, weights_only=True))
