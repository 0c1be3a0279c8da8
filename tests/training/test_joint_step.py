"""One step from two gradients: regressions of the traps a two-task step falls into."""

import copy

import pytest
import torch
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from tests.networks import random_batch, tiny_modules
from unified_sess.gradient_modulation import GradientModulation
from unified_sess.network import SHARED_MODULES
from unified_sess.training.joint_step import JointStep
from unified_sess.training.utterance_losses import PAPER, LossChoice, UtteranceLosses, utterance_losses

WEIGHT = 0.5


def step_of(modules, rule="gm", **options):
    return JointStep(modules, GradientModulation(rule), enhancement_weight=WEIGHT, threshold=None, **options)


def gradients(modules):
    return {name: None if p.grad is None else p.grad.clone() for name, p in modules.named_parameters()}


def one_step(modules, batches, rule="gm", scale=None, choice=PAPER, **options):
    step = step_of(modules, rule, **options)
    for batch in batches:
        step.accumulate(utterance_losses(modules, batch, choice), scale)
    step.merge(scale)
    return gradients(modules)


def textbook(modules, batch, project, choice=PAPER):
    """The formulas of the paper with two separate backward passes on copies of the network."""
    grads = []
    for task in ("enhancement", "separation"):
        twin = copy.deepcopy(modules)
        loss = getattr(utterance_losses(twin, batch, choice), task).mean() * (WEIGHT if task == "enhancement" else 1)
        loss.backward()
        grads.append(gradients(twin))
    merged = {}
    for name, ss in grads[1].items():
        se = grads[0][name]
        if name.split(".")[0] not in SHARED_MODULES or se is None:
            merged[name] = ss
            continue
        dot = (se * ss).sum()
        if project and dot < 0:
            se = se - dot / ss.square().sum() * ss
        merged[name] = se + ss
    return merged


def assert_close(a, b, tolerance=1e-5):
    assert a.keys() == b.keys()
    for name in a:
        torch.testing.assert_close(
            a[name], b[name], rtol=tolerance, atol=tolerance * float(b[name].abs().max()) + 1e-12
        )


def conflicting():
    """A network and a batch for which at least one shared tensor is in conflict."""
    for seed in range(50):
        torch.manual_seed(seed)
        modules, batch = tiny_modules(), random_batch([400, 400], seed=seed)
        gm, joint = textbook(modules, batch, True), textbook(modules, batch, False)
        if any(not torch.allclose(gm[n], joint[n]) for n in gm):
            return modules, batch
    raise AssertionError("no conflict in 50 random networks")


def test_regression_alias_the_se_gradient_does_not_become_the_ss_gradient():
    """Where `zero_grad` zeroes in place, a kept `param.grad` turns into the next gradient and GM does nothing."""
    modules, batch = conflicting()
    for p in modules.parameters():
        p.grad = torch.zeros_like(p)  # gradients that exist, as after zero_grad(set_to_none=False)
    assert_close(one_step(modules, [batch], "gm"), textbook(modules, batch, True))
    seen = one_step(copy.deepcopy(modules), [batch], "sum")
    assert any(not torch.allclose(seen[n], gradients(modules)[n]) for n in seen)


@pytest.mark.parametrize("scale", [None, 1024.0])
@pytest.mark.parametrize("enhancement", ["log_feature_distance", "snr"])
def test_losses_in_db_are_modulated_as_the_paper_s(enhancement, scale):
    """A source is silent, the enhanced mixture may pass the decoder: the step still uses G_SE' + G_SS of the formulas."""
    choice = LossChoice("snr", enhancement)
    differ = 0
    for seed in range(8):
        torch.manual_seed(seed)
        modules, batch = tiny_modules(), random_batch([400, 300, 400], seed=seed)
        batch.sources[1, :, 1] = 0
        expected = textbook(modules, batch, True, choice)
        found = one_step(modules, [batch], "gm", None if scale is None else torch.tensor(scale), choice)
        assert_close({n: g / (scale or 1) for n, g in found.items()}, expected, 1e-4)
        joint = textbook(modules, batch, False, choice)
        differ += any(not torch.allclose(joint[n], expected[n]) for n in joint)
    assert differ, "no conflict in 8 random networks"


@pytest.mark.parametrize("statistics", [True, False])
def test_sum_is_the_gradient_of_the_total_loss(statistics):
    modules, batch = conflicting()
    twin = copy.deepcopy(modules)
    losses = utterance_losses(twin, batch)
    (losses.separation + WEIGHT * losses.enhancement).mean().backward()
    assert_close(one_step(modules, [batch], "sum", statistics=statistics), gradients(twin))


