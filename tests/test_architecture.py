"""Arrows between the folders run one way, so that each part can be read, used and tested without those above it."""

import ast
import sys

import pytest

# A part may import itself and the parts named here; `moved`, the table of old names, stands beside all of them.
BELOW = {
    "utils": set(),
    "gradient_modulation": {"utils"},
    "network": {"utils"},
    "losses": {"utils"},
    "nnet": {"utils"},
    "data": {"utils"},
    "model_io": {"utils", "network", "nnet", "moved"},
    "training": {"utils", "gradient_modulation", "network", "losses", "nnet", "data", "model_io", "moved"},
    "inference": {"utils", "network", "model_io"},
    "evaluation": {"utils", "network", "losses", "data", "model_io", "inference"},
    "app": {"utils", "network", "model_io", "inference"},
    "cli": {"utils", "network", "data", "model_io", "training", "inference", "evaluation", "app"},
    "moved": set(),
    "__init__": {"moved"},
}


def imports_of(path):
    """Modules of this package that a file imports, those inside functions too."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.startswith("unified_sess"))
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("unified_sess"):
            if node.module == "unified_sess":
                yield from (f"unified_sess.{alias.name}" for alias in node.names if alias.name != "__version__")
            else:
                yield node.module


def part_of(path, package):
    return path.relative_to(package).parts[0].removesuffix(".py")


@pytest.fixture
def package(repository):
    return repository / "unified_sess"


def test_every_part_has_its_place(package):
    parts = {part_of(path, package) for path in package.rglob("*.py")}
    assert parts == set(BELOW)


@pytest.mark.parametrize("part", BELOW)
def test_arrows_run_one_way(part, package):
    wrong = []
    for path in package.rglob("*.py"):
        if part_of(path, package) == part:
            targets = {name.split(".")[1] for name in imports_of(path) if "." in name}
            wrong += [f"{path.relative_to(package)} imports {target}" for target in targets - BELOW[part] - {part}]
    assert not wrong


def test_gradient_modulation_needs_torch_alone(package):
    allowed = sys.stdlib_module_names | {"torch", "unified_sess"}
    for path in (package / "gradient_modulation").glob("*.py"):
        if path.name == "torchjd_rule.py":
            continue  # imports TorchJD where its rule is asked for
        tree = ast.parse(path.read_text(encoding="utf-8"))
        names = {a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
        names |= {n.module for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}
        assert {name.split(".")[0] for name in names} <= allowed, path
