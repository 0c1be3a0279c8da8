"""Losses: agreement with SpeechBrain and fast_bss_eval, permutations, silence."""

import itertools
from types import SimpleNamespace

import fast_bss_eval
import numpy as np
import pytest
import torch
from speechbrain.nnet.losses import get_si_snr_with_pitwrapper

from tests.networks import random_batch, tiny_modules
from unified_sess.losses import (
    LEVEL_WEIGHT,
    feature_distance,
    leveled_si_snr,
    limited_snr,
    log_feature_distance,
    pit_limited_snr,
    pit_magnitude_snr,
    pit_si_snr,
    si_snr,
    si_snr_improvement,
)
from unified_sess.training.utterance_losses import LossChoice, utterance_losses
from unified_sess.utils.errors import UserError


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
        utterance_losses(modules, batch, LossChoice(detach_clean=detach)).enhancement.sum().backward()
        gradients.append(modules["encoder"].conv1d.weight.grad)
    assert not torch.allclose(*gradients)


IN_DB = [LossChoice("snr", "log_feature_distance"), LossChoice("si_snr_level", "snr"), LossChoice("si_snr", "snr")]


@pytest.mark.parametrize("noise_db", [-40, -20, -5, 0, 10])
def test_limited_snr_is_the_snr_with_a_soft_limit(noise_db):
    target = torch.randn(2, 5000, dtype=torch.float64)
    noise = torch.randn(2, 5000, dtype=torch.float64)
    noise *= 10 ** (noise_db / 20) * target.norm(dim=-1, keepdim=True) / noise.norm(dim=-1, keepdim=True)
    expected = -10 * np.log10(10 ** (noise_db / 10) + 1e-3)
    np.testing.assert_allclose(limited_snr(target + noise, target, target).numpy(), expected, atol=1e-6)
    silent = limited_snr(noise, torch.zeros_like(noise), target)  # the same of a source that never speaks
    np.testing.assert_allclose(silent.numpy(), expected, atol=1e-6)


def test_limited_snr_knows_level_and_polarity_where_si_snr_does_not():
    target = torch.randn(1, 4000)
    for estimate in (-target, 0.1 * target, 3 * target):
        assert si_snr(estimate, target) > 60
        assert limited_snr(estimate, target, target) < 1


def test_leveled_si_snr_is_limited_si_snr_less_the_error_of_level():
    target = torch.randn(3, 4000, dtype=torch.float64)
    noise = torch.randn(3, 4000, dtype=torch.float64)
    noise -= (noise * target).sum(-1, keepdim=True) / target.square().sum(-1, keepdim=True) * target
    for gain in (0.1, 1.0, 1.5, -1.0):
        estimate = gain * (target + 0.3 * noise)
        limited = limited_snr(target + 0.3 * noise, target, target)  # of the same shape at the right level
        expected = limited - LEVEL_WEIGHT * abs(1 - gain)
        torch.testing.assert_close(leveled_si_snr(estimate, target, target), expected, atol=1e-4, rtol=0)


def test_training_by_snr_silences_what_it_cannot_separate_and_leveled_si_snr_does_not():
    target, others = torch.randn(1, 3000), 4 * torch.randn(1, 3000)  # a direct path 12 dB below the rest of the room
    mixture = target + others
    slopes = {}
    for ratio in (limited_snr, leveled_si_snr):
        gain = torch.tensor(0.6, requires_grad=True)
        (slopes[ratio],) = torch.autograd.grad(-ratio(gain * mixture, target, mixture).sum(), gain)
    assert slopes[limited_snr] > 0 > slopes[leveled_si_snr]  # a step against the slope lowers, or raises the output
    assert leveled_si_snr(0 * mixture, target, mixture) < leveled_si_snr(mixture, target, mixture) - 20


@pytest.mark.parametrize("level", [1e-3, 1.0])
def test_a_silent_source_gives_a_gradient_that_lowers_its_output(level):
    mixture = level * torch.randn(1, 3000)
    estimate = (0.3 * mixture).requires_grad_()
    (gradient,) = torch.autograd.grad(-limited_snr(estimate, torch.zeros(1, 3000), mixture).sum(), estimate)
    assert torch.nn.functional.cosine_similarity(gradient, estimate).item() == pytest.approx(1, abs=1e-4)
    size = (gradient.norm() * estimate.norm()).item()  # dB that fall as the estimate shrinks; SI-SNR's is zero
    assert size == pytest.approx(20 / np.log(10), rel=0.02)


@pytest.mark.parametrize("speakers", [1, 2, 3])
def test_the_permutation_of_limited_snr_is_the_best_of_all(speakers):
    targets = torch.randn(2, 700, speakers)
    targets[..., -1] = 0  # the last one never speaks
    mixture = targets.sum(-1) + 0.1 * torch.randn(2, 700)
    estimates = 0.5 * targets.flip(-1) + 0.3 * torch.randn_like(targets)
    loss, permutation = pit_limited_snr(estimates, targets, mixture)
    for b in range(2):
        scores = {
            order: np.mean(
                [limited_snr(estimates[b, :, order[c]], targets[b, :, c], mixture[b]).item() for c in range(speakers)]
            )
            for order in itertools.permutations(range(speakers))
        }
        best = max(scores, key=scores.get)
        assert tuple(permutation[b].tolist()) == best
        assert -loss[b].item() == pytest.approx(scores[best], abs=1e-4)


