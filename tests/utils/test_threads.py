"""Threads sleep on a busy machine; what the user has set stays."""

import os

import pytest

from unified_sess.utils.threads import CHOICES, way_to_wait


@pytest.fixture(autouse=True)
def nothing_is_set(monkeypatch):
    for name in CHOICES:
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(("load", "passive"), [(0.0, False), (0.9, True), (5.0, True)])
def test_threads_spin_a_little_on_a_quiet_machine_and_sleep_on_a_busy_one(monkeypatch, load, passive):
    monkeypatch.setattr(os, "getloadavg", lambda: (load * os.cpu_count(), 0.0, 0.0))
    ways = way_to_wait()
    assert len(ways) == 1 and ("OMP_WAIT_POLICY" in ways) == passive
    assert int(ways.get("GOMP_SPINCOUNT", 0)) <= 1000  # 100 times as many are a tenfold step beside another process


@pytest.mark.parametrize("name", CHOICES)
def test_what_the_user_has_set_stays(monkeypatch, name):
    monkeypatch.setenv(name, "active")
    assert way_to_wait() == {}
