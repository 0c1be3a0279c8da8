"""The examples in the docstrings run as they stand."""

import doctest
import importlib
import pkgutil

import pytest

import unified_sess

MODULES = sorted(module.name for module in pkgutil.walk_packages(unified_sess.__path__, "unified_sess."))


@pytest.mark.parametrize("name", MODULES)
def test_examples_of_a_module(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    module = importlib.import_module(name)
    assert doctest.testmod(module).failed == 0


def test_there_are_examples():
    finder = doctest.DocTestFinder(exclude_empty=True)
    found = [test for name in MODULES for test in finder.find(importlib.import_module(name)) if test.examples]
    assert len(found) > 20
