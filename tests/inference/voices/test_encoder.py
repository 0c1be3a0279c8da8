"""Voices are told apart, alike at any rate, with torch's network and without it."""

import numpy as np
import pytest
import soundfile
import soxr
import torch

from unified_sess.data.demo.speech import read_voices
from unified_sess.inference.voices import encoder
from unified_sess.inference.voices.encoder import SPEECH_RMS, VoiceEncoder, network_input
from unified_sess.inference.voices.network import StretchNetwork
from unified_sess.nnet.voice_encoder import VoiceEncoder as Network


def speech(path, rate=8000):
    signal, own = soundfile.read(path, dtype="float32")
    signal = soxr.resample(signal, own, rate)
    return SPEECH_RMS * signal / np.sqrt(np.square(signal).mean())


@pytest.fixture(scope="module")
def voices():
    """Embeddings of the package's voices, `[person][units, size]`."""
    people = read_voices()
    embeddings = (VoiceEncoder(8000)(np.concatenate([speech(path) for path in person.files])[None])[0]
                  for part in ("dev", "test") for person in people[part])  # fmt: skip
    return [found for found in embeddings if len(found) >= 8]


def test_a_voice_is_nearer_to_itself_than_to_others(voices):
    assert len(voices) >= 20
    means = np.stack([person[: len(person) // 2].mean(0) for person in voices])
    nearest = [(person[len(person) // 2 :] @ means.T).argmax(1) == k for k, person in enumerate(voices)]
    assert np.concatenate(nearest).mean() > 0.35  # of more than twenty people, by 1.8 s


def test_two_voices_are_nearly_always_told_apart(voices):
    right = []
    for k, person in enumerate(voices):
        own, others = person[: len(person) // 2].mean(0), [other.mean(0) for j, other in enumerate(voices) if j != k]
        rest = person[len(person) // 2 :]
        right += [(rest @ own > rest @ other).mean() for other in others]
    assert np.mean(right) > 0.93


@pytest.mark.parametrize("rate", [16000, 44100])
def test_a_voice_sounds_alike_at_any_rate(rate):
    path = read_voices()["test"][0].files[0]
    low, high = (VoiceEncoder(r)(speech(path, r)[None])[0] for r in (8000, rate))
    count = min(len(low), len(high))
    assert count >= 3
    assert (low[:count] * high[:count]).sum(1).min() > 0.9


def test_embeddings_have_length_1_and_silence_has_none():
    signals = np.zeros((2, 8000 * 8), np.float32)
    signals[:, : 8000 * 3] = np.random.default_rng(0).standard_normal((2, 8000 * 3)) * 0.02
    found = np.linalg.norm(VoiceEncoder(8000)(signals), axis=2)
    np.testing.assert_allclose(found[:, :11], 1, atol=1e-5)
    assert (found[:, 16:] == 0).all()


def test_numpy_and_torch_compute_the_same():
    torch.manual_seed(0)
    network = Network()
    for module in network.modules():  # as after a training
        if isinstance(module, torch.nn.BatchNorm1d):
            for values in (module.weight, module.bias, module.running_mean, module.running_var):
                values.data.uniform_(0.5, 1.5)
    network.eval()
    listener = VoiceEncoder(8000)
    arrays = network.arrays()
    for name, parameter in (("first.weight", network.first.weight), ("linear.bias", network.linear.bias)):
        assert arrays[name].dtype == np.float16 and arrays[name].size == parameter.numel()
    listener.network = StretchNetwork(arrays)
    signal = np.random.default_rng(0).standard_normal((3, encoder.SPAN * listener.unit)).astype(np.float32) * 0.02
    middle = listener(signal)[:, encoder.SPAN // 2]
    spectrum = network_input(listener.spectrum(np.pad(signal, ((0, 0), (0, listener.hop)))))
    with torch.no_grad():
        expected = torch.nn.functional.normalize(network(torch.from_numpy(spectrum).transpose(1, 2)), dim=1)
    np.testing.assert_allclose(middle, expected, atol=2e-3)  # the weights have 16 bits
