"""Dereverberation: the filters of a peer, less room, untouched dry sound."""

import numpy as np
import pytest
import torch
from nara_wpe.wpe import wpe_v8

from unified_sess.losses import si_snr
from unified_sess.nnet import dereverberation
from unified_sess.nnet.dereverberation import Dereverberation
from unified_sess.nnet.fourier import fourier
from unified_sess.nnet.time_frequency import SpectralDecoder, SpectralEncoder


def test_it_subtracts_what_nara_wpe_subtracts(monkeypatch):
    monkeypatch.setattr(dereverberation, "FLOOR", 1e-10)
    monkeypatch.setattr(dereverberation, "RIDGE", 1e-12)
    monkeypatch.setattr(dereverberation, "PRIOR_FRAMES", 0.0)
    monkeypatch.setattr(dereverberation, "DRY", -1.0)
    monkeypatch.setattr(dereverberation, "IN_A_ROOM", 0.0)
    torch.manual_seed(0)
    signal = torch.randn(2, 6400, dtype=torch.float64) * torch.linspace(0.1, 1, 6400)
    parts = SpectralEncoder(64, 32).double()(signal)
    spectrum = torch.complex(*parts.chunk(2, dim=1)).detach().numpy()
    expected = [wpe_v8(x[:, None], taps=6, delay=2, iterations=3, statistics_mode="full")[:, 0] for x in spectrum]
    expected = torch.from_numpy(np.stack(expected))
    decoded = SpectralDecoder(64, 32).double()(torch.cat((expected.real, expected.imag), dim=1))[:, :6400]
    dereverberate = Dereverberation(6, 2, 64, 32).double()
    dereverberate.waves = fourier(64).unsqueeze(1).double()  # all digits, as the peer's
    found = dereverberate(signal)
    torch.testing.assert_close(found, decoded.detach(), atol=1e-5, rtol=0)
    assert (found - signal).norm() > 0.1 * signal.norm()


def in_a_room(dry, seconds=0.5, rate=16000):
    """Direct sound, and a decay of 60 dB in so many seconds."""
    time = torch.arange(round(seconds * rate)) / rate
    room = torch.randn(len(time), generator=torch.Generator().manual_seed(1)) * 10 ** (-3 * time / seconds) * 0.03
    room[0] = 1.0
    return torch.fft.irfft(torch.fft.rfft(dry, 2**18) * torch.fft.rfft(room, 2**18), 2**18)[: len(dry)]


@pytest.fixture
def bursts():
    """Eight seconds of noise that comes and goes, as syllables do."""
    torch.manual_seed(0)
    noise = torch.randn(128000)
    return noise * (torch.rand(80) > 0.6).repeat_interleave(1600)


def test_a_room_becomes_smaller_and_dry_sound_stays(bursts):
    roomy, dereverberate = in_a_room(bursts), Dereverberation()
    assert si_snr(dereverberate(roomy[None])[0], bursts) > si_snr(roomy, bursts) + 2  # dB
    torch.testing.assert_close(dereverberate(bursts[None])[0], bursts)


def test_loudness_scales_and_others_of_the_batch_do_not_matter(bursts):
    signals = torch.stack((in_a_room(bursts), bursts.flip(0)))[:, :32000]
    together = Dereverberation()(signals)
    for k, factor in ((0, 1e-4), (1, 30.0)):
        alone = Dereverberation()(factor * signals[k : k + 1])[0] / factor
        torch.testing.assert_close(alone, together[k], atol=1e-4, rtol=0)


@pytest.mark.parametrize("samples", [64, 96, 640])
def test_silence_stays_silent_and_short_signals_finite(samples):
    dereverberate = Dereverberation(5, 2, 64, 32)
    assert not dereverberate(torch.zeros(1, samples)).any()
    assert dereverberate(torch.randn(1, samples)).isfinite().all()


def test_an_encoder_with_past_frames_encodes_the_dereverberated_signal():
    torch.manual_seed(0)
    signal = torch.randn(2, 3200)
    encoder = SpectralEncoder(64, 32, past=4, delay=2)
    assert encoder.state_dict().keys() == SpectralEncoder(64, 32).state_dict().keys()
    padded = torch.nn.functional.pad(signal, (32, 32))
    expected = encoder.conv1d(Dereverberation(4, 2, 64, 32)(padded).unsqueeze(1))
    torch.testing.assert_close(encoder(signal), expected)
    encoder(signal).square().sum().backward()
    assert encoder.conv1d.weight.grad.any()


def test_half_precision_around_it_does_not_reach_it():
    signal = torch.randn(1, 3200, generator=torch.Generator().manual_seed(0))
    with torch.autocast("cpu", torch.bfloat16):
        found = Dereverberation(4, 2, 64, 32)(signal)
    torch.testing.assert_close(found, Dereverberation(4, 2, 64, 32)(signal))


@pytest.mark.parametrize("option", ["past", "delay", "iterations"])
def test_nothing_to_predict_from_is_refused(option):
    with pytest.raises(ValueError, match="at least 1"):
        Dereverberation(**{option: 0})


def test_a_model_stored_in_16_bits_keeps_the_transform():
    waves = Dereverberation(4, 2, 64, 32).waves
    torch.testing.assert_close(Dereverberation(4, 2, 64, 32).half().float().waves, waves, atol=0, rtol=0)
