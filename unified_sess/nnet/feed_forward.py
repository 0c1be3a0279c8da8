"""Two linear layers with a ReLU between them, whose backward pass on a CPU reuses memory."""

import torch
import torch.nn.functional as F


def feed_forward(x, weight_1, bias_1, weight_2, bias_2):
    """Returns `linear_2(relu(linear_1(x)))`.

    The hidden layer is the largest tensor of a transformer, and on a CPU fetching fresh memory for it costs about as
    much as filling it: the plain version fetches it four times in a training step, this one twice. Other devices
    (which keep their memory), mixed precision and `torch.compile` use the plain version.

    Arguments
    ---------
    x : torch.Tensor
        `[..., channels]`.
    weight_1, bias_1, weight_2, bias_2 : torch.Tensor
        As in `torch.nn.Linear`: `[hidden, channels]`, `[hidden]`, `[channels, hidden]`, `[channels]`.

    Returns
    -------
    torch.Tensor
        Of the shape of `x`.
    """
    rows = x.reshape(-1, x.shape[-1])
    if x.device.type == "cpu" and not torch.is_autocast_enabled("cpu") and not torch.compiler.is_compiling():
        y = _FeedForward.apply(rows, weight_1, bias_1, weight_2, bias_2)
    else:
        # In place: neither product needs what was there before. (Rows, because a view in place would cost a copy.)
        y = F.linear(F.linear(rows, weight_1, bias_1).relu_(), weight_2, bias_2)
    return y.view(x.shape)


class _FeedForward(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight_1, bias_1, weight_2, bias_2):
        hidden = torch.addmm(bias_1, x, weight_1.t()).relu_()
        ctx.save_for_backward(x, hidden, weight_1, weight_2)
        return torch.addmm(bias_2, hidden, weight_2.t())

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad):
        x, hidden, weight_1, weight_2 = ctx.saved_tensors
        needs_x, *needs_1, needs_weight_2, needs_bias_2 = ctx.needs_input_grad
        grad_x = grad_weight_1 = grad_bias_1 = None
        if needs_x or any(needs_1):
            grad_hidden = grad @ weight_2
            torch.ops.aten.threshold_backward.grad_input(grad_hidden, hidden, 0, grad_input=grad_hidden)
            grad_x = grad_hidden @ weight_1 if needs_x else None
            grad_weight_1 = grad_hidden.t() @ x if needs_1[0] else None
            grad_bias_1 = grad_hidden.sum(0) if needs_1[1] else None
        grad_weight_2 = grad.t() @ hidden if needs_weight_2 else None
        grad_bias_2 = grad.sum(0) if needs_bias_2 else None
        return grad_x, grad_weight_1, grad_bias_1, grad_weight_2, grad_bias_2
