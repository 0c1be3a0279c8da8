"""Comparing gradients of two ways to the same numbers."""

import torch


def assert_same_gradients(found, wanted, inputs):
    """Both outputs have the same gradients, twice from one graph, as gradient modulation takes them."""
    for _ in range(2):
        direction = torch.randn_like(wanted)
        options = {"retain_graph": True, "allow_unused": True}
        pair = [torch.autograd.grad((y * direction).sum(), inputs, **options) for y in (found, wanted)]
        for one, other in zip(*pair, strict=True):
            assert (one is None) == (other is None)
            if one is not None:
                torch.testing.assert_close(one, other)
