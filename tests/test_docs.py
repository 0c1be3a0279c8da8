"""README and site: built without a warning, links that lead somewhere, options that are all described."""

import re
import subprocess
import sys

import numpy as np
import pytest
import soundfile
from typer.main import get_command

from unified_sess.cli import app
from unified_sess.model_io.model_folder import ONNX, SHIPPED
from unified_sess.model_io.onnx_file import read_onnx
from unified_sess.training.settings import SETTINGS

LINK = re.compile(r"\]\(([^)#\s]+)\)")
OPTION = re.compile(r"`--([a-z-]+)")


@pytest.mark.slow
def test_the_site_is_built_without_a_warning(repository, tmp_path):
    for name in ("sphinx", "furo", "myst_nb"):
        pytest.importorskip(name)
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "docs", str(tmp_path / "site")]
    ended = subprocess.run(command, cwd=repository, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert "GradientModulation" in (tmp_path / "site/api/gradient_modulation.html").read_text(encoding="utf-8")


def test_the_readme_is_read_in_two_minutes(repository):
    lines = (repository / "README.md").read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 130
    assert max(map(len, lines)) <= 160


@pytest.mark.parametrize("file", ["README.md", "CONTRIBUTING.md", "docs/*.md", "recipes/**/*.md"])
def test_links_to_files_lead_somewhere(repository, file):
    pages = sorted(repository.glob(file))
    assert pages
    for page in pages:
        for target in LINK.findall(page.read_text(encoding="utf-8")):
            assert "://" in target or (page.parent / target).exists(), f"{page.name}: {target}"


def test_every_option_of_separate_is_described(repository):
    described = set(OPTION.findall((repository / "docs/separating.md").read_text(encoding="utf-8")))
    parameters = get_command(app).commands["separate"].params
    options = {name[2:] for p in parameters for name in p.opts if name.startswith("--")} - {"help"}
    assert len(options) > 20
    assert options - described == set()


def test_the_example_with_onnxruntime_alone(repository, tmp_path):
    pytest.importorskip("onnxruntime")
    page = (repository / "docs/onnx.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```python\n(.*?)```", page, re.S)
    assert len(example.strip().splitlines()) <= 20
    rate = read_onnx(SHIPPED / ONNX).config.sample_rate
    (tmp_path / "model.onnx").write_bytes((SHIPPED / ONNX).read_bytes())
    soundfile.write(tmp_path / "mixture.wav", 0.1 * np.random.default_rng(0).standard_normal(rate), rate)
    subprocess.run([sys.executable, "-c", example], cwd=tmp_path, check=True)
    first = soundfile.read(tmp_path / "mixture_s1.wav")
    assert len(first[0]) == first[1] == rate and first[0].any()


def test_what_a_run_must_keep_is_said(repository):
    page = (repository / "docs/training.md").read_text(encoding="utf-8")
    (row,) = (line for line in page.splitlines() if line.startswith("| is refused before"))
    fixed = {name for name, setting in SETTINGS.items() if setting.fixed}
    assert set(re.findall(r"`(\w+)`", row)) == fixed
