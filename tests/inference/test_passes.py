"""Separation in several passes at other speeds: what comes back, in which order and polarity, and where it is refused."""

import numpy as np
import pytest
import soxr

from unified_sess.inference.passes import SPEEDS, InPasses
from unified_sess.utils.errors import UserError

RATE = 16000


class Bands:
    """Splits a mixture at 1 kHz; at each call the order is another and the louder half may be upside down."""

    num_spks, sample_rate, name, silence_threshold = 2, RATE, "the bands", -40.0

    def __init__(self, turned: bool = True, noise: float = 0.0) -> None:
        self.turned, self.noise, self.calls = turned, noise, 0

    def separate_windows(self, mixtures: np.ndarray, enhanced: bool = False) -> np.ndarray:
        spectrum = np.fft.rfft(mixtures)
        low = np.fft.rfftfreq(mixtures.shape[1], 1 / RATE) < 1000
        both = [np.fft.irfft(spectrum * part, mixtures.shape[1]) for part in (low, ~low)]
        if self.turned and self.calls % 2:
            both = [-both[1], both[0]]
        self.calls += 1
        rng = np.random.default_rng(self.calls)
        both = [source + self.noise * rng.standard_normal(source.shape) for source in both]
        return np.stack([*both, mixtures][: 2 + enhanced], axis=2).astype(np.float32)

    def digest(self) -> str:
        return "bands"


@pytest.fixture
def mixtures() -> np.ndarray:
    """Two windows of two tones, 300 Hz and 3 kHz, which stay in their halves at every speed."""
    time = np.arange(RATE + 7) / RATE
    rise = np.hanning(len(time))
    tones = [rise * np.sin(2 * np.pi * frequency * time) for frequency in (300, 3000)]
    return np.stack([tones[0] + 0.5 * tones[1], 0.3 * tones[0] - tones[1]]).astype(np.float32)


@pytest.mark.parametrize("passes", range(1, len(SPEEDS) + 1))
def test_passes_of_a_perfect_network_agree(mixtures, passes):
    model = Bands()
    found = InPasses(model, passes).separate_windows(mixtures, enhanced=True)
    assert model.calls == passes and found.shape == (*mixtures.shape, 3) and found.dtype == np.float32
    expected = Bands(turned=False).separate_windows(mixtures, enhanced=True)
    np.testing.assert_allclose(found, expected, atol=2e-3)


def test_errors_that_differ_average_out(mixtures):
    clean = Bands(turned=False).separate_windows(mixtures)
    errors = [
        np.square(InPasses(Bands(noise=0.1), passes).separate_windows(mixtures) - clean).mean() for passes in (1, 4)
    ]
    assert errors[1] < 0.35 * errors[0]


def test_every_pass_hears_another_speed(mixtures):
    heard = []

    class Listening(Bands):
        def separate_windows(self, mixtures, enhanced=False):
            heard.append(mixtures)
            return super().separate_windows(mixtures, enhanced)

    InPasses(Listening(), 3).separate_windows(mixtures)
    for speed, signals in zip(SPEEDS, heard):
        assert signals.shape[1] == pytest.approx(mixtures.shape[1] * 100 / speed, abs=1)
        peak = np.abs(np.fft.rfft(signals[0])).argmax() * RATE / signals.shape[1]
        assert peak == pytest.approx(3 * speed, rel=0.01)  # Hz, of the lower tone


@pytest.mark.parametrize("length", [1, 2, 50])
def test_short_and_silent_mixtures_pass(length):
    found = InPasses(Bands(turned=False), 5).separate_windows(np.zeros((1, length), np.float32))
    assert found.shape == (1, length, 2) and not found.any()


def test_what_is_no_number_stays_none(mixtures):
    class Broken(Bands):
        def separate_windows(self, mixtures, enhanced=False):
            return np.full((*mixtures.shape, 2), np.nan, np.float32)

    assert np.isnan(InPasses(Broken(), 3).separate_windows(mixtures)).all()


def test_results_of_other_passes_have_other_marks():
    digests = [InPasses(Bands(), passes).digest() for passes in range(1, len(SPEEDS) + 1)]
    assert len(set(digests)) == len(SPEEDS)


@pytest.mark.parametrize("passes", [0, -1, len(SPEEDS) + 1])
def test_other_numbers_of_passes_are_refused(passes):
    with pytest.raises(UserError, match="passes must be from 1 \\(fastest\\) to 5 \\(best\\)"):
        InPasses(Bands(), passes)


def test_speeds_keep_the_length(mixtures):
    for speed in SPEEDS:
        back = soxr.resample(soxr.resample(mixtures[0], speed, 100), 100, speed)
        assert abs(len(back) - mixtures.shape[1]) <= 2
