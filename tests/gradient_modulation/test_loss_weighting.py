"""Rules of one backward pass: weights that sum to 2, learn what they should, and are what their state says."""

import pytest
import torch

from unified_sess.gradient_modulation import LOSS_WEIGHTINGS, GradientModulation, ModulationError

LOSSES = torch.tensor([[4.0, 1.0, 9.0], [20.0, 5.0, 0.5]])  # SE, SS of three utterances


@pytest.mark.parametrize("name", LOSS_WEIGHTINGS)
def test_weights_are_positive_and_sum_to_two(name):
    weighting = LOSS_WEIGHTINGS[name]()
    for _ in range(3):
        weights = weighting.weights(LOSSES)
        assert weights.shape == LOSSES.shape and (weights > 0).all() and not weights.requires_grad
        torch.testing.assert_close(weights.sum(0), torch.full((3,), 2.0))
        weighting.update([3.0, 2.0], [2.0, 1.9])


@pytest.mark.parametrize("name", LOSS_WEIGHTINGS)
def test_a_saved_state_goes_on_alike(name):
    whole, first = LOSS_WEIGHTINGS[name](), LOSS_WEIGHTINGS[name]()
    first.load_state_dict(whole.state_dict())  # a random one has a seed of its own
    steps = [([3.0, 2.0], [2.0, 1.9]), ([2.5, 4.0], [2.6, 3.0]), ([1.0, 1.0], [0.9, 1.2])]
    for before, after in steps:
        whole.update(before, after)
    for before, after in steps[:2]:
        first.update(before, after)
    second = LOSS_WEIGHTINGS[name]()
    second.load_state_dict(first.state_dict())
    second.update(*steps[2])
    assert torch.equal(second.weights(LOSSES), whole.weights(LOSSES))


def test_a_modulation_saves_what_its_weighting_remembers():
    one, other = GradientModulation("famo"), GradientModulation("famo")
    one.weighting.update([3.0, 2.0], [2.0, 1.9])
    assert not torch.equal(one.weighting.weights(LOSSES), other.weighting.weights(LOSSES))
    other.load_state_dict(one.state_dict())
    assert torch.equal(one.weighting.weights(LOSSES), other.weighting.weights(LOSSES))


def test_a_learnt_weighting_goes_on_with_the_arguments_of_now():
    """A resumed run kept the learning rate of the run before, while its record named the new one."""
    one, other = GradientModulation("famo"), GradientModulation("famo(lr=0.5)")
    one.weighting.update([3.0, 2.0], [2.0, 1.9])
    other.load_state_dict(one.state_dict())
    assert torch.equal(one.weighting.weights(LOSSES), other.weighting.weights(LOSSES))
    for modulation in (one, other):
        modulation.weighting.update([3.0, 2.0], [2.0, 1.0])
    assert not torch.equal(one.weighting.weights(LOSSES), other.weighting.weights(LOSSES))


@pytest.mark.parametrize("now", LOSS_WEIGHTINGS)
@pytest.mark.parametrize("before", [*LOSS_WEIGHTINGS, "gm"])
def test_another_rule_starts_anew(before, now):
    """famo handed its numbers to uncertainty in silence, random and famo refused each other's checkpoints."""
    one, other = GradientModulation(before), GradientModulation(now)
    state = one.state_dict()
    if one.weighting is not None:
        one.weighting.update([3.0, 2.0], [2.0, 1.9])
        state = one.state_dict()
        state.pop("rule") if before == "random" else None  # as older versions saved it
    fresh = other.weighting.state_dict()
    other.load_state_dict(state)
    if before != now:
        assert str(other.weighting.state_dict()) == str(fresh)


def test_random_weights_differ_from_step_to_step_and_have_mean_one():
    weighting, drawn = LOSS_WEIGHTINGS["random"](), []
    for _ in range(400):
        drawn.append(float(weighting.weights(LOSSES)[0, 0]))
        weighting.update([0.0, 0.0])
    drawn = torch.tensor(drawn)
    assert len(drawn.unique()) == 400 and abs(float(drawn.mean()) - 1) < 0.1


def test_uncertainty_weights_end_at_the_inverse_of_the_losses():
    weighting = LOSS_WEIGHTINGS["uncertainty"](lr=0.05)
    for _ in range(400):
        weighting.update([8.0, 2.0])
    se, ss = weighting.weights(LOSSES)[:, 0].tolist()
    assert ss / se == pytest.approx(4, rel=0.02)


def test_famo_weighs_the_task_that_improves_less():
    weighting = LOSS_WEIGHTINGS["famo"]()
    even = weighting.weights(torch.ones(2, 1))
    assert even.flatten().tolist() == [1, 1]
    for _ in range(20):
        weighting.update([2.0, 2.0], [1.0, 1.9])  # enhancement falls faster
    se, ss = weighting.weights(torch.ones(2, 1))[:, 0].tolist()
    assert ss > se
    se, ss = LOSS_WEIGHTINGS["famo"]().weights(torch.tensor([[4.0], [1.0]]))[:, 0].tolist()
    assert ss / se == pytest.approx(4)  # the gradient of log L is that of L over L


def test_famo_steps_along_the_softmaxs_jacobian():
    weighting = LOSS_WEIGHTINGS["famo"](lr=0.1, weight_decay=0.0)
    with torch.no_grad():
        weighting.numbers.copy_(torch.tensor([0.4, -0.2]))
    fell = torch.tensor([0.3, -0.1], dtype=torch.float64)
    numbers = weighting.numbers.detach().clone().requires_grad_()
    (wanted,) = torch.autograd.grad(numbers.softmax(0), numbers, fell)
    weighting.update([1.0, 1.0], (1.0 - fell).tolist())
    torch.testing.assert_close(weighting.numbers.grad, wanted)


def test_losses_in_db_count_from_their_floor():
    weighting = LOSS_WEIGHTINGS["uncertainty"]()
    weighting.floors = (-30.0, -30.0)
    measured = weighting.measure(torch.tensor([[-10.0], [-31.0]]))
    assert measured[0].item() == 20 and 0 < measured[1].item() < 0.1


@pytest.mark.parametrize("rule", ["random(lr=1)", "uncertainty(lr=0)", "famo(weight_decay=-1)", "famo(speed=3)"])
def test_wrong_arguments_are_refused_in_words(rule):
    with pytest.raises(ModulationError, match=rule.partition("(")[0]):
        GradientModulation(rule)
