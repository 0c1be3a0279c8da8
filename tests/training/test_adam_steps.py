"""Adam's factors, against Adam itself."""

import torch

from unified_sess.training.adam_steps import adam_factors


def test_the_factor_times_the_gradient_is_adam_s_step_without_momentum():
    weights = [torch.nn.Parameter(torch.randn(4, generator=torch.Generator().manual_seed(k))) for k in range(2)]
    groups = [{"params": weights[:1], "lr": 0.1}, {"params": weights[1:], "lr": 0.01}]
    adam = torch.optim.Adam(groups, betas=(0.0, 0.9))
    assert adam_factors(adam, weights) is None
    for step in range(3):
        before = [w.detach().clone() for w in weights]
        for k, w in enumerate(weights):
            w.grad = torch.randn(4, generator=torch.Generator().manual_seed(10 * step + k))
        adam.step()
        for w, old, factor in zip(weights, before, adam_factors(adam, weights)):
            torch.testing.assert_close(old - w, factor * w.grad)
