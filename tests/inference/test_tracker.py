"""Speakers stay on their tracks: true sources in random order, over long pauses, with leaks between them."""

import numpy as np
import pytest
import torch
import torchaudio
from scipy.optimize import linear_sum_assignment

from tests.inference.conversation import RATE, conversation, leaky, recorded_pairs, synthetic_pair, windows_right
from unified_sess.inference import UnifiedSeparation, tracker
from unified_sess.inference.cepstrum import Cepstrum
from unified_sess.inference.tracker import SpeakerTracker, best_order


def silent_for(sources):
    """Longest silence of each speaker in s."""
    for source in sources.T:
        loud = np.flatnonzero(np.append(source, 1.0))
        yield np.diff(loud, prepend=0).max() / RATE


@pytest.mark.parametrize("seed", range(3))
def test_five_minutes_of_synthetic_voices(seed):
    sources = conversation(synthetic_pair(seed), seed=seed)
    assert min(silent_for(sources)) > 16  # longer than a window
    assert windows_right(sources, seed=seed) >= 0.95


def test_five_minutes_of_real_speech(corpora):
    shares = [
        windows_right(conversation(pair, seed=seed), seed=seed) for seed, pair in enumerate(recorded_pairs(corpora, 6))
    ]
    assert min(shares) >= 0.95, shares


@pytest.mark.slow
def test_five_minutes_through_a_trained_network(trained_model):
    model = UnifiedSeparation.from_pretrained(trained_model, device="cpu")

    def separate(window):
        return model.separate_batch(torch.from_numpy(window.sum(1)[None]))[0].numpy()

    assert windows_right(conversation(synthetic_pair(3), seed=3), separate=separate) >= 0.95


def test_without_the_memory_the_conversations_are_not_tracked(monkeypatch):
    """The tests above ask for more than the overlap can tell."""
    monkeypatch.setattr(tracker, "MEMORY_WEIGHT", 0)
    shares = [windows_right(conversation(synthetic_pair(seed), seed=seed), seed=seed) for seed in range(3)]
    assert min(shares) < 0.9


def test_three_speakers():
    generator = np.random.default_rng(0)
    sources = np.concatenate([conversation(synthetic_pair(1)), conversation(synthetic_pair(2), seed=5)[:, :1]], 1)
    sources[:, 2] += 0.05 * np.convolve(generator.standard_normal(len(sources)), [1, -0.9], "same")  # a hoarse one
    assert windows_right(sources) >= 0.95


@pytest.mark.parametrize("leak", [0.3, 0.6])
def test_sources_that_hold_much_of_each_other(corpora, leak):
    for seed, pair in enumerate(recorded_pairs(corpora, 4, seed=1)):
        assert windows_right(conversation(pair, seed=seed), seed=seed, separate=leaky(leak, 0.2)) >= 0.95


@pytest.mark.parametrize("gain", [1e-4, 1.0, 1e3])
def test_loudness_does_not_matter(gain):
    assert windows_right(np.float32(gain) * conversation(synthetic_pair(0), 100)) >= 0.95


@pytest.mark.parametrize("speakers", [1, 2, 3])
def test_silence_noise_and_short_windows_have_an_order(speakers):
    follower = SpeakerTracker(speakers, RATE)
    generator = np.random.default_rng(0)
    for length, overlap, gain in (
        (16000, 0, 0),
        (16000, 4000, 0),
        (1, 0, 1),
        (100, 1, 1),
        (16000, 100, 1),
        (50, 50, 0),
    ):
        window = (gain * generator.standard_normal((speakers, length))).astype("f4")
        assert sorted(follower.follow(window, overlap)) == list(range(speakers))


@pytest.mark.parametrize("rate", [2000, 8000, 16000, 44100])
def test_cepstra_are_those_of_torchaudio(rate):
    frame = max(int(tracker.FRAME * rate), 64)
    options = {"n_fft": frame, "hop_length": frame // 2, "n_mels": 32, "center": False}
    signals = np.random.default_rng(0).standard_normal((3, rate)).astype("f4") * np.float32([[1], [1e-3], [0]])
    expected = torchaudio.transforms.MFCC(rate, n_mfcc=20, melkwargs=options)(torch.from_numpy(signals))
    np.testing.assert_allclose(Cepstrum(rate, frame, 20)(signals), expected.transpose(1, 2), atol=1e-3)


@pytest.mark.parametrize("count", range(1, 9))
def test_orders_are_those_of_scipy(count):
    generator = np.random.default_rng(count)
    for match in (*generator.standard_normal((50, count, count)), *generator.integers(-2, 3, (50, count, count))):
        order, expected = best_order(match), linear_sum_assignment(-match)[1]
        assert sorted(order) == list(range(count))
        tracks = np.arange(count)
        assert match[tracks, order].sum() == pytest.approx(match[tracks, expected].sum())
    assert best_order(np.zeros((count, count))) == list(range(count))  # of silence, too
