"""Rules of one backward pass: each task's loss gets a weight before the pass, and the gradients are added.

They are the controls of the rules that take two passes: what a weight does, no projection is needed for. A weight is
for `lambda * L_SE` or for L_SS; the two sum to 2, so that equal weights are the plain sum.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch

TASKS = 2  # enhancement, separation: the order of all pairs here
SMALLEST = 1e-3  # dB or units of the loss above its floor, under which a logarithm says nothing


class LossWeighting:
    """Weights of the two losses, from what the steps so far have shown.

    Attributes
    ----------
    floors : pair of floats
        The lowest value of L_SE and of L_SS; a loss counts from there, since those in dB are negative.
    needs_losses_after : bool
        Whether `update` wants the losses of the step's batches again after the step: one more forward pass.
    """

    needs_losses_after = False

    def __init__(self) -> None:
        self.floors: tuple[float, float] = (0.0, 0.0)

    def weights(self, losses: torch.Tensor) -> torch.Tensor:
        """Losses `[2, batch]` (SE, SS) to weights `[2, batch]`, which sum to 2 and carry no history."""
        raise NotImplementedError

    def measure(self, losses: torch.Tensor) -> torch.Tensor:
        """Losses `[2, batch]` to the numbers `[2, batch]` whose means over the step's utterances `update` wants."""
        return self._above_floor(losses)

    def update(self, before: Sequence[float], after: Sequence[float] | None = None) -> None:
        """Learn from a step: the means of `measure` before it and, where asked for, after it."""

    def state_dict(self) -> dict[str, Any]:
        """All that the next weights depend on."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on with a saved state."""

    def _above_floor(self, losses: torch.Tensor) -> torch.Tensor:
        floors = torch.tensor(self.floors, dtype=losses.dtype, device=losses.device)
        return (losses.detach() - floors[:, None]).clamp(min=SMALLEST)


def _normalised(weights: torch.Tensor) -> torch.Tensor:
    return TASKS * weights / weights.sum(0)


def _of_each_utterance(weights: torch.Tensor, losses: torch.Tensor) -> torch.Tensor:
    return weights.to(losses.device, losses.dtype)[:, None].expand(losses.shape)


class RandomWeighting(LossWeighting):
    """Random loss weighting, arXiv 2111.10603: the softmax of two normal numbers, drawn anew for every step."""

    def __init__(self) -> None:
        super().__init__()
        self.seed, self.steps = torch.initial_seed(), 0

    def weights(self, losses: torch.Tensor) -> torch.Tensor:
        generator = torch.Generator().manual_seed((self.seed + 7919 * self.steps) % 2**63)  # alike on all ranks
        drawn = torch.randn(TASKS, dtype=torch.float64, generator=generator)
        return _of_each_utterance(_normalised(drawn.softmax(0)), losses)

    def update(self, before: Sequence[float], after: Sequence[float] | None = None) -> None:
        self.steps += 1

    def state_dict(self) -> dict[str, Any]:
        return {"seed": self.seed, "steps": self.steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.seed, self.steps = state["seed"], state["steps"]


class LearntWeighting(LossWeighting):
    """Weights that follow from two numbers, which Adam learns.

    Arguments
    ---------
    lr : float
        Learning rate of the two numbers, above 0.
    weight_decay : float
        Pull of the two numbers towards 0, not negative.

    Raises
    ------
    ValueError
        For other numbers.
    """

    def __init__(self, lr: float, weight_decay: float = 0.0) -> None:
        super().__init__()
        if not 0 < float(lr) < math.inf or not 0 <= float(weight_decay) < math.inf:
            raise ValueError("lr must be above 0 and weight_decay not negative")
        self.numbers = torch.zeros(TASKS, dtype=torch.float64, requires_grad=True)
        self.optimizer = torch.optim.Adam([self.numbers], lr=float(lr), weight_decay=float(weight_decay))

    def _step(self, gradient: torch.Tensor) -> None:
        if gradient.isfinite().all():
            self.numbers.grad = gradient
            self.optimizer.step()

    def state_dict(self) -> dict[str, Any]:
        return {"numbers": self.numbers.detach().clone(), "optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        with torch.no_grad():
            self.numbers.copy_(state["numbers"])
        made = {name: self.optimizer.param_groups[0][name] for name in ("lr", "weight_decay")}
        self.optimizer.load_state_dict(state["optimizer"])
        self.optimizer.param_groups[0].update(made)  # arguments may have changed since


class UncertaintyWeighting(LearntWeighting):
    """Uncertainty weighting, arXiv 1705.07115: the sum of exp(-s) L + s of both tasks, over the network and both s.

    The authors learn s = log sigma^2 with the network's optimizer, here with an Adam of its own. It is derived for
    squared errors; at the best s a weight is 1 / L, so a loss in dB, the logarithm of a squared error, has it already.
    """

    def __init__(self, lr: float = 0.01) -> None:
        super().__init__(lr)

    def weights(self, losses: torch.Tensor) -> torch.Tensor:
        return _of_each_utterance(_normalised((-self.numbers.detach()).exp()), losses)

    def update(self, before: Sequence[float], after: Sequence[float] | None = None) -> None:
        losses = torch.tensor(before, dtype=torch.float64)
        self._step(1 - (-self.numbers.detach()).exp() * losses)


class FAMO(LearntWeighting):
    """Fast adaptive multitask optimisation, arXiv 2306.03792, algorithm 1: tasks that improved less weigh more.

    With z = softmax(xi), the step goes along the sum of z_i times the gradient of log L_i. Then xi learns from
    how much each log L_i fell, measured on the same mixtures after the step. The paper has one loss of each task a step;
    here the logarithm is that of each utterance, so that accumulation and ranks change nothing.

    Arguments
    ---------
    lr : float
        Of xi; the authors' program has 0.025.
    weight_decay : float
        Of xi; the paper's gamma, in the authors' program 0.001.
    """

    needs_losses_after = True

    def __init__(self, lr: float = 0.025, weight_decay: float = 0.001) -> None:
        super().__init__(lr, weight_decay)

    def weights(self, losses: torch.Tensor) -> torch.Tensor:
        shares = _of_each_utterance(self.numbers.detach().softmax(0), losses)
        return _normalised(shares / self._above_floor(losses))

    def measure(self, losses: torch.Tensor) -> torch.Tensor:
        return self._above_floor(losses).log()

    def update(self, before: Sequence[float], after: Sequence[float] | None = None) -> None:
        assert after is not None
        fell = torch.tensor(before, dtype=torch.float64) - torch.tensor(after, dtype=torch.float64)
        shares = self.numbers.detach().softmax(0)
        self._step(shares * (fell - shares @ fell))  # the softmax's Jacobian times `fell`


LOSS_WEIGHTINGS: dict[str, Callable[..., LossWeighting]] = {
    "random": RandomWeighting,
    "uncertainty": UncertaintyWeighting,
    "famo": FAMO,
}
