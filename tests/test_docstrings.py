"""Docstrings are whole: those of public functions name the errors that they raise, a section of arguments all of them."""

import ast
import re
from collections.abc import Iterator

import pytest

NOT_FOR_CALLERS = {"SystemExit", "NotImplementedError"}
ARGUMENTS = re.compile(r"^Arguments\n-+\n(.*?)(?=^\w+\n-+\n|\Z)", re.DOTALL | re.MULTILINE)


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


def public_functions(tree: ast.Module) -> Iterator[tuple[ast.FunctionDef, str]]:
    """Functions and methods with their docstrings; the class's docstring stands behind that of a special method."""
    for outer in tree.body:
        for function in outer.body if isinstance(outer, ast.ClassDef) else [outer]:
            if not isinstance(function, ast.FunctionDef) or outer.name.startswith("_"):
                continue
            said = ast.get_docstring(function) or ""
            if function.name.startswith("__"):
                yield function, said + "\n" + (ast.get_docstring(outer) or "")
            elif not function.name.startswith("_"):
                yield function, said


def unnamed_errors(tree: ast.Module) -> Iterator[str]:
    """Line, name and errors of public functions whose docstrings do not name what they raise."""
    for function, said in public_functions(tree):
        lacking = sorted(name for name in raised(function) if name not in said)
        if lacking:
            yield f"line {function.lineno}, {function.name}: {', '.join(lacking)}"


def unnamed_arguments(tree: ast.Module) -> Iterator[str]:
    """Line, name and arguments that a docstring with a section of arguments leaves out."""
    for function, said in public_functions(tree):
        section = ARGUMENTS.search(said)
        if section is None or function.name.startswith("__") and function.name != "__init__":
            continue
        heads = [line.split(" : ")[0] for line in section.group(1).splitlines() if line and line[0] != " "]
        named = {name.strip("* ") for head in heads for name in head.split(",")}
        arguments = function.args.posonlyargs + function.args.args + function.args.kwonlyargs
        lacking = [a.arg for a in arguments if a.arg not in named | {"self", "cls"}]
        if lacking:
            yield f"line {function.lineno}, {function.name}: {', '.join(lacking)}"


@pytest.mark.parametrize("unnamed", [unnamed_errors, unnamed_arguments])
def test_docstrings_leave_nothing_out(repository, unnamed):
    paths = sorted((repository / "unified_sess").rglob("*.py"))
    assert len(paths) > 100
    found = {path: list(unnamed(ast.parse(path.read_text(encoding="utf-8")))) for path in paths}
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


def test_an_unnamed_argument_is_found():
    text = 'def f(a: int, b: int):\n    """F.\n\n    Arguments\n    ---------\n    a : int\n        A.\n    """'
    assert list(unnamed_arguments(ast.parse(text))) == ["line 1, f: b"]
