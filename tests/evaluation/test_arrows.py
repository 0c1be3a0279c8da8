"""Imports run one way: evaluation may use inference and model files, which know nothing of evaluation."""

import ast

import pytest


def imported(path):
    """Names of all modules that a file imports, inside functions too."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""


@pytest.mark.parametrize(
    "folder", ["inference", "model_io", "data", "nnet", "utils", "gradient_modulation", "training"]
)
def test_evaluation_and_inference_do_not_import_each_other(repository, folder):
    files = list((repository / "unified_sess" / folder).rglob("*.py"))
    assert files
    for path in files:
        assert not [name for name in imported(path) if name.startswith("unified_sess.evaluation")], path
