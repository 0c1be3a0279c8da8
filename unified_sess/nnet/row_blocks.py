"""Layer norm and the linear layers behind it, in little memory, for a CPU in single precision.

Fetching fresh memory for a large tensor costs a CPU about as much as filling it. So the output of the norm is computed
again in the backward pass instead of kept, the hidden layer is worked on in place, and long signals pass block by
block. Other devices, mixed precision and `torch.compile` use the plain operations.
"""

import torch
import torch.nn.functional as F

BLOCK = 16384  # rows; a signal of 7 s at 8 kHz in the published SepFormer, 64 MB of its hidden layer


def norm_projections(x, norm, weight, bias, parts):
    """Returns the `parts` equal parts of `linear(norm(x))`, such as query, key and value.

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
    sequence of torch.Tensor
        `parts` tensors `[rows, width]`, views of one.
    """
    if _in_blocks(x):
        return _NormProjections.apply(x, norm.weight, norm.bias, norm.eps, weight, bias, parts)
    return F.linear(norm(x), weight, bias).chunk(parts, dim=1)


def norm_feed_forward(x, norm, wide, narrow):
    """Returns `x + narrow(relu(wide(norm(x))))`.

    Arguments
    ---------
    x : torch.Tensor
        `[rows, channels]`.
    norm : torch.nn.LayerNorm
        Norm of the channels.
    wide, narrow : torch.nn.Linear
        From channels to the hidden width and back, with biases.

    Returns
    -------
    torch.Tensor
        Of the shape of `x`.
    """
    if _in_blocks(x):
        weights = wide.weight, wide.bias, narrow.weight, narrow.bias
        return _NormFeedForward.apply(x, norm.weight, norm.bias, norm.eps, *weights, torch.is_grad_enabled())
    return x + narrow(wide(norm(x)).relu_())  # in place: no gradient needs what was there before


def _in_blocks(x):
    return x.device.type == "cpu" and not torch.is_autocast_enabled("cpu") and not torch.compiler.is_compiling()


def _blocks(x):
    return [slice(start, start + BLOCK) for start in range(0, len(x), BLOCK)]


class _Norm:
    """Layer norm of one block, and its backward pass, which adds to the gradients of gain and offset."""

    def __init__(self, gain, offset, eps):
        self.gain, self.offset, self.eps = gain, offset, eps
        self.grad_gain, self.grad_offset = torch.zeros_like(gain), torch.zeros_like(offset)

    def forward(self, x):
        y, self.mean, self.scale = torch.native_layer_norm(x, self.gain.shape, self.gain, self.offset, self.eps)
        return y

    def backward(self, grad, x):
        grad_x, grad_gain, grad_offset = torch.ops.aten.native_layer_norm_backward(
            grad, x, self.gain.shape, self.mean, self.scale, self.gain, self.offset, [True] * 3
        )
        self.grad_gain += grad_gain
        self.grad_offset += grad_offset
        return grad_x


class _NormProjections(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, gain, offset, eps, weight, bias, parts):
        ctx.save_for_backward(x, gain, offset, weight)
        ctx.eps = eps
        norm, y = _Norm(gain, offset, eps), x.new_empty(len(x), len(weight))
        for rows in _blocks(x):
            torch.addmm(bias, norm.forward(x[rows]), weight.t(), out=y[rows])
        return y.chunk(parts, dim=1)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, *grads):
        x, gain, offset, weight = ctx.saved_tensors
        norm = _Norm(gain, offset, ctx.eps)
        weights = weight.chunk(len(grads))
        grad_x, grad_weight, grad_bias = torch.empty_like(x), torch.zeros_like(weight), weight.new_zeros(len(weight))
        for rows in _blocks(x):
            normal, grad_normal = norm.forward(x[rows]), None
            sums = zip(grads, weights, grad_weight.chunk(len(grads)), grad_bias.chunk(len(grads)), strict=True)
            for grad, part, grad_part, grad_part_bias in sums:
                grad = grad[rows]
                if ctx.needs_input_grad[4]:
                    grad_part.addmm_(grad.t(), normal)
                grad_part_bias += grad.sum(0)
                grad_normal = grad @ part if grad_normal is None else grad_normal.addmm_(grad, part)
            grad_x[rows] = norm.backward(grad_normal, x[rows])
        return grad_x, norm.grad_gain, norm.grad_offset, None, grad_weight, grad_bias, None


class _NormFeedForward(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, gain, offset, eps, weight_1, bias_1, weight_2, bias_2, keep):
        norm, y, hidden = _Norm(gain, offset, eps), torch.empty_like(x), None
        if keep:
            hidden = x.new_empty(len(x), len(weight_1))
            ctx.save_for_backward(x, hidden, gain, offset, weight_1, weight_2)
            ctx.eps = eps
        for rows in _blocks(x):
            out = hidden[rows] if keep else None
            wide = torch.addmm(bias_1, norm.forward(x[rows]), weight_1.t(), out=out).relu_()
            torch.addmm(bias_2, wide, weight_2.t(), out=y[rows]).add_(x[rows])
        return y

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad):
        x, hidden, gain, offset, weight_1, weight_2 = ctx.saved_tensors
        norm = _Norm(gain, offset, ctx.eps)
        grad_x = torch.empty_like(x)
        grad_1, grad_2 = torch.zeros_like(weight_1), torch.zeros_like(weight_2)
        grad_bias_1, grad_bias_2 = weight_1.new_zeros(len(weight_1)), weight_2.new_zeros(len(weight_2))
        for rows in _blocks(x):
            normal, grad_y, positive = norm.forward(x[rows]), grad[rows], hidden[rows]
            if ctx.needs_input_grad[6]:
                grad_2.addmm_(grad_y.t(), positive)
            grad_bias_2 += grad_y.sum(0)
            grad_hidden = grad_y @ weight_2
            torch.ops.aten.threshold_backward.grad_input(grad_hidden, positive, 0, grad_input=grad_hidden)
            if ctx.needs_input_grad[4]:
                grad_1.addmm_(grad_hidden.t(), normal)
            grad_bias_1 += grad_hidden.sum(0)
            torch.add(norm.backward(grad_hidden @ weight_1, x[rows]), grad_y, out=grad_x[rows])
        return grad_x, norm.grad_gain, norm.grad_offset, None, grad_1, grad_bias_1, grad_2, grad_bias_2, None
