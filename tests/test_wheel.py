"""The wheel: every file that the package reads is in it, and nothing that does not belong there."""

import shutil
import subprocess
import sys
import zipfile

import pytest


@pytest.fixture(scope="module")
def files_of_wheel(repository, tmp_path_factory):
    source = tmp_path_factory.mktemp("source")  # a build leaves folders behind, so not in the checkout
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE", "NOTICE"):
        shutil.copy(repository / name, source)
    shutil.copytree(repository / "unified_sess", source / "unified_sess", ignore=shutil.ignore_patterns("__pycache__"))
    build = "from setuptools.build_meta import build_wheel; print(build_wheel('.'))"
    ended = subprocess.run([sys.executable, "-c", build], cwd=source, check=True, capture_output=True, text=True)
    with zipfile.ZipFile(source / ended.stdout.splitlines()[-1]) as wheel:
        return set(wheel.namelist())


def test_every_file_of_the_package_is_in_the_wheel(repository, files_of_wheel):
    package = repository / "unified_sess"
    files = [path for path in package.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    assert {str(path.relative_to(repository)) for path in files} - files_of_wheel == set()


def test_nothing_else_is_in_the_wheel(files_of_wheel):
    assert {name.split("/")[0] for name in files_of_wheel if ".dist-info/" not in name} == {"unified_sess"}
    assert any(name.endswith("licenses/NOTICE") for name in files_of_wheel)
