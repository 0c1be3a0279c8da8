"""Losses that are weighed before one backward pass: alike however the step was split, and learning as it goes."""

import copy
from functools import partial

import pytest
import torch

from tests.networks import brain_settings, random_batch, tiny_modules
from tests.training.test_joint_step import assert_close, one_step
from unified_sess.training.brain import UnifiedBrain
from unified_sess.training.muon import MuonAdamW
from unified_sess.training.utterance_losses import LossChoice
from unified_sess.utils.errors import UserError

RULES = ["random", "uncertainty", "famo"]


def brain(modules, rule, factor=1, opt=torch.optim.SGD, **settings):
    hparams = brain_settings(rule) | {"separation_loss": "si_snr", "enhancement_loss": "snr"} | settings
    options = {"device": "cpu", "grad_accumulation_factor": factor}
    result = UnifiedBrain(copy.deepcopy(modules), lambda p: opt(p, 1e-3), hparams, options)
    result.modules.train()
    result.init_optimizers()
    return result


def train(brain, batches):
    for step, batch in enumerate(batches, start=1):
        brain.step = step
        brain.fit_batch(batch)
    return dict(brain.modules.named_parameters())


@pytest.mark.parametrize("rule", RULES)
def test_one_pass_and_two_give_the_same_gradient(rule):
    modules, batch = tiny_modules(), random_batch([400, 400])
    torch.manual_seed(0)  # what the random weights start from
    choice = LossChoice("si_snr", "snr")
    one, two = (one_step(modules, [batch], rule, choice=choice, statistics=s) for s in (False, True))
    assert_close(one, two)


@pytest.mark.parametrize("rule", RULES)
def test_a_split_step_learns_the_same_weights(rule):
    modules, batch = tiny_modules(), random_batch([400] * 4)
    halves = [type(batch)(*(part[k : k + 2] for part in batch)) for k in (0, 2)]
    whole = brain(modules, rule)
    split = brain(modules, rule, factor=2)
    assert_close(train(split, halves * 3), train(whole, [batch] * 3), 1e-3)
    losses = torch.full((2, 1), -5.0)
    torch.testing.assert_close(split.modulation.weighting.weights(losses), whole.modulation.weighting.weights(losses))


@pytest.mark.parametrize("rule", RULES)
def test_weights_move_and_differ_from_the_plain_sum(rule):
    modules, batches = tiny_modules(), [random_batch([400, 400], seed=k) for k in range(3)]
    found = brain(modules, rule)
    weighed = train(found, batches)
    plain = train(brain(modules, "sum"), batches)
    assert any(not torch.equal(weighed[name], plain[name]) for name in plain)
    if rule != "random":
        assert found.modulation.weighting.numbers.abs().sum() > 0


def test_floors_are_those_of_the_losses():
    assert brain(tiny_modules(), "famo").modulation.weighting.floors == (-30.0, -30.0)
    assert brain(tiny_modules(), "famo", enhancement_loss="feature_distance").modulation.weighting.floors == (0, -30.0)


def test_recorded_steps_would_keep_their_weights():
    with pytest.raises(UserError, match="cuda_graphs"):
        brain(tiny_modules(), "famo", cuda_graphs=True)


def test_adam_s_step_is_projected_instead_of_the_gradient():
    modules, batches = tiny_modules(), [random_batch([400, 400], seed=k) for k in range(4)]
    of_step, of_gradient = (brain(modules, "gm", opt=torch.optim.Adam, modulated=m) for m in ("step", "gradient"))
    first = [train(b, batches[:1]) for b in (of_step, of_gradient)]
    assert_close(
        *({n: p.detach().clone() for n, p in f.items()} for f in first)
    )  # Adam knows nothing before its first step
    after = [train(b, batches[1:]) for b in (of_step, of_gradient)]
    assert any(not torch.equal(after[0][name], after[1][name]) for name in after[0])


@pytest.mark.parametrize(
    "opt", [partial(torch.optim.SGD, momentum=0.9), partial(MuonAdamW, muon=True)], ids=["SGD", "Muon"]
)
def test_the_steps_of_another_optimizer_are_refused_before_the_first(opt):
    with pytest.raises(UserError, match="modulated"):
        brain(tiny_modules(), "gm", opt=opt, modulated="step")


def test_rules_that_compare_no_steps_are_refused_before_the_first():
    """TorchJD's ended in a traceback, those of one pass did the plain sum."""
    pytest.importorskip("torchjd")
    for rule in ("torchjd:UPGrad", "famo", "random"):
        with pytest.raises(UserError, match="does not compare the steps"):
            brain(tiny_modules(), rule, opt=torch.optim.Adam, modulated="step")
