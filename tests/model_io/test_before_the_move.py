"""Files made before the package had folders go on working: a training of one epoch, and two exported folders.

They were made by the commit before the move, with the corpus of `tests.corpus`; `expected.safetensors` holds what that
commit separated. Their class names are those of before.
"""

import importlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import safetensors.torch
import torch
from speechbrain.inference.interfaces import foreign_class
from speechbrain.inference.separation import SepformerSeparation

from tests.corpus import make_corpus
from tests.model_io.test_model_ways import WITHOUT_PACKAGE
from unified_sess.inference import UnifiedSeparation
from unified_sess.model_io import module_tree
from unified_sess.model_io.export import export
from unified_sess.model_io.model_files import read_config
from unified_sess.moved import MOVED, new_name

BEFORE = Path(__file__).with_name("before_the_move")


@pytest.fixture(scope="module")
def expected():
    return safetensors.torch.load_file(BEFORE / "expected.safetensors")


@pytest.fixture
def before(tmp_path):
    """A copy of the files, in a folder of its own."""
    return shutil.copytree(BEFORE, tmp_path / "before")


def close(actual, wanted):
    torch.testing.assert_close(actual.cpu(), wanted, atol=1e-5, rtol=0)


@pytest.mark.slow
def test_a_training_goes_on(before, repository):
    make_corpus(before / "corpus")
    settings = before / "results/hyperparams.yaml"
    settings.write_text(settings.read_text().replace("limit: 1", "limit: 2"))  # epochs, in a resolved file
    command = [sys.executable, repository / "train.py", "results/hyperparams.yaml"]
    environment = os.environ | {"PYTHONPATH": str(repository), "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, cwd=before, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    log = (before / "results/train_log.txt").read_text()
    assert log.startswith((BEFORE / "results/train_log.txt").read_text()) and "epoch: 2" in log


@pytest.mark.parametrize("source", ["results", "exported", "exported-half-plain"])
def test_from_pretrained(source, expected):
    name = "exported" if source == "results" else source
    model = UnifiedSeparation.from_pretrained(BEFORE / source, device="cpu")
    close(model.separate_batch(expected["mixture"]), expected[f"{name}.sources"])
    close(model.enhance_batch(expected["mixture"]), expected[f"{name}.enhanced"])


def test_a_results_folder_is_exported(before, expected):
    folder = export(before / "results", before / "new")
    close(UnifiedSeparation.from_pretrained(folder).separate_batch(expected["mixture"]), expected["exported.sources"])
    assert "2 mixtures of the test part" in (folder / "README.md").read_text()


def test_the_ways_of_speechbrain(before, expected):
    folder = str(before / "exported")
    models = [
        UnifiedSeparation.from_hparams(folder), SepformerSeparation.from_hparams(source=folder),
        foreign_class(source=folder, pymodule_file="custom.py", classname="CustomInterface"),
    ]  # fmt: skip
    for model in models:
        close(model.separate_batch(expected["mixture"]), expected["exported.sources"])


def test_foreign_class_without_the_package(before, expected):
    torch.save(expected["mixture"], before / "mixture.pt")
    command = [sys.executable, "-c", WITHOUT_PACKAGE, "exported", "mixture.pt", "sources.pt"]
    subprocess.run(command, check=True, cwd=before, env=os.environ | {"CUDA_VISIBLE_DEVICES": ""})
    sources, enhanced = torch.load(before / "sources.pt")
    close(sources, expected["exported.sources"])
    close(enhanced, expected["exported.enhanced"])


@pytest.mark.parametrize("old", MOVED)
def test_an_old_module_is_the_new_one(old):
    assert importlib.import_module(f"unified_sess.{old}") is importlib.import_module(f"unified_sess.{MOVED[old]}")


def test_no_old_name_leads_to_another_old_one():
    assert all(new_name(f"unified_sess.{new}") == f"unified_sess.{new}" for new in MOVED.values())


def test_the_whitelist_knows_old_names_and_writes_new_ones(monkeypatch, tmp_path):
    monkeypatch.setitem(MOVED, "enhancers", "network")
    tree = {"class": "unified_sess.enhancers.NoEnhancer", "args": {}}
    assert type(module_tree.build(tree, "tree")).__name__ == "NoEnhancer"
    text = (BEFORE / "exported/config.json").read_text().replace("unified_sess.nnet.conv_tasnet", "unified_sess.tasnet")
    (tmp_path / "config.json").write_text(text)
    monkeypatch.setitem(MOVED, "tasnet", "nnet.conv_tasnet")
    config = read_config(tmp_path / "config.json")
    assert config.modules["enhancer"]["class"] == "unified_sess.nnet.conv_tasnet.MaskNet"
