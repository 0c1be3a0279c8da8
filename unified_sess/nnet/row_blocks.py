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


def output_feed_forward(x, attended, output, norm, wide, narrow):
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
        return _OutputFeedForward.apply(x, attended, norm.weight, norm.bias, norm.eps, torch.is_grad_enabled(), *weights)
    x = x + output(attended)
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


class _Linear:
    """Gradients of a linear layer, block by block; of its weight only where it is wanted."""

    def __init__(self, weight, wanted):
        self.weight, self.wanted = weight, wanted
        self.grad_weight = torch.empty_like(weight) if wanted else None
        self.grad_bias = None

    def backward(self, grad, x):
        """Returns the gradient at the input `x` for the one at the output."""
        first = self.grad_bias is None
        if self.wanted:  # beta 0: nothing to add to, no zeros to fill in
            torch.addmm(self.grad_weight, grad.t(), x, beta=0 if first else 1, out=self.grad_weight)
        self.grad_bias = grad.sum(0) if first else self.grad_bias + grad.sum(0)
        return grad @ self.weight


def _joined(blocks):
    return blocks[0] if len(blocks) == 1 else torch.cat(blocks)


class _NormProjections(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, gain, offset, eps, weight, bias, parts):
        ctx.save_for_backward(x, gain, offset, weight)
        ctx.eps = eps
        norm, y = _Norm(gain, offset, eps), x.new_empty(len(x), len(weight))
        for rows in _blocks(x):
            torch.mm(norm.forward(x[rows]), weight.t(), out=y[rows]).add_(bias)
        return y.chunk(parts, dim=1)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, *grads):
        x, gain, offset, weight = ctx.saved_tensors
        norm = _Norm(gain, offset, ctx.eps)
        grad_weight = torch.empty_like(weight) if ctx.needs_input_grad[4] else None
        grad_bias, grad_x = weight.new_zeros(len(weight)), []
        for rows in _blocks(x):
            normal, grad_normal = norm.forward(x[rows]), None
            for part, grad in enumerate(grads):
                grad, own = grad[rows], slice(part * grad.shape[1], (part + 1) * grad.shape[1])
                if grad_weight is not None:
                    place = grad_weight[own]
                    torch.addmm(place, grad.t(), normal, beta=1 if grad_x else 0, out=place)
                grad_bias[own] += grad.sum(0)
                if grad_normal is None:
                    grad_normal = grad @ weight[own]
                else:
                    torch.addmm(grad_normal, grad, weight[own], out=grad_normal)
            grad_x.append(norm.backward(grad_normal, x[rows]))
        return _joined(grad_x), norm.grad_gain, norm.grad_offset, None, grad_weight, grad_bias, None


class _OutputFeedForward(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, attended, gain, offset, eps, keep, *weights):
        output, output_bias, wide, wide_bias, narrow, narrow_bias = weights
        norm, y, kept = _Norm(gain, offset, eps), torch.empty_like(x), []
        for rows in _blocks(x):
            middle = x[rows] + output_bias
            torch.addmm(middle, attended[rows], output.t(), out=middle)
            hidden = torch.mm(norm.forward(middle), wide.t()).add_(wide_bias).relu_()
            out = torch.add(middle, narrow_bias, out=y[rows])
            torch.addmm(out, hidden, narrow.t(), out=out)
            if keep:
                kept += middle, hidden
        ctx.save_for_backward(attended, gain, offset, output, wide, narrow, *kept)
        ctx.eps = eps
        return y

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad):
        attended, gain, offset, output, wide, narrow, *kept = ctx.saved_tensors
        norm = _Norm(gain, offset, ctx.eps)
        layers = [_Linear(w, ctx.needs_input_grad[6 + 2 * i]) for i, w in enumerate((output, wide, narrow))]
        grad_x, grad_attended = [], []
        for rows, middle, hidden in zip(_blocks(grad), kept[::2], kept[1::2], strict=True):
            grad_y, normal = grad[rows], norm.forward(middle)
            grad_hidden = layers[2].backward(grad_y, hidden)
            torch.ops.aten.threshold_backward.grad_input(grad_hidden, hidden, 0, grad_input=grad_hidden)
            grad_middle = norm.backward(layers[1].backward(grad_hidden, normal), middle).add_(grad_y)
            grad_attended.append(layers[0].backward(grad_middle, attended[rows]))
            grad_x.append(grad_middle)
        weights = [g for layer in layers for g in (layer.grad_weight, layer.grad_bias)]
        return _joined(grad_x), _joined(grad_attended), norm.grad_gain, norm.grad_offset, None, None, *weights
