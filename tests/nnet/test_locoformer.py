"""TF-Locoformer: spectra at any level, its layers against plain definitions, both sides of the grid, checkpointing."""

import copy

import pytest
import torch
import torch.nn.functional as F

from unified_sess.nnet.attention import rotate, rotations
from unified_sess.nnet.locoformer import ConvFeedForward, RMSGroupNorm, RotaryAttention, TFLocoformer


def small(**changes):
    """A network of few weights."""
    settings = {"channels": 8, "num_layers": 1, "hidden": 6, "kernel_size": 4, "width": 8, "nhead": 2, "groups": 2}
    return TFLocoformer(**settings | changes)


@pytest.mark.parametrize("num_spks", [1, 2, 3])
@pytest.mark.parametrize("frames", [1, 2, 7])
def test_shapes(num_spks, frames):
    assert small(num_spks=num_spks)(torch.randn(2, 18, frames)).shape == (num_spks, 2, 18, frames)


@pytest.mark.parametrize("factor", [1e-3, 30.0])
def test_spectra_are_as_loud_as_the_mixture_and_masks_know_no_level(factor):
    features = torch.randn(2, 18, 9, dtype=torch.float64)
    for network, wanted in ((small().double(), factor), (small(maps=False).double(), 1.0)):
        torch.testing.assert_close(network(factor * features), wanted * network(features))


def test_silence_gives_finite_spectra_and_gradients():
    network, features = small(), torch.zeros(1, 18, 5, requires_grad=True)
    network(features).square().sum().backward()
    assert features.grad.isfinite().all() and all(p.grad.isfinite().all() for p in network.parameters())


def test_masks_start_near_one():
    masks = small(num_spks=1, maps=False)(torch.randn(2, 18, 30))
    assert 0.5 < float(masks.detach().mean()) < 1.5
    with pytest.raises(ValueError, match="gives masks"):
        small().start_as_identity()


def test_a_point_knows_the_whole_grid():
    features = torch.randn(1, 18, 11, requires_grad=True)
    small()(features)[0, 0, 5, 10].backward()
    assert (features.grad[0].unflatten(0, (2, 9)).abs().sum(0) > 0).all()


def test_both_sides_of_the_grid_are_treated_alike():
    x = torch.randn(2, 5, 7, 8)
    for make in (
        lambda along: ConvFeedForward(8, 6, 4, 0.0, along),
        lambda along: RotaryAttention(8, 8, 2, 0.0, along),
    ):
        time, frequency = make(1), make(2)
        frequency.load_state_dict(time.state_dict())
        more = {} if isinstance(time, ConvFeedForward) else {"turns": rotations(5, 4, "cpu")}
        torch.testing.assert_close(time(x, **more), frequency(x.transpose(1, 2), **more).transpose(1, 2))


@pytest.mark.parametrize("kernel_size", [1, 4, 5])
def test_the_feed_forward_layer_is_the_papers(kernel_size):
    """A convolution, SwiGLU and a transposed convolution, of which the input's own places are kept."""
    layer, x = ConvFeedForward(8, 6, kernel_size, 0.0, along=2), torch.randn(2, 3, 11, 8)
    rows = F.pad(x.flatten(0, 1).transpose(1, 2), (kernel_size - 1, kernel_size - 1))
    value, gate = F.conv1d(rows, layer.inputs.weight, layer.inputs.bias).chunk(2, dim=1)
    turned = layer.outputs.weight.transpose(0, 1).flip(2)
    y = F.conv_transpose1d(F.silu(gate) * value, turned, layer.outputs.bias)[..., kernel_size - 1 :][..., :11]
    torch.testing.assert_close(layer(x), y.transpose(1, 2).unflatten(0, (2, 3)))


def test_attention_is_the_plain_one_of_turned_queries_and_keys():
    layer, x, turns = RotaryAttention(8, 8, 2, 0.0, along=2), torch.randn(2, 3, 7, 8), rotations(7, 4, "cpu")
    wanted = torch.empty_like(x)
    for batch in range(2):
        for frame in range(3):
            query, key, value = layer.qkv(x[batch, frame]).unflatten(1, (3, 2, 4)).permute(1, 2, 0, 3)
            weights = (rotate(query, turns) @ rotate(key, turns).transpose(1, 2) / 2).softmax(2)
            wanted[batch, frame] = layer.outputs((weights @ value).transpose(0, 1).flatten(1))
    torch.testing.assert_close(layer(x, turns), wanted)


def test_norm_gives_each_group_a_mean_square_of_one():
    y = RMSGroupNorm(2, 8)(torch.randn(3, 5, 8)).unflatten(2, (2, 4))
    torch.testing.assert_close(y.square().mean(3), torch.ones(3, 5, 2), atol=1e-3, rtol=0)


@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_checkpointing_changes_no_gradient(dropout):
    plain, features = small(dropout=dropout), torch.randn(2, 18, 9)
    saving = copy.deepcopy(plain)
    saving.activation_checkpointing = True
    results = []
    for network in (plain, saving):
        torch.manual_seed(0)
        results.append(torch.autograd.grad(network(features).square().sum(), list(network.parameters())))
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other)


def test_half_precision_is_near_and_has_gradients():
    network, features = small(), torch.randn(2, 18, 40)
    wanted = network(features)
    with torch.autocast("cpu", torch.bfloat16):
        found = network(features)
    assert 0 < (found.float() - wanted).norm() < 0.03 * wanted.norm()
    gradients = torch.autograd.grad(found.float().square().sum(), list(network.parameters()), allow_unused=True)
    assert all(g is None or (g.isfinite().all() and g.dtype is torch.float32) for g in gradients)


def test_sizes_that_do_not_fit_are_named():
    for changes in ({"channels": 9}, {"width": 6}):
        with pytest.raises(ValueError, match="must be a multiple"):
            small(**changes)