@pytest.mark.parametrize("lengths", [[400, 400], [400, 300, 400]])
def test_a_decoder_with_the_encoders_weights_gets_its_whole_gradient(lengths):
    modules, batch = tiny_modules(), random_batch(lengths)
    modules["decoder"].weight = modules["encoder"].conv1d.weight
    twin = copy.deepcopy(modules)
    losses = utterance_losses(twin, batch)
    (losses.separation + WEIGHT * losses.enhancement).mean().backward()
    assert twin["decoder"].weight is twin["encoder"].conv1d.weight
    assert_close(one_step(modules, [batch], "sum"), gradients(twin))


def test_the_separator_forgets_its_activations_before_the_shared_part_is_passed(monkeypatch):
    """What the SE task keeps would otherwise come on top of the peak of memory."""
    modules, batch = tiny_modules(), random_batch([400, 400])
    step = JointStep(modules, GradientModulation("gm"), WEIGHT)
    losses = utterance_losses(modules, batch)
    grad, asked = torch.autograd.grad, []

    def recorded(outputs, inputs, *args, **kwargs):
        asked.append((len(list(inputs)), kwargs.get("retain_graph", False)))
        return grad(outputs, inputs, *args, **kwargs)

    monkeypatch.setattr(torch.autograd, "grad", recorded)
    step.accumulate(losses)
    separator = len(step.parameters) - len(step.shared)
    assert asked == [(1 + separator, False), (len(step.shared), True), (len(step.shared), False)]
    with pytest.raises(RuntimeError, match="second time"):
        losses.separation.sum().backward()


@pytest.mark.parametrize("rule", ["sum", "gm", "pcgrad", "remedy"])
def test_accumulation_is_one_larger_batch(rule):
    modules = tiny_modules().double()
    batch = random_batch([300] * 5)
    batch = batch._replace(mixture=batch.mixture.double(), clean=batch.clean.double(), sources=batch.sources.double())

    def rows(first, last):
        return batch._replace(
            ids=batch.ids[first:last],
            **{n: getattr(batch, n)[first:last] for n in ("mixture", "clean", "sources", "lengths")},
        )

    together = one_step(copy.deepcopy(modules), [batch], rule)
    assert_close(one_step(modules, [rows(0, 2), rows(2, 5)], rule), together, 1e-10)


@pytest.mark.parametrize("rule", ["sum", "gm", "pcgrad"])
def test_lambda_applies_under_a_loss_scale_and_unscaling_happens_once(rule):
    modules, batch = conflicting()
    plain = one_step(copy.deepcopy(modules), [batch], rule)
    parameters = list(modules.parameters())
    optimizer = torch.optim.SGD(parameters, lr=1.0)
    scaler = torch.GradScaler("cpu", init_scale=1024.0)
    scale = scaler.scale(torch.ones(()))
    one_step(modules, [batch], rule, scale)
    scaler.unscale_(optimizer)
    assert_close(gradients(modules), plain)
    before = [p.detach().clone() for p in parameters]
    scaler.step(optimizer)
    assert any(not torch.equal(a, p) for a, p in zip(before, parameters))


@pytest.mark.parametrize("task", ["enhancement", "separation"])
def test_an_overflow_in_either_gradient_skips_the_step(task):
    modules, batch = conflicting()
    losses = utterance_losses(modules, batch)
    losses = losses._replace(**{task: getattr(losses, task) * torch.tensor(float("inf"))})
    step = step_of(modules)
    scaler = torch.GradScaler("cpu", init_scale=1024.0)
    optimizer = torch.optim.SGD(modules.parameters(), lr=1.0)
    scale = scaler.scale(torch.ones(()))
    step.accumulate(losses, scale)
    _, finite = step.merge(scale)
    assert not finite
    before = [p.detach().clone() for p in modules.parameters()]
    scaler.unscale_(optimizer)
    scaler.step(optimizer)
    scaler.update()
    assert all(torch.equal(a, p) for a, p in zip(before, modules.parameters()))
    assert scaler.get_scale() < 1024.0


