"""Dereverberation: the filters of a peer, less room, untouched dry sound."""

import numpy as np
import pytest
import torch
from nara_wpe.wpe import online_wpe_step, wpe_v8

from unified_sess.losses import si_snr
from unified_sess.nnet import dereverberation
from unified_sess.nnet.dereverberation import Dereverberation
from unified_sess.nnet.fourier import fourier
from unified_sess.nnet.recursive_filters import predict_recursively
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


def test_it_encodes_what_the_frames_so_far_leave(bursts):
    """What changes later changes no frame that ends a stride before."""
    encoder, signal = SpectralEncoder(64, 32, past=4, delay=2, causal=True), in_a_room(bursts)[None, :6400]
    offline = SpectralEncoder(64, 32, past=4, delay=2)
    for sample in (320, 3201, 6300):
        changed = signal.clone()
        changed[:, sample:] = torch.randn_like(changed[:, sample:])
        same = (sample - 32) // 32  # frames, of which the first begins 32 samples before the signal
        before, after = encoder(signal), encoder(changed)
        torch.testing.assert_close(after[..., :same], before[..., :same], atol=1e-5, rtol=0)
        assert not torch.allclose(after[..., same:], before[..., same:], atol=1e-3)
    assert not torch.allclose(offline(changed)[..., :same], offline(signal)[..., :same], atol=1e-3)  # which knows all


def test_recursive_filters_predict_what_those_of_nara_wpe_do():
    torch.manual_seed(0)
    spectrum, (past, delay, prior, floor) = torch.randn(5, 60, dtype=torch.complex128), (3, 2, 2.0, 0.01)
    buffer = np.zeros((past + delay, 5, 1), complex)  # its delay is ours less one
    inverse, taps, loudest, expected = np.tile(np.eye(past) / prior, (5, 1, 1)), np.zeros((5, past, 1)), 0.0, []
    for frame in spectrum.numpy().T:
        buffer = np.concatenate((buffer[1:], frame[None, :, None]))
        window = buffer[:-delay][::-1].transpose(1, 2, 0).reshape(5, past)
        power = np.abs(frame - np.einsum("fid,fi->f", taps.conj(), window)) ** 2
        loudest = np.maximum(loudest, power)
        weight = power + floor * loudest
        left, inverse, taps = online_wpe_step(buffer, weight, inverse, taps, 1.0, past, delay - 1)
        expected.append(frame - left[:, 0])
    found = predict_recursively(spectrum[None], past, delay, prior, floor)[0]
    torch.testing.assert_close(found, torch.from_numpy(np.stack(expected, axis=1)))


def test_recursive_filters_stay_exact_over_a_minute():
    torch.manual_seed(0)
    levels = 10 ** (-3 * torch.rand(1, 5, 3750, dtype=torch.float64))  # of 60 dB
    spectrum = torch.randn(1, 5, 3750, dtype=torch.complex128) * levels
    spectrum[..., 5:] += 0.5 * spectrum[..., :-5]
    exact = predict_recursively(spectrum, 10, 2, 2.0, 3e-3)
    found = predict_recursively(spectrum.to(torch.complex64), 10, 2, 2.0, 3e-3)
    assert (found - exact).abs().square().sum() < 1e-4 * exact.abs().square().sum()


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


@pytest.mark.parametrize(("causal", "gain"), [(False, 2), (True, 1)])
def test_a_room_becomes_smaller_and_dry_sound_stays(bursts, causal, gain):
    roomy, dereverberate = in_a_room(bursts), Dereverberation(causal=causal)
    assert si_snr(dereverberate(roomy[None])[0], bursts) > si_snr(roomy, bursts) + gain  # dB
    dry = dereverberate(bursts[None])[0]
    assert (dry - bursts).norm() < 1e-3 * bursts.norm()
    if not causal:
        torch.testing.assert_close(dry, bursts)


@pytest.mark.parametrize("causal", [False, True])
def test_loudness_scales_and_others_of_the_batch_do_not_matter(bursts, causal):
    signals = torch.stack((in_a_room(bursts), bursts.flip(0)))[:, :32000]
    together = Dereverberation(causal=causal)(signals)
    for k, factor in ((0, 1e-4), (1, 30.0)):
        alone = Dereverberation(causal=causal)(factor * signals[k : k + 1])[0] / factor
        torch.testing.assert_close(alone, together[k], atol=1e-4, rtol=0)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("samples", [64, 96, 640])
def test_silence_stays_silent_and_short_signals_finite(samples, causal):
    dereverberate = Dereverberation(5, 2, 64, 32, causal=causal)
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
