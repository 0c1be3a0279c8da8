"""Of many pairs of voices the one that explains a recording is found, and taken nearer to the truth."""

import numpy as np
import pytest

from tests.inference.voices.test_turns import LEAK, LOUD, PEOPLE, evidence
from unified_sess.inference.voices.pairs import best_pair
from unified_sess.inference.voices.speech import speech_in, worth_hearing

TURNS = 3 * [[(0, LOUD), (1, LEAK)], [(0, LEAK), (1, LOUD)]] + [[(1, LOUD), (0, LEAK)], [(0, LOUD), (0, LOUD)]]


def best(recording, pairs):
    counts = speech_in(recording.powers)
    return best_pair(recording, counts, worth_hearing(counts), np.array(pairs))


def unit(*direction):
    return np.array(direction) / np.linalg.norm(direction)


def likeness(pair):
    """Cosines of a pair with the two people, in their better order."""
    return max((pair @ PEOPLE[:2].T)[order].min() for order in ((np.arange(2), np.arange(2)), (np.arange(2), [1, 0])))


@pytest.mark.parametrize("seed", range(3))
def test_a_pair_that_is_near_the_voices_comes_nearer(seed):
    recording = evidence(TURNS, seed)
    near = np.stack((unit(1.0, 0.7, 0.6), unit(0.5, 1.0, -0.8))) @ PEOPLE
    assert likeness(near) < 0.75
    assert likeness(best(recording, [near])) > 0.95


def test_the_voices_are_found_among_others():
    recording = evidence(TURNS)
    wrong = np.stack((PEOPLE[2], unit(1.0, 1.0, 0.0) @ PEOPLE))
    assert likeness(best(recording, [wrong, PEOPLE[:2], wrong[::-1]])) > 0.9
