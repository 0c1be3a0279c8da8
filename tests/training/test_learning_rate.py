"""The learning rate: module by module, and that of the first step after a resume."""

import pytest
import torch
from speechbrain.nnet.schedulers import LinearScheduler, ReduceLROnPlateau

from unified_sess.training.learning_rate import LearningRate
from unified_sess.utils.errors import UserError


def modules():
    return torch.nn.ModuleDict({"encoder": torch.nn.Linear(1, 1), "masknet": torch.nn.Linear(1, 1)})


def rates(rate, optimizer):
    rate.apply(optimizer)
    return [group["lr"] for group in optimizer.param_groups]


@pytest.mark.parametrize("factor", [0, 0.1, 2])
@pytest.mark.parametrize("scheduler", [None, "plateau", "linear"])
def test_a_factor_of_0_is_no_division(factor, scheduler):
    """Regression: `lr_factors {encoder: 0}` ended in a ZeroDivisionError after the first epoch."""
    schedule = {None: None, "plateau": ReduceLROnPlateau(1e-8, 0.5, 0, 0), "linear": LinearScheduler(1, 0, 5)}[
        scheduler
    ]
    rate = LearningRate(1.0, {"encoder": factor}, schedule)
    optimizer = torch.optim.SGD(rate.groups(modules()))
    for epoch, loss in enumerate((1.0, 2.0, 3.0), 1):
        rate.end_epoch(epoch, loss)
        assert rates(rate, optimizer) == [rate.value * factor, rate.value]
    assert rate.value == {None: 1.0, "plateau": 0.25, "linear": 0.25}[scheduler]


def test_the_rate_asked_for_is_that_of_the_first_step_after_a_resume():
    """Regression: the optimizer's saved rate ran for a whole epoch."""
    first = LearningRate(2e-3, {}, LinearScheduler(2e-3, 4e-5, 6))
    for epoch in range(1, 6):
        first.end_epoch(epoch, 1.0)
    longer = LearningRate(2e-3, {}, LinearScheduler(2e-3, 4e-5, 11))
    longer.resume(5, first.state())
    assert longer.value == pytest.approx(2e-3 - 5 / 10 * (2e-3 - 4e-5))
    fixed = LearningRate(1e-5, {}, None)
    fixed.resume(5, first.state())
    assert fixed.value == 1e-5


def test_a_plateaus_rate_goes_on_unless_another_is_asked_for():
    first = LearningRate(1.0, {}, ReduceLROnPlateau(1e-8, 0.5, 0, 0))
    for epoch, loss in enumerate((1.0, 2.0, 3.0), 1):
        first.end_epoch(epoch, loss)
    same, other = (LearningRate(lr, {}, ReduceLROnPlateau()) for lr in (1.0, 0.1))
    for rate in (same, other):
        rate.resume(3, first.state())
    assert (same.value, other.value) == (0.25, 0.1)


def test_an_uninterrupted_and_a_resumed_run_have_the_very_same_rate():
    whole = LearningRate(2e-3, {"encoder": 0.3}, LinearScheduler(2e-3, 4e-5, 6))
    optimizer = torch.optim.SGD(whole.groups(modules()))
    for epoch in range(1, 4):
        whole.end_epoch(epoch, 1.0)
    resumed = LearningRate(2e-3, {"encoder": 0.3}, LinearScheduler(2e-3, 4e-5, 6))
    resumed.groups(modules())
    resumed.resume(3, whole.state())
    assert rates(whole, optimizer) == rates(resumed, optimizer)


def test_it_grows_over_the_first_steps_whatever_the_epochs():
    rate = LearningRate(0.8, {"encoder": 0.5}, None, warmup=4)
    optimizer = torch.optim.SGD(rate.groups(modules()))
    seen = []
    for step in range(1, 7):
        rate.warm_up(optimizer, step)
        seen.append([group["lr"] for group in optimizer.param_groups])
        if step == 2:
            rate.apply(optimizer)  # an epoch ends
    assert seen == [[f * 0.5, f] for f in (0.2, 0.4, 0.6000000000000001, 0.8, 0.8, 0.8)]


def test_nan_is_no_loss_to_compare_with():
    rate = LearningRate(1.0, {}, ReduceLROnPlateau(1e-8, 0.5, 0, 1))
    rate.end_epoch(1, float("nan"))
    for epoch in (2, 3, 4):
        rate.end_epoch(epoch, 1.0 / epoch)
    assert rate.value == 1.0


def test_a_checkpoint_of_before_the_rate_was_saved_tells_it():
    rate = LearningRate(1.0, {"encoder": 0}, ReduceLROnPlateau())
    optimizer = torch.optim.SGD(rate.groups(modules()))
    for group, factor, lr in zip(optimizer.param_groups, (0.0, 2.0), (0.0, 0.5)):
        group |= {"lr_factor": factor, "lr": lr}
    assert rate.state_of(optimizer) == {"asked": 1.0, "value": 0.25}


def test_nothing_to_train_is_one_line():
    with pytest.raises(UserError, match="every module is frozen"):
        LearningRate(1.0, {}).groups(modules().requires_grad_(False))
