"""Noise from code: every kind is finite, audible, drawn anew each time, and what its name says."""

import numpy as np
import pytest

from unified_sess.data.demo import noise
from unified_sess.data.demo.noise import KINDS, draw_noise

RATE = 8000
LENGTH = 3 * RATE


def levels(signal):
    """Level in dB of each 50 ms."""
    return 10 * np.log10(np.square(signal.reshape(-1, RATE // 20)).mean(1) + 1e-12)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("sample_rate", [8000, 16000])
def test_every_kind_is_finite_and_heard_and_differs_from_draw_to_draw(kind, sample_rate):
    random = np.random.default_rng(0)
    first, second = (KINDS[kind](LENGTH, sample_rate, random) for _ in range(2))
    for signal in (first, second):
        assert signal.shape == (LENGTH,) and np.isfinite(signal).all() and signal.std() > 0
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.5


def test_the_same_draw_gives_the_same_noise():
    voices = [np.random.default_rng(k).standard_normal(RATE) for k in range(4)]
    one, again, other = (draw_noise(LENGTH, RATE, np.random.default_rng(seed), voices) for seed in (1, 1, 2))
    assert np.array_equal(one, again) and not np.array_equal(one, other)
    assert np.sqrt(np.mean(one**2)) == pytest.approx(0.1, rel=1e-3)


def test_steady_kinds_are_steadier_than_those_that_strike():
    def spread(kind):
        drawn = [levels(KINDS[kind](LENGTH, RATE, np.random.default_rng(seed))) for seed in range(8)]
        return np.median([np.quantile(x, 0.9) - np.quantile(x, 0.1) for x in drawn])

    assert max(spread("hiss"), spread("machine")) < min(spread("clatter"), spread("steps"), spread("music"))


def test_babble_holds_several_of_the_voices_and_nothing_else():
    """Each voice is a tone, so who babbles can be read from the spectrum."""
    time = np.arange(LENGTH) / RATE
    voices = [np.sin(2 * np.pi * 100 * (k + 1) * time) for k in range(10)]
    for seed in range(5):
        talk = noise.babble(LENGTH, np.random.default_rng(seed), voices)
        spectrum = np.abs(np.fft.rfft(talk)) ** 2
        heard = [k for k in range(10) if spectrum[300 * (k + 1)] > 1e-3 * spectrum.max()]
        low, high = noise.BABBLERS
        assert low <= len(heard) <= high
        assert sum(spectrum[300 * (k + 1)] for k in heard) == pytest.approx(spectrum.sum(), rel=1e-6)
