"""A transformer layer around its attention as two steps of autograd, for a GPU.

A training step of these networks waits for the processor that launches the kernels, not for the GPU. Two steps of our
own need half the launches of single operations: mixed precision casts the weights of all layers at once, gradients of
weights leave the matrix product in single precision, and nothing is recorded in between. Of a layer only its input,
query, key and value, what attention gave and the sum with it are kept; norms and hidden layer are computed again.
On a CPU, where a matrix product costs more than memory, PyTorch's operations are as fast.
"""

from collections.abc import Sequence
from typing import Any

import torch


def weights_of(layer: Any) -> list[torch.Tensor]:
    """Weight and bias of query, key and value, of the attention's output, and of the wide and narrow linear layers."""
    attention, (wide, _, _, narrow) = layer.self_att.att, layer.pos_ffn.ffn
    weights = [attention.in_proj_weight, attention.in_proj_bias]
    for linear in (attention.out_proj, wide, narrow):
        weights += linear.weight, linear.bias
    return weights


@torch.no_grad()
def cast_together(tensors: Sequence[torch.Tensor], dtype: torch.dtype) -> list[torch.Tensor]:
    """Returns copies of many tensors in another type, made together in a few kernels."""
    flat = torch.cat([tensor.reshape(-1) for tensor in tensors]).to(dtype)
    parts = flat.split([tensor.numel() for tensor in tensors])
    return [part.view(tensor.shape) for part, tensor in zip(parts, tensors, strict=True)]


class NormProjections(torch.autograd.Function):
    """Query, key and value `[rows, channels]` each, of `x` `[rows, channels]`.

    Arguments: `x`, gain, offset and eps of the norm, weight and bias of the projections, and copies of these two in the
    type to calculate in, which get no gradient.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        gain: torch.Tensor,
        offset: torch.Tensor,
        eps: float,
        weight: torch.Tensor,
        bias: torch.Tensor,
        weight_copy: torch.Tensor,
        bias_copy: torch.Tensor,
    ) -> tuple[torch.Tensor, ...]:
        ctx.save_for_backward(x, gain, offset, weight_copy)
        ctx.eps = eps
        normal = _norm(x, gain, offset, eps)[0]
        return torch.addmm(bias_copy, normal.to(weight_copy.dtype), weight_copy.t()).chunk(3, dim=1)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple:
        x, gain, offset, weight = ctx.saved_tensors
        grad = torch.cat(grads, dim=1)
        normal, mean, scale = _norm(x, gain, offset, ctx.eps)
        grad_weight = _product(grad.t(), normal.to(weight.dtype), gain.dtype) if ctx.needs_input_grad[4] else None
        grad_bias = grad.sum(0, dtype=gain.dtype)
        grad_x, *grad_norm = _norm_backward(_product(grad, weight, gain.dtype), x, mean, scale, gain, offset)
        return grad_x.to(x.dtype), *grad_norm, None, grad_weight, grad_bias, None, None


class OutputFeedForward(torch.autograd.Function):
    """The layer's output `[rows, channels]` from its input `x` and what attention gave, both `[rows, channels]`.

    Arguments: `x`, attended, gain, offset and eps of the second norm, then weight and bias of the attention's output
    and of the wide and narrow maps, and copies of these six in the type to calculate in, which get no gradient.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        attended: torch.Tensor,
        gain: torch.Tensor,
        offset: torch.Tensor,
        eps: float,
        *weights: torch.Tensor,
    ) -> torch.Tensor:
        output, output_bias, *wide, narrow, narrow_bias = weights[6:]
        middle = x + torch.addmm(output_bias, attended, output.t())
        hidden = _hidden(_norm(middle, gain, offset, eps)[0], *wide)
        ctx.save_for_backward(attended, middle, gain, offset, output, *wide, narrow)
        ctx.eps = eps
        return middle + torch.addmm(narrow_bias, hidden, narrow.t())

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple:
        attended, middle, gain, offset, output, *wide, narrow = ctx.saved_tensors
        to_weight = ctx.needs_input_grad[5:11:2]
        exact, dtype = gain.dtype, narrow.dtype
        normal, mean, scale = _norm(middle, gain, offset, ctx.eps)
        normal = normal.to(dtype)
        hidden = _hidden(normal, *wide)

        grad_narrow_bias, half = grad.sum(0, dtype=exact), grad.to(dtype)
        grad_narrow = _product(half.t(), hidden, exact) if to_weight[2] else None
        grad_hidden = torch.ops.aten.threshold_backward(half @ narrow, hidden, 0)
        del hidden
        grad_wide = _product(grad_hidden.t(), normal, exact) if to_weight[1] else None
        grad_wide_bias = grad_hidden.sum(0, dtype=exact)
        grad_normal = _product(grad_hidden, wide[0], exact)
        grad_middle, *grad_norm = _norm_backward(grad_normal, middle, mean, scale, gain, offset)
        grad_middle += grad

        grad_output_bias, half = grad_middle.sum(0, dtype=exact), grad_middle.to(dtype)
        grad_output = _product(half.t(), attended, exact) if to_weight[0] else None
        grads = grad_output, grad_output_bias, grad_wide, grad_wide_bias, grad_narrow, grad_narrow_bias
        return grad_middle.to(middle.dtype), half @ output, *grad_norm, None, *grads, *[None] * 6


def _hidden(normal: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    return torch.addmm(bias, normal.to(weight.dtype), weight.t()).relu_()


def _norm(x: torch.Tensor, gain: torch.Tensor, offset: torch.Tensor, eps: float) -> Any:
    """Output, means and inverse deviations, in the type of the gain."""
    return torch.native_layer_norm(x.to(gain.dtype), gain.shape, gain, offset, eps)


def _norm_backward(
    grad: torch.Tensor,
    x: torch.Tensor,
    mean: torch.Tensor,
    scale: torch.Tensor,
    gain: torch.Tensor,
    offset: torch.Tensor,
) -> Any:
    x = x.to(gain.dtype)
    return torch.ops.aten.native_layer_norm_backward(grad, x, gain.shape, mean, scale, gain, offset, [True] * 3)


def _product(one: torch.Tensor, other: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Matrix product in `dtype`, whatever its factors are."""
    if one.dtype is dtype:
        return one @ other
    if one.device.type == "cuda":
        return torch.mm(one, other, out_dtype=dtype)  # never rounded in between
    return (one @ other).to(dtype)
