"""What the networks with attention share: the fused operation, rotary and relative positions."""

import torch
import torch.nn.functional as F
from torch import nn

ROTARY_BASE = 10000.0  # of the wavelengths, as in the paper


class SelfAttention(nn.Module):
    """Marks the layers in which every step sees all others, so that a network's receptive field is known."""


def attend(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    dropout: float = 0.0,
    bias: torch.Tensor | None = None,
) -> torch.Tensor:
    """Scaled dot-product attention that never stores its weights, `[batch, heads, steps, width]` to the same.

    Arguments
    ---------
    query, key, value : torch.Tensor
        `[batch, heads, steps, width]`, in any layout.
    dropout : float
        Share of the weights left out, 0 to 1.
    bias : torch.Tensor
        `[batch, heads, steps, steps]`, added to the scaled scores.

    Example
    -------
    >>> x = torch.rand(3, 2, 10, 8)
    >>> attend(x, x, x).shape
    torch.Size([3, 2, 10, 8])
    """
    if query.device.type == "cpu" and query.dtype is torch.bfloat16 and query.requires_grad:
        # The backward pass of the CPU's bf16 kernel takes longer than that of its fp32 kernel.
        with torch.autocast("cpu", enabled=False):
            bias = None if bias is None else bias.float()
            y = F.scaled_dot_product_attention(query.float(), key.float(), value.float(), bias, dropout)
        return y.to(query.dtype)
    return F.scaled_dot_product_attention(query, key, value, bias, dropout)


def at_least_single(x: torch.Tensor) -> torch.Tensor:
    """In single precision what has half of it, such as a sum that many layers add to."""
    return x.float() if x.dtype.itemsize < 4 else x


def rotations(steps: int, width: int, device: torch.device) -> torch.Tensor:
    """Turns of rotary positions as complex numbers `[steps, width / 2]` (Su et al., arXiv 2104.09864).

    The pair k of features turns by `ROTARY_BASE ** (-2 k / width)` radians a step.
    """
    speeds = ROTARY_BASE ** (-torch.arange(0, width, 2, device=device) / width)
    angles = torch.arange(steps, device=device).unsqueeze(1) * speeds
    return torch.polar(torch.ones_like(angles), angles)


def rotate(x: torch.Tensor, turns: torch.Tensor) -> torch.Tensor:
    """Neighbouring features as pairs, turned by their position: `[..., steps, width]` to the same.

    The product of a query and a key turned so depends on how far apart they are, not on where.

    Example
    -------
    >>> x, turns = torch.rand(2, 8), rotations(2, 8, "cpu")
    >>> torch.allclose(rotate(x, turns).norm(dim=1), x.norm(dim=1))
    True
    """
    turned = torch.view_as_complex(at_least_single(x).unflatten(-1, (-1, 2))) * turns
    return torch.view_as_real(turned).flatten(-2).to(x.dtype)


def relative_scores(query: torch.Tensor, embeddings: torch.Tensor) -> torch.Tensor:
    """Scores of the distances between steps, `[batch, heads, steps, steps]` (Shaw et al., arXiv 1803.02155).

    Step i against step j scores the product of query i with the embedding of the distance i - j. All distances are
    multiplied once, and the rows are shifted against one another by reading them with another stride.

    Arguments
    ---------
    query : torch.Tensor
        `[batch, heads, steps, width]`.
    embeddings : torch.Tensor
        `[2 * steps, width]`, of the distances from `steps` down to `1 - steps`.
    """
    steps = query.shape[2]
    table = query @ embeddings.transpose(0, 1)  # column c belongs to the distance steps - c
    return table.flatten(2)[..., steps:].unflatten(2, (steps, 2 * steps - 1))[..., :steps]
