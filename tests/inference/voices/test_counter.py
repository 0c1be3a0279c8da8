"""Tracks of one person and of two are told apart, whatever their order, level and length."""

import numpy as np
import pytest
import soundfile
import soxr
import torch

from unified_sess.data.demo.speech import read_voices
from unified_sess.inference.voices import counter
from unified_sess.inference.voices.counter import (
    FEWEST,
    SHORT,
    SHORT_STEP,
    STEP,
    STRETCH,
    counter_input,
    stretches,
    two_people,
)
from unified_sess.inference.voices.encoder import BANDS, FRAMES, VoiceEncoder
from unified_sess.inference.voices.network import StretchNetwork
from unified_sess.nnet.voice_encoder import VoiceEncoder as Network

RATE = 8000


def said(person, seconds=5.0):
    signal = np.concatenate([soxr.resample(*soundfile.read(path, dtype="float32"), RATE) for path in person.files])
    signal = np.tile(signal, 1 + int(seconds * RATE / len(signal)))[: int(seconds * RATE)]
    return 0.05 * signal / np.sqrt(np.square(signal).mean())


def powers(*tracks):
    """Power in the bands of tracks in a little noise, and of their sum."""
    signals = np.stack(tracks).astype(np.float32)
    signals += 1e-3 * np.random.default_rng(0).standard_normal(signals.shape, np.float32)
    return VoiceEncoder(RATE).spectrum(np.concatenate((signals, signals.sum(0, keepdims=True))))


def split(signal):
    """What a separator may make of one person: holes in one track, and what is missing on the other one."""
    random, time = np.random.default_rng(1), np.arange(len(signal)) / RATE
    spectra = torch.stft(torch.from_numpy(signal), 256, 64, window=torch.hann_window(256), return_complex=True)
    mask = torch.from_numpy(np.kron(random.random((13, spectra.shape[1] // 25 + 1)), np.ones((10, 25))))
    mask = mask[: spectra.shape[0], : spectra.shape[1]]
    parts = [
        torch.istft(spectra * part, 256, 64, window=torch.hann_window(256), length=len(time)).numpy()
        for part in (mask, 1 - mask)
    ]
    return parts


@pytest.fixture(scope="module")
def people():
    return [said(person) for part in ("dev", "test") for person in read_voices()[part]][:12]


def test_two_people_sound_more_like_two_than_one_person_on_two_tracks(people):
    two = [two_people(powers(first, second)).mean() for first, second in zip(people[::2], people[1::2], strict=True)]
    one = [two_people(powers(*split(person))).mean() for person in people]
    one += [two_people(powers(person, 0.3 * person)).mean() for person in people]
    assert np.mean([[a > b for a in two] for b in one]) > 0.9


def test_neither_the_order_of_the_tracks_nor_their_level_matters(people):
    whole = powers(people[0], 0.5 * people[1])
    np.testing.assert_allclose(two_people(whole[[1, 0, 2]]), two_people(whole))
    np.testing.assert_allclose(two_people(1e-4 * whole), two_people(whole), atol=1e-3)


def test_of_three_tracks_the_likeliest_pair_counts(people):
    three = powers(people[0], 0.5 * people[1], 0.001 * people[0])
    pairs = three[[0, 1, 3]], three[[0, 2, 3]]
    assert two_people(three) == pytest.approx(np.maximum(*map(two_people, pairs)))


@pytest.mark.parametrize("units", [1, 8, 19, 20, 24, 25, 29, 34, 120])
@pytest.mark.parametrize("length, step", [(STRETCH, STEP), (SHORT, SHORT_STEP)])
def test_stretches_hear_every_unit_and_none_is_too_short(units, length, step):
    found = stretches(units, length, step)
    assert {unit for first, last in found for unit in range(first, last)} == set(range(units))
    assert all(min(units, FEWEST) <= last - first < length + step for first, last in found)
    assert len({last for _, last in found}) == len(found)


def test_nothing_has_no_stretches():
    assert stretches(0) == [] and two_people(np.zeros((3, 0, BANDS))).shape == (0,)
    assert np.isfinite(two_people(np.zeros((3, 4 * FRAMES, BANDS)))).all()


def test_numpy_and_torch_compute_the_same(monkeypatch, people):
    torch.manual_seed(0)
    network = Network(3 * BANDS, channels=16, size=1, dilations=(1, 2, 4, 8)).eval()
    monkeypatch.setattr(counter, "_network", lambda: StretchNetwork(network.arrays()))
    whole = powers(people[0], people[1])[:, : 2 * FEWEST * FRAMES]
    with torch.no_grad():
        expected = network(torch.from_numpy(counter_input(whole)[None]).transpose(1, 2)).item()
    assert two_people(whole)[0] == pytest.approx(expected, abs=2e-3)  # the weights have 16 bits
