"""The transformer layer for a GPU against the plain operations; the same code runs on a CPU here."""

import pytest
import torch

from tests.gradients import assert_same_gradients
from unified_sess.nnet.kernels.gpu_layer import cast_together, weights_of
from unified_sess.nnet.transformer import SBTransformerBlock, encoder_layer


@pytest.fixture
def layer():
    block = SBTransformerBlock(num_layers=1, d_model=8, nhead=2, d_ffn=12, dropout=0, norm_before=True)
    for parameter in block.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter)
    return block.mdl.layers[0]


@pytest.mark.parametrize(
    "frozen", [(), ("norm1", "norm2"), ("pos_ffn",), ("self_att", "pos_ffn", "norm1", "norm2"), "x"]
)
@pytest.mark.parametrize("shape", [(2, 7, 8), (1, 1, 8)])
def test_same_numbers_and_gradients_as_plain(layer, frozen, shape):
    layer.double()
    for name in set(frozen) - {"x"}:
        getattr(layer, name).requires_grad_(False)
    x = torch.randn(shape, dtype=torch.float64, requires_grad="x" not in frozen)
    found, wanted = encoder_layer(layer, x, weights_of(layer)), encoder_layer(layer, x)
    torch.testing.assert_close(found, wanted)
    inputs = [value for value in (x, *layer.parameters()) if value.requires_grad]
    assert_same_gradients(found, wanted, inputs)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_in_mixed_precision_as_near_to_the_truth_as_plain(layer, dtype):
    """A linear layer before the block gives bfloat16, a positional encoding single precision."""
    x = torch.randn(4, 30, 8).to(dtype).float()
    exact = encoder_layer(layer, x)
    direction = torch.randn_like(exact)
    parameters = list(layer.parameters())
    true = torch.cat([g.flatten() for g in torch.autograd.grad((exact * direction).sum(), parameters)])

    def errors(copies):
        with torch.autocast("cpu", torch.bfloat16):
            y = encoder_layer(layer, x.to(dtype), copies)
        assert y.dtype is dtype
        gradients = torch.autograd.grad((y.float() * direction).sum(), parameters)
        assert all(g.dtype is torch.float32 for g in gradients)
        found = torch.cat([g.flatten() for g in gradients])
        return (y - exact).norm() / exact.norm(), (found - true).norm() / true.norm()

    fast = errors(cast_together(weights_of(layer), torch.bfloat16))
    for error, plain in zip(fast, errors(None), strict=True):
        assert 0 < error < 1.3 * plain


def test_norms_and_hidden_layer_are_not_kept(layer):
    """What waits for the backward pass: input, query, key, value, attended and the sum."""
    kept, x = set(), torch.randn(1, 40, 8, requires_grad=True)

    def note(tensor):
        if 40 in tensor.shape:
            kept.add((tensor.untyped_storage().data_ptr(), tensor.untyped_storage().nbytes() // 4))
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        encoder_layer(layer, x, weights_of(layer))
    assert sorted(size for _, size in kept if size > 80) == [40 * 8] * 3 + [40 * 24]


def test_copies_have_the_values_and_no_history():
    tensors = [torch.randn(3, 2, requires_grad=True), torch.randn(5), torch.randn(1, 1)]
    copies = cast_together(tensors, torch.bfloat16)
    assert not any(copy.requires_grad for copy in copies)
    for copy, tensor in zip(copies, tensors, strict=True):
        assert torch.equal(copy, tensor.detach().bfloat16())
