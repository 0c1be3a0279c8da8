"""The recipe of the network that tells one person from two."""

import runpy
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from unified_sess.utils.errors import UserError

PIECES = 40


@pytest.fixture(scope="module")
def recipe(repository):
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(repository / "recipes" / "Recordings"))
        return load(repository)


def load(repository):
    return SimpleNamespace(**runpy.run_path(str(repository / "recipes" / "Recordings" / "train_counter.py")))


@pytest.fixture(scope="module")
def pieces(recipe):
    """Of every second piece both tracks have one noise: one person; of the others each has its own: two."""
    random = np.random.default_rng(0)
    noise = 20 * random.standard_normal((PIECES, 2, 368, 32))
    noise[::2, 1] = noise[::2, 0] - 6
    both = 10 * np.log10((10 ** (noise / 10)).sum(1, keepdims=True))
    levels = np.zeros((PIECES, 2, 23))
    levels[::2, 1] = -120
    return recipe.Pieces(np.concatenate((noise, both), axis=1).astype(np.float16), levels.astype(np.float16))


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ([0] * 8, [-120] * 8, 1),
        ([0] * 8, [0, -10] + [-120] * 6, 2),
        ([0] * 8, [-10] + [-120] * 7, None),  # a quarter of a second of somebody
        ([0] * 8, [-28] * 8, None),  # too quiet to be sure
        ([0, 0] + [-120] * 6, [-120] * 8, None),  # too little of anybody
    ],
)
def test_people_are_counted_where_it_is_certain(recipe, first, second, expected):
    assert recipe.people(np.array([first, second], float)) == expected


def test_a_draw_is_half_one_person_and_half_two(recipe, pieces):
    spectrum, two = recipe.draw(pieces, np.random.default_rng(0))
    assert spectrum.shape[0] == recipe.BATCH and spectrum.shape[2] == 96 and spectrum.shape[1] % 16 == 0
    assert two.mean() == 0.5 and spectrum.dtype == np.float32
    apart = spectrum[..., 64:].std((1, 2))  # how much the levels of the tracks differ from band to band
    assert apart[two == 0].max() < apart[two == 1].min()


def test_it_learns_what_tells_one_from_two(recipe, pieces):
    network = recipe.train(pieces, steps=25)
    spectrum, two = recipe.draw(pieces, np.random.default_rng(7))
    with torch.no_grad():
        logits = network(torch.from_numpy(spectrum).transpose(1, 2))[:, 0].numpy()
    assert logits[two == 1].mean() > logits[two == 0].mean() + 2


@pytest.mark.parametrize("first", [0, 1])
def test_pieces_of_one_kind_alone_are_refused(recipe, pieces, first):
    """A draw would look for the other kind for ever."""
    with pytest.raises(UserError, match=f"holds {2 - first} of two"):
        recipe.train(recipe.Pieces(*(part[first::2] for part in pieces)), steps=25)
