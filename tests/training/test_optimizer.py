"""The optimizer of a training that is resumed."""

import copy
from functools import partial

import pytest
import torch

from tests.networks import brain_settings, tiny_modules
from unified_sess.training.brain import UnifiedBrain


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
