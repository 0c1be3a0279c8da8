"""Layers in blocks of rows against the plain operations, with rows that do not fill the last block."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tests.gradients import assert_same_gradients
from unified_sess.nnet.kernels import row_blocks
from unified_sess.nnet.kernels.row_blocks import norm_projections, output_feed_forward


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(row_blocks, "ROWS_OF_A_BLOCK", 4)


@pytest.fixture
def layers():
    linear = {"output": nn.Linear(4, 4), "wide": nn.Linear(4, 6), "narrow": nn.Linear(6, 4)}
    layers = nn.ModuleDict({"norm": nn.LayerNorm(4), **linear}).double()
    for parameter in layers.parameters():
        nn.init.normal_(parameter)
    return layers


def projections(x, attended, output, norm, wide, narrow):
    return torch.stack([(k + 1) * y for k, y in enumerate(norm_projections(x, norm, wide.weight, wide.bias, 3)[1])])


def plain_projections(x, attended, output, norm, wide, narrow):
    return torch.stack([(k + 1) * y for k, y in enumerate(wide(norm(x)).chunk(3, dim=1))])


def plain_feed_forward(x, attended, output, norm, wide, narrow):
    x = x + output(attended)
    return x + narrow(F.relu(wide(norm(x))))


@pytest.mark.parametrize(
    ("blocks", "plain"), [(projections, plain_projections), (output_feed_forward, plain_feed_forward)]
)
@pytest.mark.parametrize(
    "frozen", [(), ("norm",), ("output", "narrow"), ("wide", "narrow"), ("output", "norm", "wide", "narrow"), "x"]
)
@pytest.mark.parametrize("rows", [1, 4, 11])
def test_same_numbers_and_gradients_as_plain(layers, blocks, plain, frozen, rows):
    for name in set(frozen) - {"x"}:
        layers[name].requires_grad_(False)
    x = torch.randn(rows, 4, dtype=torch.float64, requires_grad="x" not in frozen)
    attended = torch.randn(rows, 4, dtype=torch.float64, requires_grad="x" not in frozen)
    found, wanted = blocks(x, attended, **layers), plain(x, attended, **layers)
    torch.testing.assert_close(found, wanted)
    inputs = [value for value in (x, attended, *layers.parameters()) if value.requires_grad]
    assert_same_gradients(found, wanted, inputs)


@pytest.mark.parametrize("blocks", [projections, output_feed_forward])
def test_without_gradients_the_same(layers, blocks):
    x, attended = torch.randn(2, 11, 4, dtype=torch.float64)
    expected = blocks(x, attended, **layers)
    with torch.no_grad():
        torch.testing.assert_close(blocks(x, attended, **layers), expected)


@pytest.mark.parametrize(
    ("blocks", "plain"), [(projections, plain_projections), (output_feed_forward, plain_feed_forward)]
)
def test_rows_without_variance_and_far_from_zero(layers, blocks, plain):
    """Silence, a constant, and a mean of a thousand deviations: where a norm has least to go by."""
    x = torch.tensor([[0.0] * 4, [3.0] * 4, [1e3 - 1, 1e3, 1e3, 1e3 + 1]], dtype=torch.float64, requires_grad=True)
    attended = torch.zeros(3, 4, dtype=torch.float64, requires_grad=True)
    found, wanted = blocks(x, attended, **layers), plain(x, attended, **layers)
    torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-9)
    assert_same_gradients(found, wanted, [x, attended, *layers.parameters()])


def test_the_input_that_is_returned_brings_its_gradient(layers):
    norm, wide = layers["norm"], layers["wide"]
    x = torch.randn(11, 4, dtype=torch.float64, requires_grad=True)
    through, parts = norm_projections(x, norm, wide.weight, wide.bias, 3)
    found = through * parts[0].sum(1, keepdim=True) + parts[2].prod(1, keepdim=True)
    parts = wide(norm(x)).chunk(3, dim=1)
    wanted = x * parts[0].sum(1, keepdim=True) + parts[2].prod(1, keepdim=True)
    torch.testing.assert_close(found, wanted)
    assert_same_gradients(found, wanted, [x, *norm.parameters(), *wide.parameters()])


def test_what_waits_for_the_backward_pass(layers):
    """The rows as they enter the matrix and one number for each; besides, what attention gave and the hidden layer."""
    own = {p.data_ptr() for p in layers.parameters()}
    x, attended = (torch.randn(40, 4, dtype=torch.float64, requires_grad=True) for _ in range(2))

    def kept(blocks):
        sizes = {}
        with torch.autograd.graph.saved_tensors_hooks(
            lambda t: sizes.update({t.data_ptr(): t.numel()}) or t, lambda t: t
        ):
            result = blocks(x, attended, **layers)
        del result
        return sum(size for pointer, size in sizes.items() if pointer not in own)

    matrix = layers["wide"].weight.numel()
    assert (
        kept(lambda *args, **kwargs: norm_projections(args[0], layers["norm"], *layers["wide"].parameters(), 3))
        == 40 * 5 + matrix
    )
    assert kept(output_feed_forward) == 40 * (5 + 4 + 6) + matrix
