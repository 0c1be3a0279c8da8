"""The recipe of the network that tells voices apart."""

import runpy
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from tests.data.folders import make_folders
from unified_sess.inference.voices.network import StretchNetwork

PEOPLE = 96


@pytest.fixture(scope="module")
def scripts(repository):
    """The recipe and what makes its pieces."""
    folder = repository / "recipes" / "Recordings"
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        names = ("train_voices", "voice_pieces")
        yield [SimpleNamespace(**runpy.run_path(str(folder / f"{name}.py"))) for name in names]
        for name in ("voice_pieces", "voice_teacher"):
            sys.modules.pop(name, None)


@pytest.fixture(scope="module")
def recipe(scripts):
    return scripts[0]


@pytest.fixture(scope="module")
def pieces(scripts):
    return scripts[1]


def tones(seconds, people=PEOPLE, rate=8000):
    """A tone of its own for every person, `[people, time]`."""
    time = np.arange(round(seconds * rate)) / rate
    return np.sin(2 * np.pi * np.geomspace(150, 3500, people)[:, None] * time)


@pytest.fixture(scope="module")
def pool(recipe, pieces):
    """One scene and one track for every person, in noise; nobody speaks at the end of the tracks."""
    signals = tones(pieces.SECONDS)
    noise = np.random.default_rng(0).standard_normal((2, *signals.shape)) * 0.1
    alone = pieces._piece(signals + noise[0], np.arange(PEOPLE)[:, None])
    track = pieces._piece(signals + noise[1], np.arange(PEOPLE)[:, None])
    track.speakers[:, 12:] = pieces.NOBODY
    kinds = [alone, track]
    return recipe.Pool(kinds, [recipe.stretches(kind.speakers, PEOPLE) for kind in kinds])


def test_a_draw_has_each_person_once_at_one_level(recipe, pool):
    decibels, people, kinds = recipe.draw(pool, np.random.default_rng(0))
    assert len(np.unique(people)) == recipe.BATCH and set(kinds) == {0, 1}
    assert recipe.STRETCH[0] <= decibels.shape[1] <= recipe.STRETCH[1]
    levels = 10 * np.log10((10 ** (decibels / 10)).sum(2).mean(1))
    assert -0.1 < levels.min() and levels.max() < 1  # of the voice, and a leak of at most -8 dB


def test_stretches_are_where_a_person_speaks(recipe, pieces):
    nobody = pieces.NOBODY
    speakers = np.array([[0] * 4 + [1] * 6, [nobody] * 10, [0, nobody, 1, nobody, 1, 0, 0, nobody, 1, 1]])
    first, second = recipe.stretches(speakers, 2)
    assert first.tolist() == [[0, 0]]  # four of five units are the first one's
    assert second.tolist() == [[0, 3], [0, 4], [0, 5]]


def test_distortion_keeps_the_shape_and_takes_nothing_wholly(recipe):
    kind = np.arange(50) % 2
    found = recipe.distorted(np.zeros((50, 80, 32)), kind, np.random.default_rng(0)) - recipe.LEVEL
    assert found.shape == (50, 80, 32)
    assert -20 - 9 + recipe.GAIN[0] <= found.min() and found.max() <= 9 + recipe.GAIN[1]
    assert len(np.unique(found.mean((1, 2)))) == 50
    rough = found.std(1).mean(1) > 0.5  # what is masked changes with time
    assert rough[kind == 0].mean() > rough[kind == 1].mean()


@pytest.mark.parametrize(("other", "expected"), [(0.2, 5), (0.9, -1), (5.0, 7)])
def test_units_are_of_who_is_loud_in_them(pieces, other, expected):
    said = tones(6.0, 2)
    tracks = np.stack((said[0] + other * said[1], said[1]))
    found = pieces.whose(tracks, said, np.array([5, 7]))
    assert (found[0] == expected).all() and (found[1] == 7).all()


def test_units_of_a_person_alone_are_his(pieces):
    said = tones(6.0, 1)
    said[:, 24000:] = 0
    found = pieces.whose(np.concatenate((said, 0.1 * said)), said, np.array([3]))
    assert (found[:, :11] == 3).all() and (found[:, 12:] == pieces.NOBODY).all()


def test_pieces_of_a_model_are_its_tracks(pieces):
    """A model that gives each of two people a track, and one person's voice on both."""
    said = tones(6.0, 2, rate=16000).T

    class Model:
        num_spks, sample_rate = 2, 16000

        def separate_batch(self, mixtures):
            alone, both = torch.from_numpy(np.stack((said[:, [0, 0]], said))).float()
            return torch.stack([both if (mixture - both.sum(1)).abs().max() < 1e-3 else alone for mixture in mixtures])

    class Dataset:
        def scene(self, key):
            images = said if key[1] else said * [1, 0]
            return SimpleNamespace(mixture=images.sum(1), images=images, names=["a", "b"][: key[1] + 1])

    found = pieces.separated_pieces(Dataset(), lambda scene: [4, 6][: len(scene.names)], 2, Model())
    assert found.decibels.shape[0] == 4 and found.speakers.shape == (4, 23)
    assert [sorted(set(row.tolist())) for row in found.speakers] == [[4], [4], [4], [6]]


@pytest.mark.slow
def test_it_learns_to_tell_tones_apart(recipe, pieces, pool):
    torch.manual_seed(0)
    network = recipe.train(pool, steps=60)
    listener = pieces.VoiceEncoder(pieces.RATE)
    listener.network = StretchNetwork(network.arrays())
    signals = 0.03 * tones(6.0)[::8].astype(np.float32)
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
