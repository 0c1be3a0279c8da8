"""A public function that raises an error says so: its docstring, or that of its class, names the error."""

import ast
from collections.abc import Iterator

import pytest

NOT_FOR_CALLERS = {"SystemExit", "NotImplementedError"}


def raised(function: ast.FunctionDef) -> set[str]:
    """Names of what a function raises itself, outside functions in it: `Error(...)`."""
    names, todo = set(), list(function.body)
    while todo:
        node = todo.pop()
        if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.Lambda):
            continue
        call = node.exc if isinstance(node, ast.Raise) else None
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id[0] != "_":
            names.add(call.func.id)
        todo += ast.iter_child_nodes(node)
    return names - NOT_FOR_CALLERS


def unnamed_errors(tree: ast.Module) -> Iterator[str]:
    """Line, name and errors of public functions and methods whose docstrings do not name what they raise."""
    for outer in tree.body:
        in_class = isinstance(outer, ast.ClassDef)
        for function in outer.body if in_class else [outer]:
            special = function.name.startswith("__") if isinstance(function, ast.FunctionDef) else False
            if not isinstance(function, ast.FunctionDef) or outer.name.startswith("_"):
                continue
            if function.name.startswith("_") and not special:
                continue
            said = (ast.get_docstring(function) or "") + ((ast.get_docstring(outer) or "") if special else "")
            lacking = sorted(name for name in raised(function) if name not in said)
            if lacking:
                yield f"line {function.lineno}, {function.name}: {', '.join(lacking)}"


def test_errors_are_named(repository):
    paths = sorted((repository / "unified_sess").rglob("*.py"))
    assert len(paths) > 100
    found = {path: list(unnamed_errors(ast.parse(path.read_text(encoding="utf-8")))) for path in paths}
    assert not {str(path.relative_to(repository)): lines for path, lines in found.items() if lines}


@pytest.mark.parametrize(
    "text",
    [
        "def f(): raise ValueError(1)",
        "class A:\n    def __init__(self):\n        if 1:\n            raise UserError(1)",
        "class A:\n    'UserError'\n    def f(self): raise UserError(1)",
    ],
)
def test_an_unnamed_error_is_found(text):
    assert list(unnamed_errors(ast.parse(text)))
