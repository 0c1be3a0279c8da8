"""Cores, where a system tells them and where it does not."""

import os

from unified_sess.utils.parallel import available_cores


def test_cores_without_sched_getaffinity(monkeypatch):
    """Regression: macOS has no `os.sched_getaffinity`."""
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 3)
    assert available_cores() == 3
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert available_cores() == 1


def test_cores_that_this_process_may_use():
    assert 1 <= available_cores() <= (os.cpu_count() or 1)
