"""PReLU with one slope, whose backward pass on a CPU costs as much as that of a plain ReLU."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from unified_sess.nnet import kernels


class PReLU(nn.PReLU):
    """PReLU with one learned slope: same parameters, same numbers as `torch.nn.PReLU`.

    On a CPU PyTorch computes the gradient of the slope element by element, which costs seven times the rest. Here the
    sum is one dot product. Other devices and `torch.compile` use PyTorch's.

    Arguments
    ---------
    init : float
        First value of the slope.

    Example
    -------
    >>> PReLU()(torch.tensor([-4.0, 2.0]))
    tensor([-1.,  2.], grad_fn=<_OneSlopeBackward>)
    """

    def __init__(self, init: float = 0.25) -> None:
        super().__init__(num_parameters=1, init=init)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Returns `x` with its negative values multiplied by the slope, any shape."""
        return prelu(x, self.weight)


def prelu(x: torch.Tensor, slope: torch.Tensor) -> torch.Tensor:
    """Returns `x` with its negative values multiplied by `slope`, a tensor of one element."""
    if kernels.on_cpu(x):
        return _OneSlope.apply(x, slope)
    return F.prelu(x, slope)


class _OneSlope(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, slope: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(x, slope)
        return F.leaky_relu(x, slope.item())

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple:
        x, slope = ctx.saved_tensors
        grad_slope = x.clamp(max=0).mul_(grad).sum(dtype=slope.dtype).view_as(slope)
        return torch.ops.aten.leaky_relu_backward(grad, x, slope.item(), False), grad_slope
