"""Windows of a stream: nothing lost at any length, bounded memory, batches, and as good as the whole."""

import tracemalloc
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from tests.inference.conversation import conversation, synthetic_pair
from tests.inference.training import mixture
from unified_sess.inference import UnifiedSeparation, Windows
from unified_sess.inference.windows import separate_stream
from unified_sess.losses import pit_si_snr
from unified_sess.utils.errors import UserError

RATE = 8000


def shuffling_network(sources, seen=None, seed=0):
    """A stand-in for a model that knows the sources: its mixture is the time index, its order of sources is random."""
    generator = np.random.default_rng(seed)

    def run(mix, enhanced):
        if seen is not None:
            seen.append(tuple(mix.shape))
        starts = mix[:, 0].astype(int).tolist()
        windows = [sources[start : start + mix.shape[1]] for start in starts]
        windows = [window[:, generator.permutation(sources.shape[1])] for window in windows]
        if enhanced:
            windows = [np.concatenate((window, window.sum(1, keepdims=True)), 1) for window in windows]
        return np.stack(windows)

    return SimpleNamespace(separate_windows=run, num_spks=sources.shape[1], sample_rate=RATE)


def times(length, block=80000):
    """The time index in blocks; float32 holds it exactly up to 2**24."""
    return (np.arange(start, min(start + block, length), dtype=np.float32) for start in range(0, length, block))


def test_five_minutes_come_out_as_they_went_in():
    sources = conversation(synthetic_pair(0))
    found = np.concatenate(list(separate_stream(shuffling_network(sources), times(len(sources)), enhanced=True)))
    order = [int(np.argmax(source @ found[:, :2])) for source in sources.T]
    np.testing.assert_allclose(found[:, order], sources, atol=1e-6)
    np.testing.assert_allclose(found[:, 2], sources.sum(1), atol=1e-6)


@pytest.mark.parametrize("length", [1, 2, 3999, 4000, 4001, 6999, 7000, 7001, 9999, 10000, 10001, 25000])
def test_no_sample_is_lost(length):
    sources = np.random.default_rng(0).standard_normal((length, 2)).astype("f4")
    windows = Windows(0.5, 0.125, 2)
    for block in (1000, 4000, 7777, 80000):
        pieces = separate_stream(shuffling_network(sources), times(length, block), windows)
        found = np.concatenate(list(pieces))
        assert found.shape == sources.shape
        assert min(abs(found[:, order] - sources).max() for order in ([0, 1], [1, 0])) < 1e-6


def test_nothing_gives_nothing():
    assert not list(separate_stream(shuffling_network(np.zeros((0, 2), "f4")), iter(())))


def test_windows_go_through_the_network_in_batches():
    sources, seen = np.random.default_rng(0).standard_normal((80000, 2)).astype("f4"), []
    list(separate_stream(shuffling_network(sources, seen), times(80000), Windows(1.0, 0.5, 4)))
    assert seen == [(4, 8000)] * 4 + [(3, 8000)]
    short = []
    list(separate_stream(shuffling_network(sources, short), times(7000), Windows(1.0, 0.5, 4)))
    assert short == [(1, 7000)]


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (16, [16]),
        (20, [20]),
        (21, [12.5, 12.5]),
        (30, [16, 18]),
        (32, [16, 20]),
        (33, [16, 12.5, 12.5]),
        (40, [16, 16, 16]),
    ],
)
def test_no_second_is_separated_more_often_than_it_must_be(seconds, expected):
    """The last window of 30 s used to be a whole one that began 2 s behind the one before."""
    seen = []
    sources = np.random.default_rng(0).standard_normal((seconds * RATE, 2)).astype("f4")
    list(separate_stream(shuffling_network(sources, seen), times(len(sources)), Windows(16.0, 4.0, 1)))
    assert [length / RATE for _, length in seen] == expected


def test_fixed_order_trusts_the_network():
    sources = np.random.default_rng(0).standard_normal((24000, 2)).astype("f4")
    model = shuffling_network(sources)
    model.separate_windows = lambda mix, enhanced: np.stack([sources[int(m[0]) :][: len(m)] for m in mix])
    found = list(separate_stream(model, times(24000), Windows(1.0, 0.25), fixed_order=True))
    np.testing.assert_allclose(np.concatenate(found), sources, atol=1e-6)


def test_memory_does_not_grow_with_the_recording():
    def peak(seconds):
        tracemalloc.start()
        zeros = np.zeros((80000, 2), np.float32)
        model = SimpleNamespace(
            separate_windows=lambda mix, _: np.zeros((*mix.shape, 2), "f4"), num_spks=2, sample_rate=RATE
        )
        blocks = (zeros[:, 0] for _ in range(seconds // 10))
        assert sum(len(piece) for piece in separate_stream(model, blocks, Windows(2.0, 0.5))) == seconds * RATE
        high = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return high

    peak(10)  # what is imported or cached once
    assert peak(600) < 1.2 * peak(30)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_windows_are_as_good_as_the_whole(trained_model, seed):
    model = UnifiedSeparation.from_pretrained(trained_model, device="cpu")
    mix, sources = mixture(np.random.default_rng(seed), 12.0)

    def ratio(windows):
        found = np.concatenate(list(separate_stream(model, [mix], windows)))
        return -pit_si_snr(torch.from_numpy(found)[None], torch.from_numpy(sources)[None])[0].item()

    whole = ratio(Windows())
    assert whole > 10
    assert abs(ratio(Windows(4.0, 1.0)) - whole) < 0.2


@pytest.mark.parametrize(
    "windows", [(0.4, 0.1, 4), (4000, 4, 4), (16, 9, 4), (16, 0, 4), (16, 4, 0), (float("nan"), 4, 4)]
)
def test_windows_that_cannot_work(windows):
    with pytest.raises(UserError):
        Windows(*windows).samples(RATE)
