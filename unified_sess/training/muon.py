"""Muon: matrices take orthogonal steps, everything else those of AdamW."""

from collections.abc import Callable, Iterable

import torch

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)  # coefficients of the odd polynomial of degree 5 (Jordan et al. 2024)


class MuonAdamW(torch.optim.AdamW):
    """Muon for the matrices of a network, AdamW for its biases, norms and filters (arXiv 2502.16982).

    The step of a matrix is its momentum with all singular values brought near 1, so that no direction of the weights has
    to wait for the others. All four gates of an LSTM are one matrix.

    Arguments
    ---------
    params : iterable
        Parameters or groups of them, as any optimizer takes them.
    lr : float
        Learning rate.
    betas : (float, float)
        Of AdamW's averages.
    weight_decay : float
        Share of the learning rate by which weights shrink in a step.
    momentum : float
        Of the matrices, Nesterov's.
    rms : float
        Root mean square of a matrix's step relative to the learning rate; AdamW's is about 0.2 (section 2.2).
    muon : bool
        False: AdamW for all.

    Example
    -------
    >>> layer = torch.nn.Linear(4, 3)
    >>> optimizer = MuonAdamW(layer.parameters(), lr=0.01)
    >>> layer(torch.ones(2, 4)).square().sum().backward()
    >>> optimizer.step()
    """

    def __init__(
        self,
        params: Iterable,
        lr: float = 0.001,
        betas: tuple[float, float] = (0.9, 0.999),
        weight_decay: float = 0.0,
        momentum: float = 0.95,
        rms: float = 0.2,
        muon: bool = True,
    ) -> None:
        super().__init__(params, lr=lr, betas=(betas[0], betas[1]), weight_decay=weight_decay, fused=True)
        self.momentum, self.rms, self.muon = momentum, rms, muon
        # A fused step can do itself what a scaler of fp16 does, but for its own weights alone.
        self._step_supports_amp_scaling = not muon

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Take a step; a weight without a gradient stays. A closure, which computes gradients anew, comes first."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        matrices = [self._with_gradient(group) for group in self.param_groups]
        gradients = [[p.grad for p in group] for group in matrices]
        for parameter in (p for group in matrices for p in group):
            parameter.grad = None  # AdamW passes it over
        super().step()
        for group, parameters, found in zip(self.param_groups, matrices, gradients, strict=True):
            for parameter, gradient in zip(parameters, found, strict=True):
                parameter.grad = gradient
            self._step_matrices(group, parameters)
        return loss

    def load_state_dict(self, state_dict: dict) -> None:
        """Go on with a saved state; what the other kind of step has saved for a weight is forgotten."""
        super().load_state_dict(state_dict)
        for group in self.param_groups:
            for parameter in group["params"]:
                name = "momentum" if self.muon and is_matrix(parameter) else "exp_avg"
                if name not in self.state.get(parameter, {name: None}):
                    del self.state[parameter]

    def _with_gradient(self, group):
        return [p for p in group["params"] if self.muon and p.grad is not None and is_matrix(p)]

    def _step_matrices(self, group, parameters):
        alike: dict[torch.Size, list] = {}  # matrices of one size are stepped together
        for parameter in parameters:
            state = self.state[parameter]
            if not state:
                state |= {"step": torch.zeros(()), "momentum": torch.zeros_like(parameter)}  # AdamW looks for a step
            state["step"] += 1
            average = state["momentum"]
            average.lerp_(parameter.grad, 1 - self.momentum)
            alike.setdefault(parameter.shape, []).append((parameter, parameter.grad.lerp(average, self.momentum)))
        for shape, pairs in alike.items():
            steps = orthogonal(torch.stack([step for _, step in pairs]).flatten(2))
            length = self.rms * max(steps.shape[1:]) ** 0.5
            for (parameter, _), step in zip(pairs, steps, strict=True):
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                parameter.sub_(group["lr"] * length * step.view(shape))


def is_matrix(parameter: torch.Tensor) -> bool:
    """Whether a weight has two dimensions, those of one element at its end aside, as in convolutions over one point."""
    return parameter.ndim > 1 and min(parameter.shape[:2]) > 1 and parameter[0, 0].numel() == 1


def orthogonal(matrices: torch.Tensor, iterations: int = 5) -> torch.Tensor:
    """Bring the singular values of matrices near 1 by a Newton-Schulz iteration.

    Arguments
    ---------
    matrices : torch.Tensor, [count, rows, columns]
        Of any length; one of zeros stays so.
    iterations : int
        Each brings small singular values nearer to 1.

    Returns
    -------
    matrices : torch.Tensor, [count, rows, columns]
        Singular values of 0.7 to 1.2, where they were at least a fiftieth of the largest.
    """
    a, b, c = NEWTON_SCHULZ
    x = matrices / matrices.norm(dim=(1, 2), keepdim=True).clamp_min(torch.finfo(matrices.dtype).tiny)
    tall = x.shape[1] > x.shape[2]
    left = x.mT if tall else x
    # X becomes P X with P = a + b S + c S^2, S = X X^T; all of it happens in S, which is the smaller one.
    square, identity = torch.bmm(left, left.mT), torch.eye(left.shape[1]).to(left)
    product = identity.expand_as(square)
    for _ in range(iterations):
        factor = torch.baddbmm(a * identity + b * square, square, square, alpha=c)
        product = torch.bmm(factor, product)
        square = torch.bmm(torch.bmm(factor, square), factor)
    return torch.bmm(x, product.mT) if tall else torch.bmm(product, x)
