"""Layers in blocks of rows against the plain operations, with rows that do not fill the last block."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tests.gradients import assert_same_gradients
from unified_sess.nnet import row_blocks
from unified_sess.nnet.row_blocks import norm_feed_forward, norm_projections


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(row_blocks, "BLOCK", 4)


@pytest.fixture
def layers():
    layers = nn.ModuleDict({"norm": nn.LayerNorm(4), "wide": nn.Linear(4, 6), "narrow": nn.Linear(6, 4)}).double()
    for parameter in layers.parameters():
        nn.init.normal_(parameter)
    return layers


def projections(x, norm, wide, narrow):
    return torch.stack([(k + 1) * y for k, y in enumerate(norm_projections(x, norm, wide.weight, wide.bias, 3))])


def plain_projections(x, norm, wide, narrow):
    return torch.stack([(k + 1) * y for k, y in enumerate(wide(norm(x)).chunk(3, dim=1))])


def plain_feed_forward(x, norm, wide, narrow):
    return x + narrow(F.relu(wide(norm(x))))


@pytest.mark.parametrize(("blocks", "plain"), [(projections, plain_projections), (norm_feed_forward, plain_feed_forward)])
@pytest.mark.parametrize("frozen", [(), ("norm",), ("wide", "narrow"), ("norm", "wide", "narrow"), "x"])
@pytest.mark.parametrize("rows", [1, 4, 11])
def test_same_numbers_and_gradients_as_plain(layers, blocks, plain, frozen, rows):
    for name in set(frozen) - {"x"}:
        layers[name].requires_grad_(False)
    x = torch.randn(rows, 4, dtype=torch.float64, requires_grad="x" not in frozen)
    found, wanted = blocks(x, **layers), plain(x, **layers)
    torch.testing.assert_close(found, wanted)
    inputs = [value for value in (x, *layers.parameters()) if value.requires_grad]
    assert_same_gradients(found, wanted, inputs)


@pytest.mark.parametrize("blocks", [projections, norm_feed_forward])
def test_without_gradients_the_same(layers, blocks):
    x = torch.randn(11, 4, dtype=torch.float64)
    expected = blocks(x, **layers)
    with torch.no_grad():
        torch.testing.assert_close(blocks(x, **layers), expected)


def test_the_output_of_a_norm_is_not_kept(layers):
    """Input and hidden layer are the only rows that wait for the backward pass."""
    kept = []
    x = torch.randn(40, 4, dtype=torch.float64, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.shape) or t, lambda t: t):
        projections(x, **layers)
        norm_feed_forward(x, **layers)
    assert [shape for shape in kept if shape[0] == 40] == [(40, 4), (40, 4), (40, 6)]
