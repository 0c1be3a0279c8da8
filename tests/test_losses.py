"""Losses: agreement with SpeechBrain and fast_bss_eval, permutations, silence."""

import fast_bss_eval
import pytest
import torch
from speechbrain.nnet.losses import get_si_snr_with_pitwrapper

from tests.networks import random_batch, tiny_modules
from unified_sess.losses import feature_distance, pit_si_snr, si_snr, utterance_losses


@pytest.mark.parametrize("speakers", [1, 2, 3, 4])
def test_pit_agrees_with_speechbrain(speakers):
    targets = torch.randn(3, 900, speakers)
    estimates = targets.flip(-1) + 0.3 * torch.randn_like(targets)
    loss, _ = pit_si_snr(estimates, targets)
    theirs = get_si_snr_with_pitwrapper(targets, estimates)
    torch.testing.assert_close(loss, theirs, atol=1e-4, rtol=1e-4)


def test_si_snr_agrees_with_fast_bss_eval():
    targets = torch.randn(2, 3, 800)
    estimates = targets + 0.5 * torch.randn_like(targets)
    theirs = fast_bss_eval.si_sdr(targets, estimates, zero_mean=True)
    torch.testing.assert_close(si_snr(estimates, targets), theirs, atol=1e-3, rtol=1e-4)


def test_pit_names_the_permutation():
    targets = torch.randn(2, 500, 3)
    order = torch.tensor([[2, 0, 1], [1, 0, 2]])
    estimates = torch.stack([targets[b][:, order[b]] for b in range(2)])
    loss, permutation = pit_si_snr(estimates, targets)
    for b in range(2):
        torch.testing.assert_close(estimates[b][:, permutation[b]], targets[b])
    assert (loss < -60).all()


def test_scale_and_offset_do_not_matter():
    target = torch.randn(1, 4000)
    estimate = target + 0.2 * torch.randn_like(target)
    torch.testing.assert_close(si_snr(5 * estimate + 0.7, target), si_snr(estimate, target), atol=1e-3, rtol=1e-4)


@pytest.mark.parametrize("silent", ["source", "all sources", "mixture"])
def test_silence_gives_finite_losses_and_gradients(silent):
    batch = random_batch([600])
    if silent == "source":
        batch.sources[..., 1] = 0
    else:
        batch.sources.zero_()
        batch.clean.zero_()
    if silent == "mixture":
        batch.mixture.zero_()
    modules = tiny_modules()
    losses = utterance_losses(modules, batch)
    (losses.separation + losses.enhancement).sum().backward()
    assert losses.separation.isfinite().all() and losses.enhancement.isfinite().all()
    assert all(p.grad is None or p.grad.isfinite().all() for p in modules.parameters())


def test_enhancement_is_a_sum_over_channels_and_frames():
    a, b = torch.randn(2, 3, 5), torch.randn(2, 3, 5)
    expected = torch.stack([((a[i] - b[i]) ** 2).sum() for i in range(2)])
    torch.testing.assert_close(feature_distance(a, b), expected)


def test_the_clean_features_carry_gradient_unless_detached():
    batch = random_batch([300])
    gradients = []
    for detach in (False, True):
        modules = tiny_modules()
        torch.manual_seed(1)
        for p in modules.parameters():
            torch.nn.init.normal_(p, std=0.1)
        utterance_losses(modules, batch, detach_clean=detach).enhancement.sum().backward()
        gradients.append(modules["encoder"].conv1d.weight.grad)
    assert not torch.allclose(*gradients)
