"""Cores, where a system tells them and where it does not."""

import os

import pytest

from unified_sess.utils import parallel
from unified_sess.utils.parallel import available_cores, idle_cores, waiting_of_threads


def test_cores_without_sched_getaffinity(monkeypatch):
    """Regression: macOS has no `os.sched_getaffinity`."""
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 3)
    assert available_cores() == 3
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert available_cores() == 1


def test_cores_that_this_process_may_use():
    assert 1 <= available_cores() <= (os.cpu_count() or 1)


def test_idle_cores_are_no_more_than_there_are():
    assert idle_cores(0.1) <= (os.cpu_count() or 1) * 1.25 or idle_cores(0.1) == float("inf")


@pytest.mark.parametrize(
    ("idle", "variables", "expected"),
    [
        (2.0, {}, {}),
        (1.0, {}, {"OMP_WAIT_POLICY": "passive"}),
        (1.0, {"OMP_NUM_THREADS": "1"}, {}),
        (1.0, {"OMP_WAIT_POLICY": "active"}, {}),
        (1.0, {"GOMP_SPINCOUNT": "1000"}, {}),
        (float("inf"), {}, {}),
    ],
)
def test_threads_sleep_beside_other_programs_only(monkeypatch, idle, variables, expected):
    """Regression: threads that always slept made a step of the default experiment twice as long on a quiet machine."""
    for name in ("OMP_NUM_THREADS", "OMP_WAIT_POLICY", "GOMP_SPINCOUNT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(parallel, "available_cores", lambda: 2)
    monkeypatch.setattr(parallel, "idle_cores", lambda: idle)
    assert waiting_of_threads() == expected
