"""Checkpoints are whole or absent and carry the random state."""

import os
import random
import resource
import signal
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import torch

from unified_sess.training import checkpoints
from unified_sess.training.checkpoints import AtomicCheckpointer
from unified_sess.utils.errors import UserError


def test_random_state_comes_back(tmp_path):
    checkpointer = AtomicCheckpointer(tmp_path)
    checkpointer.save_checkpoint()
    first = torch.rand(3), np.random.rand(3), random.random()
    checkpointer.recover_if_possible()
    second = torch.rand(3), np.random.rand(3), random.random()
    assert torch.equal(first[0], second[0]) and (first[1] == second[1]).all() and first[2] == second[2]


def test_a_failed_save_leaves_nothing_and_keeps_the_last(tmp_path):
    class Fails(torch.nn.Linear):
        def state_dict(self, *args, **kwargs):
            raise OSError(28, "No space left on device")

    good = AtomicCheckpointer(tmp_path, {"a": torch.nn.Linear(2, 2)}).save_checkpoint()
    with pytest.raises(OSError):
        AtomicCheckpointer(tmp_path, {"a": Fails(2, 2)}).save_checkpoint()
    assert [p.name for p in tmp_path.iterdir()] == [good.path.name]


def test_a_disk_that_fills_up_is_one_line_and_keeps_the_last(tmp_path):
    large = torch.nn.Linear(200, 200)
    good = AtomicCheckpointer(tmp_path, {"a": large}).save_checkpoint()
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, limits[1]))  # writes fail from here on, as on a full disk
    try:
        with pytest.raises(UserError, match="cannot write a checkpoint.*free some space"):
            AtomicCheckpointer(tmp_path, {"a": large}).save_checkpoint()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert [p.name for p in tmp_path.iterdir()] == [good.path.name]


def test_killed_inside_a_save_the_last_whole_checkpoint_is_recovered(tmp_path):
    script = textwrap.dedent("""
        import os, sys, torch
        from unified_sess.training.checkpoints import AtomicCheckpointer
        class Killed(torch.nn.Linear):
            def state_dict(self, *args, **kwargs):
                os.kill(os.getpid(), 9)
        AtomicCheckpointer(sys.argv[1], {"first": torch.nn.Linear(2, 2), "second": Killed(2, 2)}).save_checkpoint()
    """)
    modules = {"first": torch.nn.Linear(2, 2), "second": torch.nn.Linear(2, 2)}
    good = AtomicCheckpointer(tmp_path, modules).save_checkpoint(meta={"unixtime": 1})
    ended = subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=False)
    assert ended.returncode == -signal.SIGKILL
    assert any(p.name.startswith("incomplete-") for p in tmp_path.iterdir())
    again = AtomicCheckpointer(tmp_path, modules)
    assert again.recover_if_possible().path == good.path
    assert os.listdir(tmp_path) == [good.path.name]


def test_the_folder_of_a_new_checkpoint_reaches_the_disk(tmp_path, monkeypatch):
    """Regression: its files were flushed, their names in the new folder were not."""
    flushed, renamed = [], []
    monkeypatch.setattr(checkpoints, "_flush", lambda path: flushed.append(os.fspath(path)))
    rename = os.rename
    monkeypatch.setattr(os, "rename", lambda a, b: (renamed.append((os.fspath(a), list(flushed))), rename(a, b)))
    AtomicCheckpointer(tmp_path / "save", {"a": torch.nn.Linear(1, 1)}).save_checkpoint()
    ((folder, before),) = renamed
    assert folder in before
    assert str(tmp_path / "save") in flushed[len(before) :]


def test_only_the_latest_and_the_best_are_kept(tmp_path):
    checkpointer = AtomicCheckpointer(tmp_path, {"a": torch.nn.Linear(1, 1)})
    for value in (1.0, 5.0, 3.0, 2.0):
        checkpointer.save_and_keep_only(meta={"si_snri": value}, max_keys=["si_snri"])
    assert sorted(c.meta["si_snri"] for c in checkpointer.list_checkpoints()) == [2.0, 5.0]
    assert checkpointer.find_checkpoint(max_key="si_snri").meta["si_snri"] == 5.0
