"""SepFormer's layer norms and the linear layers behind them on a CPU, with hand-written backward passes.

On a CPU every elementwise operation on a large tensor costs time and memory beside the matrix products. These functions
do with fewer of them:

- gain and offset of a norm, and the bias of the linear layer behind it, become part of that layer's matrix;
- the hidden layer of the feed-forward network is overwritten in place;
- backward passes add gradients to tensors that exist already;
- signals go through in blocks of `ROWS_OF_A_BLOCK` rows, so that temporary tensors stay small.

Other devices, mixed precision and `torch.compile` take the plain operations, which also stand in each function here.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from unified_sess.nnet import kernels

ROWS_OF_A_BLOCK = 16384  # a signal of 7 s at 8 kHz in the published SepFormer, 64 MB of its hidden layer


def norm_projections(
    x: torch.Tensor, norm: nn.LayerNorm, weight: torch.Tensor, bias: torch.Tensor, parts: int
) -> tuple[torch.Tensor, Sequence[torch.Tensor]]:
    """Returns `x` and `linear(norm(x))` in `parts` equal parts, such as query, key and value.

    Use the `x` that is returned for the residual path: then its gradient arrives in the backward pass here and is added
    on the way, without an operation of its own.

    Arguments
    ---------
    x : torch.Tensor
        `[rows, channels]`.
    norm : torch.nn.LayerNorm
        Norm of the channels.
    weight, bias : torch.Tensor
        Of the linear layer: `[parts * width, channels]`, `[parts * width]`.
    parts : int
        Number of parts.

    Returns
    -------
    torch.Tensor, sequence of torch.Tensor
        `x`, and `parts` tensors `[rows, width]`, views of one.
    """
    if _in_blocks(x):
        keep = torch.is_grad_enabled()
        x, *y = _NormProjections.apply(x, norm.weight, norm.bias, norm.eps, weight, bias, parts, keep)
        return x, y
    return x, F.linear(norm(x), weight, bias).chunk(parts, dim=1)


def output_feed_forward(
    x: torch.Tensor, attended: torch.Tensor, output: nn.Linear, norm: nn.LayerNorm, wide: nn.Linear, narrow: nn.Linear
) -> torch.Tensor:
    """Returns `y + narrow(relu(wide(norm(y))))` of `y = x + output(attended)`.

    Arguments
    ---------
    x, attended : torch.Tensor
        `[rows, channels]`.
    norm : torch.nn.LayerNorm
        Norm of the channels.
    output, wide, narrow : torch.nn.Linear
        From channels to channels, to the hidden width and back, with biases.

    Returns
    -------
    torch.Tensor
        Of the shape of `x`.
    """
    if _in_blocks(x):
        weights = [p for linear in (output, wide, narrow) for p in (linear.weight, linear.bias)]
        return _OutputFeedForward.apply(
            x, attended, norm.weight, norm.bias, norm.eps, torch.is_grad_enabled(), *weights
        )
    x = x + output(attended)
    return x + narrow(wide(norm(x)).relu_())  # in place: no gradient needs what was there before


def _in_blocks(x: torch.Tensor) -> bool:
    return kernels.on_cpu(x) and not torch.is_autocast_enabled("cpu")


def _blocks(x: torch.Tensor) -> list[slice]:
    return [slice(start, start + ROWS_OF_A_BLOCK) for start in range(0, len(x), ROWS_OF_A_BLOCK)]


def _empty(x: torch.Tensor, width: int) -> torch.Tensor:
    """An empty tensor `[rows, width]` with as many rows as `x`.

    Each row has 16 unused numbers behind it: with rows a power of two apart, all numbers of a column would compete for
    the same few places of the cache.
    """
    return x.new_empty(len(x), width + 16)[:, :width]


def _matrix(gain: torch.Tensor, offset: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """The matrix M for which `_normal(x) @ M.t()` is `linear(norm(x))`.

    With z for the normalized rows, `linear(norm(x))` is `(gain * weight) z + b` with `b = weight @ offset + bias`.
    `_normal` gives z + 1. Each row of z sums to zero, so a constant c added to all `n` columns of a row of M adds c * n
    to its output, whatever z is. Choosing c so that the output gets b saves an addition over the whole output.
    """
    constant = torch.addmv(bias, weight, offset - gain) / len(gain)
    return torch.addcmul(constant[:, None], weight, gain)


def _gradients(
    grad_matrix: torch.Tensor | None, gain: torch.Tensor, offset: torch.Tensor, weight: torch.Tensor
) -> Sequence[torch.Tensor | None]:
    """Gradients of gain, offset, weight and bias from the gradient of `_matrix`, which is overwritten; None for None."""
    if grad_matrix is None:
        return [None] * 4
    grad_bias = grad_matrix.mean(1)  # each row of `_normal(x)` has a mean of 1
    grad_offset = grad_bias @ weight
    grad_gain = (grad_matrix * weight).sum(0) - grad_offset
    return grad_gain, grad_offset, grad_matrix.mul_(gain).addr_(grad_bias, offset - gain), grad_bias


def _normal(x: torch.Tensor, eps: float) -> tuple[torch.Tensor, torch.Tensor]:
    """`x` with its rows normalized to mean 1 and variance 1, and 1 / standard deviation of each row `[rows, 1]`."""
    one = x.new_ones(x.shape[1])
    y, _, scale = torch.native_layer_norm(x, one.shape, one, one, eps)
    return y, scale


def _normal_backward(
    grad: torch.Tensor, normal: torch.Tensor, scale: torch.Tensor, residual: torch.Tensor, out: torch.Tensor | None
) -> torch.Tensor:
    """Returns the gradient at `x` for a gradient at `_normal(x)`, plus `residual`; written into `out` where given."""
    one = torch.ones_like(scale)  # mean and inverse deviation of the rows in `normal`
    grad, _, _ = torch.ops.aten.native_layer_norm_backward(
        grad, normal, normal.shape[1:], one, one, None, None, [True, False, False]
    )
    return torch.addcmul(residual, grad, scale, out=out)


class _Product:
    """The backward pass of `x @ matrix.t()`, block by block; sums the matrix's gradient where it is wanted."""

    def __init__(self, matrix: torch.Tensor, wanted: bool) -> None:
        self.matrix, self.beta = matrix, 0  # beta 0: nothing to add to yet
        self.grad_matrix = torch.empty_like(matrix) if wanted else None

    def backward(self, grads: Sequence[torch.Tensor], x: torch.Tensor, out: torch.Tensor | None = None) -> Any:
        """Returns the gradient at a block `x`, given the gradients at the equal parts of its product."""
        places = [None] * len(grads) if self.grad_matrix is None else self.grad_matrix.chunk(len(grads))
        for part, (grad, matrix, place) in enumerate(zip(grads, self.matrix.chunk(len(grads)), places, strict=True)):
            if place is not None:
                _add_product(place, grad.t(), x, beta=self.beta)
            out = _add_product(out, grad, matrix) if part else torch.mm(grad, matrix, out=out)
        self.beta = 1
        return out


