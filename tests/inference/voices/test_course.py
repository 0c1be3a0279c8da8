"""Which voice is on which track, moment by moment."""

import numpy as np

from tests.inference.voices.test_turns import LEAK, LOUD, evidence
from unified_sess.inference.voices.course import OTHER_TRACKS_WAYS, OTHER_VOICES_WAYS, in_context, log_likelihoods
from unified_sess.inference.voices.turns import first_fit

MOMENTS = [[(0, LOUD), (1, LOUD)], [(0, LOUD), (1, LEAK)], [(1, LOUD), (0, LOUD)], [(0, LEAK), (1, LOUD)]]


def test_the_order_of_tracks_and_of_voices_means_nothing():
    recording = evidence(MOMENTS)
    fit = first_fit(recording)
    found = log_likelihoods(recording, fit)
    np.testing.assert_allclose(np.exp(found).sum(1), 1, atol=1e-5)
    np.testing.assert_allclose(log_likelihoods(recording, fit[..., ::-1]), found[:, OTHER_VOICES_WAYS], atol=1e-4)
    turned = recording._replace(embeddings=recording.embeddings[[1, 0, 2]], powers=recording.powers[[1, 0, 2]])
    np.testing.assert_allclose(log_likelihoods(turned, fit[[1, 0, 2]]), found[:, OTHER_TRACKS_WAYS], atol=1e-4)


def test_loudness_means_nothing():
    recording = evidence(MOMENTS)
    fit = first_fit(recording)
    louder = recording._replace(powers=100 * recording.powers)
    np.testing.assert_allclose(log_likelihoods(louder, fit), log_likelihoods(recording, fit), atol=1e-3)


def test_a_moment_is_heard_with_what_lies_around_it():
    found = in_context(np.arange(20.0)[:, None])[..., 0]
    assert found[10].tolist() == [2, 5, 7, 8, 9, 10, 11, 12, 13, 15, 18]
    assert found[0].tolist() == [0, 0, 0, 0, 0, 0, 1, 2, 3, 5, 8]
