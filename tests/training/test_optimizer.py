"""The optimizer of a training that is resumed."""

import copy
import math
from functools import partial

import pytest
import torch

from tests.networks import brain_settings, random_batch, tiny_modules
from unified_sess.training.brain import UnifiedBrain
from unified_sess.training.checkpoints import options_as_made


def trained_brain(fused):
    adam = partial(torch.optim.Adam, lr=1e-3, fused=fused)
    brain = UnifiedBrain(tiny_modules(), adam, brain_settings(), {"device": "cpu"})
    brain.init_optimizers()
    step(brain)
    return brain


def step(brain):
    """A step as in fp16."""
    scaler = torch.amp.GradScaler("cpu", init_scale=16.0)
    scaler.scale(sum(p.square().sum() for p in brain.modules.parameters())).backward()
    scaler.unscale_(brain.optimizer)
    scaler.step(brain.optimizer)
    brain.optimizer.zero_grad()


@pytest.mark.parametrize("fused", [True, False])
def test_a_checkpoint_of_the_other_kind_of_step_trains_on(fused):
    """PyTorch takes `fused` from the checkpoint, but its scaler looks at how the optimizer was made."""
    before, after = trained_brain(not fused), trained_brain(fused)
    after.modules.load_state_dict(before.modules.state_dict())
    after.optimizer.load_state_dict(copy.deepcopy(before.optimizer.state_dict()))  # as from a file
    assert all(group["fused"] is fused for group in after.optimizer.param_groups)
    for brain in (before, after):
        step(brain)
    for wanted, found in zip(before.modules.parameters(), after.modules.parameters(), strict=True):
        torch.testing.assert_close(found, wanted)


def test_weights_shrink_as_the_experiment_says_after_a_checkpoint_of_adam():
    before = trained_brain(True)
    adam = partial(torch.optim.AdamW, lr=1e-3, fused=True, weight_decay=0.01)
    after = UnifiedBrain(tiny_modules(), adam, brain_settings(), {"device": "cpu"})
    after.init_optimizers()
    after.optimizer.load_state_dict(copy.deepcopy(before.optimizer.state_dict()))
    assert {group["weight_decay"] for group in after.optimizer.param_groups} == {0.01}
    assert all(group["decoupled_weight_decay"] for group in after.optimizer.param_groups)


def test_options_of_a_checkpoint_give_way_to_those_of_now():
    """Changed betas were lost when a run went on, and recorded as if they had been used."""
    weight = torch.nn.Parameter(torch.ones(2))
    before, after = (torch.optim.Adam([weight], lr=0.1, betas=betas) for betas in ((0.9, 0.98), (0.5, 0.6)))
    before.param_groups[0]["lr"] = 0.03  # of a schedule
    after.register_load_state_dict_pre_hook(options_as_made)
    after.load_state_dict(before.state_dict())
    assert after.param_groups[0]["betas"] == (0.5, 0.6) and after.param_groups[0]["lr"] == 0.03


def test_without_weight_decay_adamw_is_adam():
    modules, results = tiny_modules(), []
    for kind in (torch.optim.Adam, partial(torch.optim.AdamW, weight_decay=0.0)):
        brain = UnifiedBrain(
            copy.deepcopy(modules), partial(kind, lr=1e-3, fused=True), brain_settings(), {"device": "cpu"}
        )
        brain.init_optimizers()
        for _ in range(3):
            step(brain)
        results.append([p.detach() for p in brain.modules.parameters()])
    assert all(torch.equal(one, other) for one, other in zip(*results, strict=True))


@pytest.mark.parametrize("factor", [1, 3])
def test_a_step_waits_for_the_device_once(factor, monkeypatch):
    """Regression: `.cpu()` of the loss was a second wait for the device in every step."""
    brain = UnifiedBrain(tiny_modules(), partial(torch.optim.SGD, lr=1e-3), brain_settings(), {"device": "cpu"})
    brain.init_optimizers()
    brain.grad_accumulation_factor = factor
    waits = []
    # Reading a value waits. Lengths stay on the host, where `tolist` of whole numbers reads them, and the CPU's own
    # kernels take numbers from weights by `item`.
    for name in ("cpu", "tolist", "__float__", "__bool__", "numpy"):
        original = getattr(torch.Tensor, name)

        def counted(tensor, *args, original=original, name=name, **kwargs):
            if tensor.is_floating_point():
                waits.append(name)
            return original(tensor, *args, **kwargs)

        monkeypatch.setattr(torch.Tensor, name, counted)
    losses = []
    for step in range(1, 2 * factor + 1):
        brain.step = step
        losses.append(brain.fit_batch(random_batch([400, 400], seed=step)))
    assert waits == ["tolist"] * 2
    monkeypatch.undo()
    known = [bool(loss.isfinite()) for loss in losses]
    assert known == ([False] * (factor - 1) + [True]) * 2


def test_the_progress_bar_shows_the_mean_of_the_windows():
    brain = trained_brain(fused=False)
    brain.grad_accumulation_factor = 2
    mean = 0.0
    for brain.step, loss in enumerate((math.nan, 4.0, math.nan, 8.0), 1):
        mean = brain.update_average(torch.tensor(loss), mean)
    assert mean == 6.0
