"""TF-Locoformer: transformers along frequency and time whose feed-forward layers are convolutions.

Saijo et al., "TF-Locoformer: Transformer with Local Modeling by Convolution for Speech Separation and Enhancement",
arXiv 2408.03440. It gives the sources' spectra themselves, not masks. The grid stays `[batch, frames, frequencies,
channels]` from end to end: a convolution along either side reads it where it is, and only attention gathers its steps.
"""

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from unified_sess.nnet.attention import SelfAttention, at_least_single, attend, rotate, rotations

GRID_EPS = 1e-5


class TFLocoformer(nn.Module):
    """The sources' spectra, or masks, from pairs of a block along frequency and one along time.

    The features may have any level: they are scaled to a mean square of 1, and spectra back.

    Arguments
    ---------
    channels : int
        Features of a point of the grid (D of the paper), a multiple of `groups`.
    num_layers : int
        Pairs of blocks (B).
    hidden : int
        Channels inside a feed-forward layer (C).
    kernel_size : int
        Points that its convolutions see (K).
    width : int
        Features of all attention heads together (E times H), a multiple of `nhead`.
    nhead : int
        Attention heads (H).
    groups : int
        Groups of channels that are normalised by themselves (G).
    num_spks : int
        Sources: number of speakers, or 1 for an enhancer.
    dropout : float
        Share of values left out in training, 0 to 1.
    maps : bool
        True gives the sources' spectra, as published; False gives masks of real and imaginary parts, that start near 1.
    activation_checkpointing : bool
        Keep only each block's input for the backward pass and compute the block again there.

    Raises
    ------
    ValueError
        When widths are no multiples of heads or groups.

    Example
    -------
    >>> TFLocoformer(channels=8, num_layers=1, hidden=8, width=8, nhead=2)(torch.rand(4, 66, 10)).shape
    torch.Size([2, 4, 66, 10])
    """

    def __init__(
        self,
        channels: int = 128,
        num_layers: int = 6,
        hidden: int = 384,
        kernel_size: int = 4,
        width: int = 128,
        nhead: int = 4,
        groups: int = 4,
        num_spks: int = 2,
        dropout: float = 0.0,
        maps: bool = True,
        activation_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        if channels % groups or width % (2 * nhead):
            raise ValueError(
                f"channels = {channels} must be a multiple of groups = {groups}, and width = {width} of twice "
                f"nhead = {nhead}"
            )
        self.num_spks, self.maps, self.head_width = num_spks, maps, width // nhead
        self.dropout, self.activation_checkpointing = dropout, activation_checkpointing
        grid = {"kernel_size": 3, "padding": 1}
        self.inputs = nn.Conv2d(2, channels, **grid)
        self.norm = nn.GroupNorm(1, channels, eps=GRID_EPS)
        block = channels, hidden, kernel_size, width, nhead, groups, dropout
        self.layers = nn.ModuleList(
            nn.ModuleDict({"frequency": LocoformerBlock(*block, along=2), "time": LocoformerBlock(*block, along=1)})
            for _ in range(num_layers)
        )
        self.outputs = nn.ConvTranspose2d(channels, 2 * num_spks, **grid)
        for name, weight in self.named_parameters():
            if weight.dim() > 1:
                nn.init.xavier_uniform_(weight)
            elif name.endswith("bias"):
                nn.init.zeros_(weight)
        if not maps:
            nn.init.ones_(self.outputs.bias)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Returns `[sources, batch, 2 * frequencies, frames]` for features `[batch, 2 * frequencies, frames]`."""
        features = at_least_single(features)
        # In two stages: over a minute at once fp32 loses digits.
        scale = features.square().mean(1, keepdim=True).mean(2, keepdim=True).clamp_min(1e-20).sqrt()
        x = (features / scale).unflatten(1, (2, -1)).transpose(2, 3)  # [batch, 2, frames, frequencies]
        with torch.autocast(x.device.type, enabled=False):  # as published; what the blocks add to stays exact
            x = self.norm(self.inputs(x)).permute(0, 2, 3, 1).contiguous()
        turns = {
            name: rotations(x.shape[along], self.head_width, x.device)
            for name, along in (("frequency", 2), ("time", 1))
        }
        for layer in self.layers:
            for name, block in layer.items():
                x = self._run(block, x, turns[name])
        with torch.autocast(x.device.type, enabled=False):
            y = self.outputs(x.permute(0, 3, 1, 2)).transpose(2, 3)  # [batch, 2 * sources, frequencies, frames]
        y = y.unflatten(1, (self.num_spks, 2)).flatten(2, 3).transpose(0, 1)
        return y * scale if self.maps else y

    @torch.no_grad()
    def start_as_identity(self) -> None:
        """Make every mask 1, all weights still to train; `ValueError` of a network that gives no masks."""
        if self.maps:
            raise ValueError("only a network that gives masks can start as an identity")
        self.outputs.weight.zero_()
        self.outputs.bias.fill_(1)

    def _run(self, block, x, turns):
        if not (self.activation_checkpointing and self.training and torch.is_grad_enabled()):
            return block(x, turns)
        return checkpoint(block, x, turns, use_reentrant=False, preserve_rng_state=self.dropout > 0)


class LocoformerBlock(nn.Module):
    """Feed-forward layer, attention, feed-forward layer, each added to its input, along one side of the grid.

    Arguments
    ---------
    channels, hidden, kernel_size, width, nhead, groups : int
        As of `TFLocoformer`.
    dropout : float
        Share of values left out in training, 0 to 1.
    along : int
        1: along frames; 2: along frequencies.
    """

    def __init__(
        self,
        channels: int,
        hidden: int,
        kernel_size: int,
        width: int,
        nhead: int,
        groups: int,
        dropout: float,
        along: int,
    ) -> None:
        super().__init__()
        make = [
            lambda: ConvFeedForward(channels, hidden, kernel_size, dropout, along),
            lambda: RotaryAttention(channels, width, nhead, dropout, along),
            lambda: ConvFeedForward(channels, hidden, kernel_size, dropout, along),
        ]
        self.parts = nn.ModuleList(layer() for layer in make)
        self.norms = nn.ModuleList(RMSGroupNorm(groups, channels) for _ in make)

    def forward(self, x: torch.Tensor, turns: torch.Tensor) -> torch.Tensor:
        """`x` `[batch, frames, frequencies, channels]`, `turns` as of `rotations`."""
        before, attention, after = self.parts
        x = x + before(self.norms[0](x))
        x = x + attention(self.norms[1](x), turns)
        return x + after(self.norms[2](x))


class ConvFeedForward(nn.Module):
    """Two convolutions with a SwiGLU between them, along one side of `[batch, frames, frequencies, channels]`.

    The second is the paper's transposed one, written as the convolution that it is at a stride of 1.

    Arguments: as of `LocoformerBlock`.
    """

    def __init__(self, channels: int, hidden: int, kernel_size: int, dropout: float, along: int) -> None:
        super().__init__()
        self.along, self.dropout = along, dropout
        self.inputs = nn.Conv1d(channels, 2 * hidden, kernel_size, padding=kernel_size - 1)
        self.outputs = nn.Conv1d(hidden, channels, kernel_size)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """`[batch, frames, frequencies, channels]` to the same."""
        value, gate = self._convolve(self.inputs, x.permute(0, 3, 1, 2)).chunk(2, dim=1)
        y = self._convolve(self.outputs, self._dropped(F.silu(gate) * value))
        return self._dropped(y.permute(0, 2, 3, 1))

    def _convolve(self, conv, image):
        """As an image whose channels are innermost in memory, no value is moved."""
        weight, padding = conv.weight.unsqueeze(4 - self.along), conv.padding[0]
        return F.conv2d(image, weight, conv.bias, padding=(padding, 0) if self.along == 1 else (0, padding))

    def _dropped(self, x):
        return F.dropout(x, self.dropout, self.training) if self.dropout else x


class RotaryAttention(SelfAttention):
    """Attention with rotary positions along one side of `[batch, frames, frequencies, channels]`.

    Arguments: as of `LocoformerBlock`.
    """

    def __init__(self, channels: int, width: int, nhead: int, dropout: float, along: int) -> None:
        super().__init__()
        self.nhead, self.dropout = nhead, dropout
        # Parts, heads and features of queries, keys and values, with the steps last but one.
        self.gather = (3, 0, 2, 4, 1, 5) if along == 1 else (3, 0, 1, 4, 2, 5)
        self.scatter = (0, 3, 1, 2, 4) if along == 1 else (0, 1, 3, 2, 4)
        self.qkv = nn.Linear(channels, 3 * width, bias=False)
        self.outputs = nn.Linear(width, channels, bias=False)

    def forward(self, x: torch.Tensor, turns: torch.Tensor) -> torch.Tensor:
        """`x` `[batch, frames, frequencies, channels]`, `turns` as of `rotations`."""
        qkv = self.qkv(x).unflatten(3, (3, self.nhead, -1)).permute(self.gather)
        batch, others = qkv.shape[1:3]
        query, key = rotate(qkv[:2], turns).flatten(1, 2)
        value = qkv[2].flatten(0, 1)
        y = attend(query, key, value, self.dropout if self.training else 0.0)
        y = self.outputs(y.unflatten(0, (batch, others)).permute(self.scatter).flatten(3))
        return F.dropout(y, self.dropout, self.training) if self.dropout else y


class RMSGroupNorm(nn.Module):
    """Each group of the channels of a point divided by the root of its mean square, `[..., channels]` to the same.

    Arguments
    ---------
    groups, channels : int
        The channels are a multiple of the groups.
    """

    def __init__(self, groups: int, channels: int) -> None:
        super().__init__()
        self.groups = groups
        self.weight = nn.Parameter(torch.ones(channels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """`[..., channels]` to the same."""
        parts = x.unflatten(-1, (self.groups, -1))
        # Not the root of squares, whose gradient at silence is no number.
        level = torch.linalg.vector_norm(parts, dim=-1, keepdim=True) * parts.shape[-1] ** -0.5
        return (parts / (level + GRID_EPS)).flatten(-2) * self.weight
