"""The recipe of the network that tells which voice is on which track."""

import runpy
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from tests.inference.stub import GainModel
from unified_sess.inference.voices import course
from unified_sess.utils.errors import UserError

UNIT = 64  # samples


@pytest.fixture(scope="module")
def recipe(repository):
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(repository / "recipes" / "Recordings"))
        return load(repository)


def load(repository):
    return SimpleNamespace(**runpy.run_path(str(repository / "recipes" / "Recordings" / "train_course.py")))


def moments(recipe, count=4000):
    """Units in which what fits the first voice better is hers, with noise on all features."""
    random = np.random.default_rng(0)
    ways = random.integers(4, size=count)
    features = 0.3 * random.standard_normal((count, len(course.AROUND), course.FEATURES)).astype(np.float32)
    features[..., 7:9] += (0.5 - course.WAYS[ways])[:, None]
    return recipe.Moments(features, ways, np.ones(count, np.float32))


def test_the_right_ways(recipe):
    random = np.random.default_rng(0)
    first, second = random.standard_normal((2, 50, UNIT))
    first[20:30] = second[:10] = second[30:40] = 0  # alone: the second from 20 to 30, the first to 10 and from 30 to 40
    sources = np.stack((first, second), axis=2)
    parts = sources.copy()
    parts[:10] = 0.5 * first[:10, :, None]  # one person torn in two
    parts[30:40, :, 0] = 0  # on the wrong track
    parts[30:40, :, 1] = first[30:40]
    parts[40:] = sources[40:, :, ::-1]  # crossed
    speaks = np.stack((np.arange(50) // 10 != 2, ~np.isin(np.arange(50) // 10, (0, 3))), axis=1)
    errors, energy = recipe.way_errors(parts, sources), np.square(sources).sum((1, 2))
    ways, weights = recipe.right_ways(errors, energy, speaks)
    inside = np.arange(50).reshape(5, 10)[:, 2:-2]
    assert [set(ways[part].tolist()) for part in inside] == [{0}, {1}, {3}, {0}, {2}]
    assert (weights[inside] > 0.5).all()


def test_what_makes_no_difference_has_no_weight(recipe):
    sources = np.random.default_rng(0).standard_normal((10, UNIT, 2))
    energy = np.square(sources).sum((1, 2))
    for parts, speaks in ((np.zeros_like(sources), np.ones((10, 2), bool)), (sources, np.zeros((10, 2), bool))):
        _, weights = recipe.right_ways(recipe.way_errors(parts, sources), energy, speaks)
        assert not weights.any()


def test_people_are_brought_into_the_order_of_the_voices(recipe):
    ways, weights = np.array([0, 3, 1, 2, 0]), np.ones(5)
    fit = np.zeros((3, 5, 2))
    fit[:2, :, 0] = np.where(course.WAYS[ways] == 0, 0.5, -0.5).T  # the first voice is the first person
    assert (recipe.in_order_of_voices(ways, weights, fit) == ways).all()
    assert recipe.in_order_of_voices(ways, weights, -fit).tolist() == [3, 0, 2, 1, 3]


def test_it_learns_whose_tracks_are_and_the_package_says_the_same(recipe, tmp_path, monkeypatch):
    pool = moments(recipe)
    network = recipe.train(pool, steps=300)
    with torch.no_grad():
        scores = network(torch.from_numpy(pool.features)).numpy()
    assert (scores.argmax(1) == pool.ways).mean() > 0.95
    monkeypatch.setattr(course, "_weights", lambda: {k: v.astype(np.float32) for k, v in network.arrays().items()})
    alone = pool.features[:, course.AROUND.index(0)]
    with torch.no_grad():
        expected = network(torch.from_numpy(course.in_context(alone))).numpy()
    np.testing.assert_allclose(course._said(alone), expected, atol=0.02)


def test_scenes_that_teach_nothing_are_refused(recipe, monkeypatch):
    silent = SimpleNamespace(scene=lambda which: SimpleNamespace(mixture=np.zeros(16000)))
    nothing = recipe.Moments(*(part[:0] for part in moments(recipe, 4)))
    monkeypatch.setitem(recipe.make_moments.__globals__, "dataset", lambda *_: silent)
    monkeypatch.setitem(recipe.make_moments.__globals__, "hear", lambda *_: None)
    monkeypatch.setitem(recipe.make_moments.__globals__, "moments_of", lambda *_: [nothing])
    with pytest.raises(UserError, match="no scene holds two voices"):
        recipe.make_moments(SimpleNamespace(scenes=1), GainModel(0.6, 0.4))