def test_utterances_under_the_threshold_are_left_out_of_both_losses():
    modules, batch = tiny_modules(), random_batch([300] * 4)
    losses = utterance_losses(modules, batch)
    threshold = losses.separation.detach().sort().values[1].item() + 1e-6  # two are under it
    keep = losses.separation.detach() > threshold
    step = JointStep(modules, GradientModulation("sum"), WEIGHT, threshold)
    step.accumulate(losses)
    count, _ = step.merge()
    assert count == 2
    twin = copy.deepcopy(modules)
    again = utterance_losses(twin, batch)
    (again.separation + WEIGHT * again.enhancement)[keep].mean().backward()
    assert_close(gradients(modules), gradients(twin))


def test_a_batch_with_none_left_counts_nothing():
    modules = tiny_modules()
    step = JointStep(modules, GradientModulation("gm"), WEIGHT, threshold=1000.0)
    step.accumulate(utterance_losses(modules, random_batch([300])))
    count, _ = step.merge()
    assert count == 0


def test_the_se_gradient_touches_only_encoder_and_enhancer():
    modules, batch = tiny_modules(), random_batch([300])
    alone = one_step(copy.deepcopy(modules), [batch], "sum")
    strong = copy.deepcopy(modules)
    step = JointStep(strong, GradientModulation("sum"), 100 * WEIGHT, None)
    step.accumulate(utterance_losses(strong, batch))
    step.merge()
    changed = gradients(strong)
    for name, gradient in alone.items():
        same = torch.equal(gradient, changed[name])
        assert same == (name.split(".")[0] not in SHARED_MODULES), name


def test_without_enhancement_weight_the_clean_mixture_plays_no_part():
    modules, batch = tiny_modules(), random_batch([300])
    step = JointStep(modules, GradientModulation("gm"), 0.0, None)
    assert not step.with_enhancement
    losses = utterance_losses(modules, batch, LossChoice(enhancement=None))
    assert losses.enhancement is None
    step.accumulate(losses)
    step.merge()
    twin = copy.deepcopy(modules)
    utterance_losses(twin, batch).separation.mean().backward()
    assert_close(gradients(modules), gradients(twin))


def test_frozen_parameters_have_no_gradient():
    modules, batch = tiny_modules(), random_batch([300])
    modules["encoder"].requires_grad_(False)
    seen = one_step(modules, [batch])
    assert seen["encoder.conv1d.weight"] is None
    assert all(g is not None for n, g in seen.items() if not n.startswith("encoder"))


@pytest.mark.parametrize("rule", ["sum", "gm", "pcgrad", "remedy"])
def test_a_step_waits_for_no_value(rule):
    """Reading a value of a fake tensor raises, as it would wait for a real device: the caller's wait is the only one."""
    modules = torch.nn.ModuleDict(
        {name: torch.nn.Linear(4, 4) for name in ("encoder", "enhancer", "masknet", "decoder")}
    )
    modulation = GradientModulation(rule)

    def one_step():
        step = JointStep(modules, modulation, WEIGHT, threshold=-30.0)
        scale = torch.full((), 1024.0)
        for _ in range(2):
            features = modules["enhancer"](modules["encoder"](torch.randn(3, 4)))
            sources = modules["decoder"](modules["masknet"](features))
            losses = UtteranceLosses(sources.mean(1), features.square().sum(1), sources, (features,))
            step.accumulate(losses, scale)
        return step.merge(scale)

    one_step()  # the layout is made once, from shapes
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        for module in modules.values():
            for name, parameter in list(module.named_parameters()):
                setattr(module, name, torch.nn.Parameter(mode.from_tensor(parameter.detach())))
        _, finite = one_step()
        assert modules["encoder"].weight.grad.shape == modules["decoder"].weight.grad.shape == (4, 4)
        with pytest.raises(DataDependentOutputException):
            bool(finite)


@pytest.mark.parametrize("enhancement", ["feature_distance", "log_feature_distance", "snr"])
def test_the_sum_in_one_pass_is_the_sum_in_two_and_leaves_the_decoder_to_separation(enhancement):
    modules, batch = tiny_modules(), random_batch([400, 400])
    choice = LossChoice("si_snr", enhancement)
    apart, together = (one_step(modules, [batch], "sum", choice=choice, statistics=two) for two in (True, False))
    assert_close(together, apart)
    alone = JointStep(modules, GradientModulation("sum"), enhancement_weight=0, threshold=None)
    alone.accumulate(utterance_losses(modules, batch, LossChoice("si_snr", None)))
    alone.merge()
    assert_close({"decoder": together["decoder.weight"]}, {"decoder": gradients(modules)["decoder.weight"]})
