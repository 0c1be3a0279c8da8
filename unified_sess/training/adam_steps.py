"""What Adam makes of a gradient: the factors that turn it into the direction in which the weights go."""

from collections.abc import Sequence

import torch

from unified_sess.training.muon import MuonAdamW


def takes_adam_steps(optimizer: torch.optim.Optimizer) -> bool:
    """Whether all its steps are Adam's, so that `adam_factors` describes them."""
    if isinstance(optimizer, MuonAdamW):
        return not optimizer.muon
    return isinstance(optimizer, (torch.optim.Adam, torch.optim.AdamW))


def adam_factors(optimizer: torch.optim.Optimizer, parameters: Sequence[torch.Tensor]) -> list[torch.Tensor] | None:
    """Factor of every weight's gradient in the next step, lr / (sqrt(v) + eps), momentum aside.

    v is Adam's mean square of the gradients of the steps so far, corrected for its start at 0.

    Arguments
    ---------
    optimizer : torch.optim.Optimizer
        Adam or a sibling that keeps `exp_avg_sq` for each of them.
    parameters : list of torch.Tensor
        Of its parameters.

    Returns
    -------
    factors : list of torch.Tensor
        Of the parameters' shapes; None before the first step, and where the optimizer keeps no mean square.
    """
    group_of = {id(p): group for group in optimizer.param_groups for p in group["params"]}
    states = [optimizer.state.get(p) or {} for p in parameters]
    if any("exp_avg_sq" not in state for state in states):
        return None
    factors = []
    for parameter, state in zip(parameters, states):
        group = group_of[id(parameter)]
        steps = torch.as_tensor(state["step"], device=parameter.device)
        mean_square = state["exp_avg_sq"] / (1 - group["betas"][1] ** steps)
        factors.append(group["lr"] / (mean_square.sqrt() + group["eps"]))
    return factors
