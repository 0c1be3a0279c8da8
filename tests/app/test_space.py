"""The folder that makes the page a Hugging Face Space."""

import ast

import pytest
import yaml

tomllib = pytest.importorskip("tomllib", reason="needs Python 3.11")


def test_what_it_installs_is_what_the_package_asks_for(repository):
    project = tomllib.loads((repository / "pyproject.toml").read_text())["project"]
    asked = {
        *project["dependencies"],
        *project["optional-dependencies"]["app"],
        *project["optional-dependencies"]["media"],
    }
    lines = (repository / "spaces" / "requirements.txt").read_text().splitlines()
    assert lines and set(lines) <= asked
    header = yaml.safe_load((repository / "spaces" / "README.md").read_text().split("---")[1])
    assert (header["sdk"], header["app_file"]) == ("gradio", "app.py")
    ast.parse((repository / "spaces" / "app.py").read_text())