def test_the_improvement_is_that_of_the_people_who_speak():
    targets = torch.randn(2, 900, 3)
    mixture = targets.sum(-1) + 0.2 * torch.randn(2, 900)
    estimates = targets.flip(-1) + 0.3 * torch.randn_like(targets)
    before = si_snr(mixture.unsqueeze(1), targets.transpose(1, 2)).mean(-1)
    torch.testing.assert_close(
        si_snr_improvement(estimates, targets, mixture), -pit_si_snr(estimates, targets)[0] - before
    )
    quiet = targets.clone()
    quiet[0, :, 1] = 0
    two = si_snr_improvement(estimates[:1], quiet[:1], mixture[:1])
    expected = si_snr_improvement(estimates[:1, :, [0, 2]], targets[:1, :, [0, 2]], mixture[:1])
    torch.testing.assert_close(two, expected)
    assert si_snr_improvement(estimates, torch.zeros_like(targets), mixture).isnan().all()


@pytest.mark.parametrize("level", [1e-2, 1.0, 50.0])
def test_the_enhancement_loss_in_db_does_not_depend_on_level(level):
    clean, noisy = torch.randn(2, 6, 50), torch.randn(2, 6, 50)
    enhanced = clean + 0.3 * noisy
    found = log_feature_distance(level * enhanced, level * clean, level * noisy)
    torch.testing.assert_close(found, log_feature_distance(enhanced, clean, noisy), atol=1e-3, rtol=1e-3)
    ratio = feature_distance(enhanced, clean) / clean.square().sum((1, 2))
    torch.testing.assert_close(found, 10 * torch.log10(ratio + 1e-3), atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("choice", IN_DB, ids=str)
@pytest.mark.parametrize("silent", ["source", "all sources", "mixture"])
def test_losses_in_db_know_silence(silent, choice):
    batch = random_batch([600])
    if silent == "source":
        batch.sources[..., 1] = 0
    else:
        batch.sources.zero_()
        batch.clean.zero_()
    if silent == "mixture":
        batch.mixture.zero_()
    modules = tiny_modules()
    losses = utterance_losses(modules, batch, choice)
    (losses.separation + losses.enhancement).sum().backward()
    assert losses.separation.isfinite().all() and losses.enhancement.isfinite().all()
    assert all(p.grad is None or p.grad.isfinite().all() for p in modules.parameters())
    if silent == "all sources" and choice.separation == "snr":  # there is something to learn
        assert max(p.grad.abs().max() for p in modules["masknet"].parameters() if p.grad is not None) > 0


@pytest.mark.parametrize("choice", IN_DB, ids=str)
def test_an_utterance_has_the_losses_in_db_that_it_has_alone(choice):
    batch, modules = random_batch([500, 300, 500]), tiny_modules()
    together = utterance_losses(modules, batch, choice)
    for row, length in enumerate(batch.lengths.tolist()):
        alone = batch._replace(
            mixture=batch.mixture[row : row + 1, :length],
            clean=batch.clean[row : row + 1, :length],
            sources=batch.sources[row : row + 1, :length],
            lengths=batch.lengths[row : row + 1],
        )
        losses = utterance_losses(modules, alone, choice)
        torch.testing.assert_close(losses.separation[0], together.separation[row], atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(losses.enhancement[0], together.enhancement[row], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("time", [300, 900])
def test_the_snr_of_magnitudes_knows_neither_phase_nor_level(time):
    targets = torch.randn(2, time, 3)
    loss, permutation = pit_magnitude_snr(targets[..., [2, 0, 1]] * 0.3, targets)
    assert (loss < -60).all() and permutation.tolist() == 2 * [[1, 2, 0]]
    turned = torch.fft.irfft(torch.fft.rfft(targets, dim=1) * 1j, n=time, dim=1)  # every wave by a quarter
    if time > 512:
        assert (pit_magnitude_snr(targets + 0.1 * targets.roll(7, 0).flip(1), targets)[0] > -40).all()
        assert (pit_magnitude_snr(turned, targets)[0] > pit_magnitude_snr(0.9 * targets, targets)[0] + 20).all()


def test_the_snr_of_magnitudes_is_what_a_loop_gives():
    targets = torch.randn(2, 1500, 2, dtype=torch.float64)
    estimates = targets + 0.4 * torch.randn_like(targets)
    window = torch.hann_window(512, dtype=torch.float64)

    def magnitude(x):
        frames = torch.nn.functional.pad(x - x.mean(), (0, 36)).unfold(0, 512, 128)
        return torch.fft.rfft(frames * window).abs()

    for row, found in enumerate(pit_magnitude_snr(estimates, targets)[0]):
        scores = []
        for order in itertools.permutations(range(2)):
            ratios = []
            for source, target in zip((estimates[row, :, k] for k in order), targets[row].T):
                estimate, target = source - source.mean(), target - target.mean()
                gain = (estimate @ target) / (target @ target)
                wanted = gain * magnitude(target)
                ratios.append(10 * torch.log10(wanted.square().sum() / (magnitude(estimate) - wanted).square().sum()))
            scores.append(sum(ratios) / 2)
        torch.testing.assert_close(found, -max(scores), atol=1e-3, rtol=0)


@pytest.mark.parametrize("estimate", [0.0, 1.0])
def test_the_snr_of_magnitudes_has_finite_gradients_at_silence(estimate):
    targets = torch.zeros(1, 700, 2)
    targets[..., 0] = torch.randn(700)
    estimates = (estimate * torch.randn(1, 700, 2)).requires_grad_()
    loss, _ = pit_magnitude_snr(estimates, targets)
    loss.sum().backward()
    assert loss.isfinite().all() and estimates.grad.isfinite().all()


def test_earlier_steps_can_have_a_loss_of_their_own():
    batch, modules = random_batch([700, 600]), tiny_modules()
    modules["masknet"] = InSteps(8)
    plain, own = (LossChoice(step_weight=0.4, step_loss=kind) for kind in ("as_last", "magnitude"))
    assert not torch.allclose(*(utterance_losses(modules, batch, choice).separation for choice in (plain, own)))
    last = own.of_the_last_step()
    torch.testing.assert_close(
        utterance_losses(modules, batch, last).separation, utterance_losses(modules, batch).separation
    )


def test_the_sum_of_the_sources_can_have_a_loss_of_its_own():
    batch, modules = random_batch([700, 600]), tiny_modules()
    plain, own = (LossChoice(separation="snr", sum_weight=weight) for weight in (0.0, 0.5))
    without, with_sum = (utterance_losses(modules, batch, choice) for choice in (plain, own))
    for row, length in enumerate((700, 600)):
        mixture, clean, sources = (
            x[row, :length] for x in (batch.mixture, batch.clean, without.sources.sum(2, keepdim=True))
        )
        wanted = without.separation[row] - 0.5 * limited_snr(sources[:, 0], clean, mixture)
        torch.testing.assert_close(with_sum.separation[row], wanted)
    torch.testing.assert_close(utterance_losses(modules, batch, own.of_the_last_step()).separation, without.separation)
    assert [choice.floors[1] for choice in (plain, own)] == [-30.0, -45.0]
    with pytest.raises(UserError, match="have no level and do not add up: choose a separation_loss"):
        LossChoice(sum_weight=0.1).check()


def test_a_threshold_of_silence_wants_a_loss_that_knows_it():
    settings = SimpleNamespace(silence_threshold=-40.0, separation_loss="si_snr", detach_clean_features=False)
    with pytest.raises(UserError, match="silence_threshold is -40, but sources trained by si_snr have no level"):
        LossChoice.of(settings, with_enhancement=True)
    settings.separation_loss = "si_snr_level"
    assert LossChoice.of(settings, with_enhancement=True).separation == "si_snr_level"


def test_the_share_of_earlier_steps_falls_as_published():
    choice = LossChoice(step_weight=0.4, step_decay=(100, 0.8, 5))
    shares = {epoch: choice.in_epoch(epoch).step_weight for epoch in (1, 100, 101, 105, 106, 200)}
    assert shares == pytest.approx({1: 0.4, 100: 0.4, 101: 0.32, 105: 0.32, 106: 0.256, 200: 0.4 * 0.8**20})
    for wrong in ((100, 0.8), (100, 0.8, 0)):
        with pytest.raises(UserError, match="give \\[epoch, factor, every\\]"):
            LossChoice(step_decay=wrong).check()


class InSteps(torch.nn.Module):
    """Masks that are refined in three steps."""

    def __init__(self, channels):
        super().__init__()
        self.layers = torch.nn.ModuleList(torch.nn.Conv1d(channels, 2 * channels, 1) for _ in range(3))

    def steps(self, features):
        return [layer(features).unflatten(1, (2, -1)).transpose(0, 1).sigmoid() for layer in self.layers]

    def forward(self, features):
        return self.steps(features)[-1]


@pytest.mark.parametrize("choice", [LossChoice(), LossChoice("snr", "snr")], ids=str)
def test_every_step_of_a_separator_has_its_share_of_the_loss(choice):
    batch, modules = random_batch([400, 300]), tiny_modules()
    modules["masknet"] = InSteps(8)
    alone = []
    for step in range(3):
        modules["masknet"].forward = lambda features, step=step: modules["masknet"].steps(features)[step]
        alone.append(utterance_losses(modules, batch, choice).separation)
    del modules["masknet"].forward
    for weight in (0.0, 0.4, 1.0):
        losses = utterance_losses(modules, batch, choice._replace(step_weight=weight))
        expected = (1 - weight) * alone[2] + weight * (alone[0] + alone[1]) / 2
        torch.testing.assert_close(losses.separation, expected, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(losses.sources, utterance_losses(modules, batch, choice).sources)
