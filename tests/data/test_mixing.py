"""Mixing: levels, peaks, noise extension."""

import numpy as np
import pytest
from scipy.signal import resample_poly

from unified_sess.data import mixing


def test_drawn_gains_reach_loudness_in_range():
    random = np.random.default_rng(0)
    signals = [random.standard_normal(32000) * 0.01 for _ in range(3)]
    loudness = [mixing.measure_loudness(s, 16000) for s in signals]
    gains = mixing.draw_gains(random, loudness, [np.abs(s).max() for s in signals])
    reached = [mixing.measure_loudness(g * s, 16000) for g, s in zip(gains, signals)]
    assert all(-33.01 < level < -24.99 for level in reached[:2])
    assert -38.01 < reached[2] < -29.99


def test_a_signal_that_would_clip_is_brought_to_0_9():
    gains = mixing.draw_gains(np.random.default_rng(0), [-60.0], [0.5], noise=None)
    assert gains[0] * 0.5 == pytest.approx(0.9)


def test_silence_gets_no_gain():
    level = mixing.measure_loudness(np.zeros(16000), 16000)
    assert mixing.draw_gains(np.random.default_rng(0), [level], [0.0], noise=None)[0] == 0


def test_peak_weight():
    assert mixing.peak_weight(np.array([0.1, -1.8])) == pytest.approx(0.5)
    assert mixing.peak_weight(np.array([0.1, -0.8])) == 1


@pytest.mark.parametrize("frames", [1, 2, 5, 100, 8000, 8001, 8002, 20000])
def test_extended_noise_has_the_length_and_never_hangs(frames):
    noise = np.ones(frames, "f4")
    extended = mixing.extend_noise(noise, 30000)
    assert extended.shape == (30000,)
    # The two halves of a Hann window add up to one: constant noise stays constant.
    np.testing.assert_allclose(extended, 1, atol=1e-6)


def test_fit_lengths():
    signals = [np.ones(3), np.ones(5)]
    assert [len(s) for s in mixing.fit_lengths(signals, "min")] == [3, 3]
    assert [s.sum() for s in mixing.fit_lengths(signals, "max")] == [3, 5]


@pytest.mark.parametrize("factor", [1, 2, 3])
@pytest.mark.parametrize("frames", [1, 2, 31, 63, 64, 65, 128, 10001])
def test_decimation_is_that_of_scipy(factor, frames):
    signal = np.random.default_rng(frames).standard_normal(frames).astype("f4")
    found, wanted = mixing.decimate(signal, factor), resample_poly(signal, 1, factor)
    assert found.dtype == np.float32 and found.shape == wanted.shape
    np.testing.assert_allclose(found, wanted, atol=2e-6)


def test_snr():
    random = np.random.default_rng(0)
    target, rest = random.standard_normal((2, 100000)).astype("f4")
    assert mixing.snr(target, target + rest) == pytest.approx(0, abs=0.1)
    assert mixing.snr(10 * target, 10 * target + rest) == pytest.approx(20, abs=0.1)
