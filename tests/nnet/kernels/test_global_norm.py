"""gLN in a few kernels against PyTorch's group norm."""

import pytest
import torch
import torch.nn.functional as F

from unified_sess.nnet.kernels.global_norm import _GlobalLayerNorm, global_layer_norm


def inputs(shape, dtype=torch.float64, shift=0.7):
    values = [torch.randn(shape), torch.randn(shape[-1]), torch.randn(shape[-1])]
    values[0] += shift
    return [value.to(dtype).requires_grad_() for value in values]


def reference(x, gain, offset, eps):
    y = F.group_norm(x.flatten(1, -2).transpose(1, 2), 1, gain, offset, eps)
    return y.transpose(1, 2).reshape(x.shape)


def in_few_kernels(x, gain, offset, eps):
    return _GlobalLayerNorm.apply(x.flatten(1, -2), gain, offset, eps).view(x.shape)


@pytest.mark.parametrize("norm", [global_layer_norm, in_few_kernels])
@pytest.mark.parametrize("shape", [(2, 30, 6), (1, 4, 5, 3), (3, 2, 7, 1), (2, 1, 2)])
def test_same_numbers_and_gradients_as_group_norm(norm, shape):
    values = inputs(shape)
    found, wanted = norm(*values, 1e-8), reference(*values, 1e-8)
    torch.testing.assert_close(found, wanted)
    direction = torch.randn_like(wanted)
    pair = [torch.autograd.grad((y * direction).sum(), values) for y in (found, wanted)]
    for one, other in zip(*pair, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-6)


def test_a_far_mean_does_not_lose_the_variance():
    values = inputs((1, 4000, 8), torch.float32, shift=300.0)
    exact = [value.detach().double() for value in values]
    torch.testing.assert_close(in_few_kernels(*values, 1e-8).double(), reference(*exact, 1e-8), rtol=0, atol=1e-3)


def test_half_precision_values_are_normalised_in_single_precision():
    x, gain, offset = inputs((2, 500, 8), torch.float32)
    half = x.detach().bfloat16().requires_grad_()
    found = in_few_kernels(half, gain, offset, 1e-8)
    assert found.dtype is torch.bfloat16
    torch.testing.assert_close(found, reference(half.float(), gain, offset, 1e-8).bfloat16())
    gradients = torch.autograd.grad(found.sum(), [half, gain, offset])
    assert [g.dtype for g in gradients] == [torch.bfloat16, torch.float32, torch.float32]


def test_silence_is_finite():
    x, gain, offset = torch.zeros(1, 9, 4, requires_grad=True), torch.ones(4), torch.zeros(4)
    (grad,) = torch.autograd.grad(in_few_kernels(x, gain, offset, 1e-8).sum(), x)
    assert grad.isfinite().all()