def _add_product(x: torch.Tensor, one: torch.Tensor, other: torch.Tensor, beta: int = 1) -> torch.Tensor:
    return torch.addmm(x, one, other, beta=beta, out=x)  # as `addmm_`, which PyTorch's counter of operations misses


def _sum_of_rows(x: torch.Tensor) -> torch.Tensor:
    return torch.mv(x.t(), x.new_ones(len(x)))  # half the time of `x.sum(0)`


class _NormProjections(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        gain: torch.Tensor,
        offset: torch.Tensor,
        eps: float,
        weight: torch.Tensor,
        bias: torch.Tensor,
        parts: int,
        keep: bool,
    ) -> tuple[torch.Tensor, ...]:
        matrix, y = _matrix(gain, offset, weight, bias), _empty(x, len(weight))
        kept: list[torch.Tensor] = []
        for rows in _blocks(x):
            normal, scale = _normal(x[rows], eps)
            torch.mm(normal, matrix.t(), out=y[rows])
            if keep:
                kept += normal, scale
        ctx.save_for_backward(gain, offset, weight, matrix, *kept)
        return x, *y.chunk(parts, dim=1)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, residual: torch.Tensor, *grads: torch.Tensor) -> tuple:
        gain, offset, weight, matrix, *kept = ctx.saved_tensors
        product, grad_x = _Product(matrix, any(ctx.needs_input_grad[1:])), torch.empty_like(residual)
        for rows, normal, scale in zip(_blocks(grad_x), kept[::2], kept[1::2], strict=True):
            grad_normal = product.backward([grad[rows] for grad in grads], normal)
            _normal_backward(grad_normal, normal, scale, residual[rows], out=grad_x[rows])
        grad_gain, grad_offset, *grad_linear = _gradients(product.grad_matrix, gain, offset, weight)
        return grad_x, grad_gain, grad_offset, None, *grad_linear, None, None


class _OutputFeedForward(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        attended: torch.Tensor,
        gain: torch.Tensor,
        offset: torch.Tensor,
        eps: float,
        keep: bool,
        *weights: torch.Tensor,
    ) -> torch.Tensor:
        output, output_bias, wide, wide_bias, narrow, narrow_bias = weights
        matrix, y = _matrix(gain, offset, wide, wide_bias), torch.empty_like(x)
        kept: list[torch.Tensor] = []
        for rows in _blocks(x):
            middle = _add_product(x[rows] + output_bias, attended[rows], output.t())
            normal, scale = _normal(middle, eps)
            hidden = torch.mm(normal, matrix.t(), out=_empty(normal, len(matrix))).relu_()
            _add_product(torch.add(middle, narrow_bias, out=y[rows]), hidden, narrow.t())
            if keep:
                kept += normal, scale, hidden
        ctx.save_for_backward(attended, gain, offset, output, wide, narrow, matrix, *kept)
        return y

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple:
        attended, gain, offset, output, wide, narrow, matrix, *kept = ctx.saved_tensors
        wanted = ctx.needs_input_grad
        first, last = _Product(output, wanted[6]), _Product(narrow, wanted[10])
        middle = _Product(matrix, any(wanted[2:4] + wanted[8:10]))
        grad_x, grad_attended = torch.empty_like(grad), torch.empty_like(attended)
        for rows, normal, scale, hidden in zip(_blocks(grad), kept[::3], kept[1::3], kept[2::3], strict=True):
            grad_hidden = last.backward([grad[rows]], hidden, out=_empty(hidden, hidden.shape[1]))
            torch.ops.aten.threshold_backward.grad_input(grad_hidden, hidden, 0, grad_input=grad_hidden)
            grad_normal = middle.backward([grad_hidden], normal)
            _normal_backward(grad_normal, normal, scale, grad[rows], out=grad_x[rows])
            first.backward([grad_x[rows]], attended[rows], out=grad_attended[rows])
        grad_gain, grad_offset, *grad_wide = _gradients(middle.grad_matrix, gain, offset, wide)
        weights = first.grad_matrix, _sum_of_rows(grad_x), *grad_wide, last.grad_matrix, _sum_of_rows(grad)
        return grad_x, grad_attended, grad_gain, grad_offset, None, None, *weights
