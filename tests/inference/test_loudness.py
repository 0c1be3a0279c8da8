"""Loudness of a stream against pyloudnorm's of the whole."""

import numpy as np
import pyloudnorm
import pytest

from unified_sess.inference.loudness import Loudness


@pytest.mark.parametrize("rate", [8000, 16000, 44100, 48000])
@pytest.mark.parametrize("seconds", [0.4, 1.23, 7.0])
def test_a_stream_has_the_loudness_of_the_whole(rate, seconds):
    generator = np.random.default_rng(0)
    signal = 0.1 * generator.standard_normal((int(seconds * rate), 2)) * [1, 0.1]
    signal[int(0.5 * rate) : int(0.9 * rate)] *= 1e-3  # gated
    meter = Loudness(rate)
    for block in np.array_split(signal, 7):
        meter.add(block)
    expected = [pyloudnorm.Meter(rate).integrated_loudness(track.copy()) for track in signal.T]
    np.testing.assert_allclose(meter.lufs(), expected, atol=0.02)


def test_silence_and_what_is_too_short_have_none():
    for signal in (np.zeros((8000, 2)), np.ones((100, 2))):
        meter = Loudness(8000)
        meter.add(signal)
        assert (meter.lufs() == -np.inf).all()


def test_recordings_of_low_rates_have_a_loudness():
    """Regression: at 2 kHz the filter for the head, at 1.5 kHz, was unstable and gave no finite loudness."""
    meter = Loudness(2000)
    meter.add(np.sin(2 * np.pi * 500 * np.arange(4000) / 2000)[:, None])
    assert meter.lufs()[0] == pytest.approx(-3.7, abs=0.3)
