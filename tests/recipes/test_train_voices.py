"""The recipe of the network that tells voices apart."""

import runpy
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from tests.data.folders import make_folders

PEOPLE = 96


@pytest.fixture(scope="module")
def recipe(repository):
    folder = repository / "recipes" / "Recordings"
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        return SimpleNamespace(**runpy.run_path(str(folder / "train_voices.py")))


@pytest.fixture(scope="module")
def pool(recipe):
    """A tone of its own for every person, two scenes each."""
    time = np.arange(round(recipe.SECONDS * recipe.RATE)) / recipe.RATE
    pitch = np.geomspace(150, 3500, PEOPLE)
    tones = 3000 * np.sin(2 * np.pi * pitch[:, None] * time)
    noise = np.random.default_rng(0).standard_normal((2, PEOPLE, len(time))) * 300
    return recipe.Pool((tones + noise).reshape(-1, len(time)).astype(np.int16), np.tile(np.arange(PEOPLE), 2), PEOPLE)


def test_a_draw_has_each_person_once_at_one_level(recipe, pool):
    signals, voices = recipe.draw(pool, np.random.default_rng(0))
    assert len(np.unique(voices)) == recipe.BATCH
    assert recipe.STRETCH[0] * recipe.RATE <= signals.shape[1] <= recipe.STRETCH[1] * recipe.RATE
    levels = 20 * np.log10(np.sqrt(np.square(signals).mean(1)) / recipe.RMS)
    assert -0.1 < levels.min() and levels.max() < 1  # of the voice, and a leak of at most -8 dB


def test_distortion_keeps_the_shape_and_takes_nothing_wholly(recipe):
    power = np.ones((50, 80, 32))
    found = 10 * np.log10(recipe.distorted(power, np.random.default_rng(0)))
    assert found.shape == power.shape
    assert -20 - 9 + recipe.GAIN[0] <= found.min() and found.max() <= 9 + recipe.GAIN[1]
    assert len(np.unique(found.mean((1, 2)))) == 50


@pytest.mark.slow
def test_it_learns_to_tell_tones_apart(recipe, pool):
    torch.manual_seed(0)
    network = recipe.train(pool, steps=60)
    listener = recipe.Listener(recipe.RATE)
    listener.weights = {name: value.astype(np.float32) for name, value in network.arrays().items()}
    signals = pool.audio[::8].astype(np.float32) / 1e5
    found = listener(signals)[:, 3:20]  # [people, units, size]
    own = (found[:, :8].mean(1) * found[:, 9:].mean(1)).sum(1)
    others = (found[:, :8].mean(1) @ found[:, 9:].mean(1).T)[~np.eye(len(found), dtype=bool)]
    assert own.mean() > others.mean() + 0.3


@pytest.mark.slow
def test_too_few_people_are_one_line(repository, tmp_path, monkeypatch, capsys):
    speech, noise = make_folders(tmp_path / "train", speakers=3, utterances=1, seconds=8, noises=1)
    script = repository / "recipes" / "Recordings" / "train_voices.py"
    arguments = ["--speech", speech, "--noise", noise / "tr", "--cache", tmp_path / "cache", "--scenes", "50"]
    monkeypatch.syspath_prepend(str(script.parent))
    monkeypatch.setattr(sys, "argv", [str(script), *map(str, arguments), "--output", str(tmp_path / "voices.npz")])
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(str(script), run_name="__main__")
    assert stop.value.code != 0
    assert "people are too few" in capsys.readouterr().err
    assert not (tmp_path / "voices.npz").exists()
