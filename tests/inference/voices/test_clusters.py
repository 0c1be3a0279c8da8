"""Clusters of directions."""

import numpy as np
import pytest

from unified_sess.inference.voices.clusters import find_voices, pairs_of_voices


def around(directions, count, spread, seed=0):
    """Embeddings of length 1, `[people * count, size]`, around directions."""
    random = np.random.default_rng(seed)
    found = np.repeat(directions, count, axis=0)
    found = found + spread / np.sqrt(found.shape[1]) * random.standard_normal(found.shape)
    return found / np.linalg.norm(found, axis=1, keepdims=True)


@pytest.mark.parametrize("people", [1, 2, 3])
def test_as_many_voices_as_there_are_people(people):
    directions = np.eye(16)[:people]
    voices = find_voices(around(directions, 40, 0.6), np.ones(40 * people), 3, same=0.7)
    assert len(voices) == people
    assert (voices @ directions.T).max(0).min() > 0.95
    np.testing.assert_allclose(np.linalg.norm(voices, axis=1), 1)


def test_a_rare_voice_is_found():
    embeddings = np.concatenate((around(np.eye(16)[:1], 95, 0.5), around(np.eye(16)[1:2], 5, 0.5)))
    voices = find_voices(embeddings, np.ones(100), 2, same=0.7)
    assert (voices @ np.eye(16)[:2].T).max(0).min() > 0.95


def test_what_has_no_weight_does_not_count():
    embeddings = around(np.eye(16)[:2], 40, 0.5)
    assert len(find_voices(embeddings, np.r_[np.ones(40), np.zeros(40)], 2, same=0.7)) == 1
    assert find_voices(embeddings, np.zeros(80), 2, same=0.7).shape == (0, 16)


def test_never_more_voices_than_asked():
    assert len(find_voices(around(np.eye(16)[:5], 20, 0.3), np.ones(100), 2, same=0.7)) == 2


def test_copies_of_one_embedding_are_one_voice():
    assert len(find_voices(np.tile(np.eye(4)[:1], (10, 1)), np.ones(10), 3, same=0.7)) == 1


def test_somebody_who_says_little_is_among_the_pairs_of_voices():
    """Of one person whose voice changes and a rare second one, k-means may find the changes."""
    main, changed, rare = np.eye(16)[0], np.eye(16)[0] + 0.7 * np.eye(16)[1], np.eye(16)[2]
    heard = np.concatenate([around(voice[None], count, 0.4) for voice, count in ((main, 60), (changed, 60), (rare, 5))])
    pairs = pairs_of_voices(heard, np.ones(len(heard)))
    np.testing.assert_allclose(np.linalg.norm(pairs, axis=2), 1)
    assert (pairs @ rare).max() > 0.9
    best = pairs[(pairs @ rare).max(1).argmax()]
    assert (best @ (main + changed) / np.linalg.norm(main + changed)).max() > 0.9


@pytest.mark.parametrize("heard", [np.zeros((3, 4)), np.tile(np.eye(4)[:1], (10, 1)), np.eye(4)[:1]])
def test_what_cannot_be_split_has_no_pairs_or_finite_ones(heard):
    pairs = pairs_of_voices(heard, np.ones(len(heard)))
    assert pairs.shape[1:] == (2, 4) and np.isfinite(pairs).all()
    assert pairs_of_voices(heard, np.zeros(len(heard))).shape == (0, 2, 4)
