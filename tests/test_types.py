"""Every public function says what it takes and what it gives."""

import ast

import pytest

WHERE = ("unified_sess", "recipes", "benchmarks", "data_prep", "docs", "train.py")


def untyped_functions(tree):
    """Line, name and what lacks a type, of every public function and method; those inside functions are private."""

    def walk(node, in_class):
        for inner in node.body:
            private = getattr(inner, "name", "_").startswith("_")
            if isinstance(inner, ast.ClassDef) and not private:
                yield from walk(inner, True)
            special = private and getattr(inner, "name", "").startswith("__")
            if isinstance(inner, ast.FunctionDef) and (not private or special):
                arguments = inner.args
                named = arguments.posonlyargs + arguments.args + arguments.kwonlyargs
                named += [a for a in (arguments.vararg, arguments.kwarg) if a is not None]
                lacking = [a.arg for a in named if a.annotation is None and a.arg not in ("self", "cls")]
                lacking += [] if inner.returns is not None else ["what it returns"]
                if lacking:
                    yield f"line {inner.lineno}, {inner.name}: {', '.join(lacking)}"

    return list(walk(tree, False))


def test_every_public_function_has_types(repository):
    paths = [
        path for name in WHERE for path in ([repository / name] if "." in name else (repository / name).rglob("*.py"))
    ]
    assert len(paths) > 100
    found = {path: untyped_functions(ast.parse(path.read_text(encoding="utf-8"))) for path in paths}
    assert not {str(path.relative_to(repository)): lines for path, lines in found.items() if lines}


@pytest.mark.parametrize("text", ["def f(x) -> int: ...", "def f(x: int): ...", "class A:\n    def f(self, *x): ..."])
def test_a_lacking_type_is_found(text):
    assert untyped_functions(ast.parse(text))
