"""The blocks of SepReformer: global and local transformers, and attention across the speakers.

Shin et al., "Separate and Reconstruct: Asymmetric Encoder-Decoder for Speech Separation", arXiv 2406.05983, section 3.
Sequences stay `[batch, frames, channels]` from end to end, so a linear layer needs no transposes.
"""

import torch
import torch.nn.functional as F
from torch import nn

from unified_sess.nnet.attention import SelfAttention, attend, relative_scores

LAYER_SCALE = 1e-5  # of a residual branch at the start
MOMENTUM = 0.1  # share of a batch in the running statistics
NARROW = 15  # frames up to which a kernel is narrow


class GlobalBlock(nn.Module):
    """Attention over the whole signal at the lowest rate, gated at the block's own; then a feed-forward layer.

    Arguments
    ---------
    channels, heads : int
        Features of a frame, and attention heads.
    dropout : float
        Share of values left out in training, 0 to 1.
    """

    def __init__(self, channels: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.attention = RelativeAttention(channels, heads, dropout)
        self.gate = nn.Sequential(nn.LayerNorm(channels), nn.Linear(channels, channels), nn.Sigmoid())
        self.feed_forward = GatedFeedForward(channels, dropout)

    def forward(self, x: torch.Tensor, distances: torch.Tensor) -> torch.Tensor:
        """`x` `[batch, frames, channels]`, `distances` as in `relative_scores`, for the frames at the lowest rate."""
        lowest = len(distances) // 2
        y = self.attention(x.unflatten(1, (lowest, -1)).mean(2), distances)
        gated = self.gate(x).unflatten(1, (lowest, -1)) * y.unsqueeze(2)
        return self.feed_forward(x + gated.flatten(1, 2))


class LocalBlock(nn.Module):
    """A wide depthwise convolution between gates, then a feed-forward layer; `[batch, frames, channels]` to the same.

    Arguments
    ---------
    channels, kernel_size : int
        Features of a frame, and frames that the convolution sees, odd.
    dropout : float
        Share of values left out in training, 0 to 1.
    """

    def __init__(self, channels: int, kernel_size: int, dropout: float) -> None:
        super().__init__()
        self.inputs = nn.Sequential(nn.LayerNorm(channels), nn.Linear(channels, 2 * channels), nn.GLU())
        self.depthwise = DepthwiseConv(channels, kernel_size)
        self.wide = nn.Linear(channels, 2 * channels)
        self.norm = FrameBatchNorm(2 * channels)
        self.outputs = nn.Sequential(nn.GELU(), nn.Linear(2 * channels, channels), nn.Dropout(dropout))
        self.scale = nn.Parameter(torch.full((channels,), LAYER_SCALE))
        self.feed_forward = GatedFeedForward(channels, dropout)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """`[batch, frames, channels]` to the same."""
        y = self.outputs(self.norm(self.wide(self.depthwise(self.inputs(x)))))
        return self.feed_forward(torch.addcmul(x, y.to(x.dtype), self.scale))


class SpeakerBlock(nn.Module):
    """Attention across the speakers of each frame, then a feed-forward layer.

    Arguments: as `GlobalBlock`.
    """

    def __init__(self, channels: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.norm = nn.LayerNorm(channels)
        self.qkv = nn.Linear(channels, 3 * channels)
        self.outputs = nn.Sequential(nn.Linear(channels, channels), nn.Dropout(dropout))
        self.scale = nn.Parameter(torch.full((channels,), LAYER_SCALE))
        self.feed_forward = GatedFeedForward(channels, dropout)

    def forward(self, x: torch.Tensor, num_spks: int) -> torch.Tensor:
        """`[batch * speakers, frames, channels]` to the same."""
        # Two or three speakers are too few for a matrix product: sums of products, in which nothing is moved.
        qkv = self.qkv(self.norm(x)).unflatten(0, (-1, num_spks)).unflatten(3, (3, self.heads, -1))
        query, key, value = qkv.unbind(3)  # [batch, speakers, frames, heads, width]
        scores = (query.unsqueeze(2) * key.unsqueeze(1)).sum(-1) * query.shape[-1] ** -0.5
        weights = F.dropout(scores.softmax(2), self.dropout, self.training).to(value.dtype)
        y = (weights.unsqueeze(-1) * value.unsqueeze(1)).sum(2).flatten(0, 1).flatten(2)
        return self.feed_forward(torch.addcmul(x, self.outputs(y).to(x.dtype), self.scale))


class RelativeAttention(SelfAttention):
    """Attention that knows distances, `[batch, steps, channels]` to the same, without its input added.

    Arguments: as `GlobalBlock`.
    """

    def __init__(self, channels: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.norm = nn.LayerNorm(channels)
        self.qkv = nn.Linear(channels, 3 * channels)
        self.outputs = nn.Sequential(nn.Linear(channels, channels), nn.Dropout(dropout))
        self.scale = nn.Parameter(torch.full((channels,), LAYER_SCALE))

    def forward(self, x: torch.Tensor, distances: torch.Tensor) -> torch.Tensor:
        """`x` `[batch, steps, channels]`, `distances` as in `relative_scores`."""
        qkv = self.qkv(self.norm(x)).unflatten(2, (3, self.heads, -1))
        query, key, value = qkv.permute(2, 0, 3, 1, 4)  # [batch, heads, steps, width]
        bias = relative_scores(query * query.shape[-1] ** -0.5, distances)
        y = attend(query, key, value, self.dropout if self.training else 0.0, bias)
        return self.outputs(y.transpose(1, 2).flatten(2)) * self.scale


class GatedFeedForward(nn.Module):
    """A feed-forward layer with a gate and a convolution over three frames, added to its input.

    Arguments
    ---------
    channels : int
        Features of a frame; six times as many inside.
    dropout : float
        Share of values left out in training, 0 to 1.
    """

    def __init__(self, channels: int, dropout: float) -> None:
        super().__init__()
        self.inputs = nn.Sequential(nn.LayerNorm(channels), nn.Linear(channels, 6 * channels))
        self.depthwise = DepthwiseConv(6 * channels, 3)
        self.outputs = nn.Sequential(
            nn.GLU(), nn.Dropout(dropout), nn.Linear(3 * channels, channels), nn.Dropout(dropout)
        )
        self.scale = nn.Parameter(torch.full((channels,), LAYER_SCALE))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """`[batch, frames, channels]` to the same."""
        return torch.addcmul(x, self.outputs(self.depthwise(self.inputs(x))).to(x.dtype), self.scale)


class DepthwiseConv(nn.Module):
    """A convolution along frames in each channel by itself, `[batch, frames, channels]` to the same.

    Arguments
    ---------
    channels, kernel_size, stride : int
        As in `torch.nn.Conv1d`; the kernel is odd (else a `ValueError`) and zeros stand beside the ends.
    """

    def __init__(self, channels: int, kernel_size: int, stride: int = 1) -> None:
        super().__init__()
        if kernel_size % 2 == 0:
            raise ValueError(f"kernel_size must be odd, not {kernel_size}")
        self.conv = nn.Conv1d(channels, channels, kernel_size, stride, padding=kernel_size // 2, groups=channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """`[batch, frames, channels]` to `[batch, frames / stride, channels]`, rounded up."""
        # An image whose channels are innermost in memory: no value is moved. Narrow kernels are many times as fast along
        # its rows, wide ones along its columns, whose backward pass is.
        conv, side = self.conv, 2 if self.conv.kernel_size[0] <= NARROW else 3
        image, weight = x.transpose(1, 2).unsqueeze(side), conv.weight.unsqueeze(side)
        if x.device.type == "cuda":
            image = image.contiguous()  # PyTorch's own kernel; cuDNN's, for the other layout, rounds to TF32
        stride, padding = (1, conv.stride[0]), (0, conv.padding[0])
        if side == 3:
            stride, padding = stride[::-1], padding[::-1]
        return F.conv2d(image, weight, conv.bias, stride, padding, groups=conv.groups).squeeze(side).transpose(1, 2)


class FrameBatchNorm(nn.Module):
    """Batch normalisation of `[batch, frames, channels]` over the frames of all utterances.

    Unlike `torch.nn.BatchNorm1d` it moves no values, keeps no count of batches, and takes a batch in once where
    activation checkpointing runs it twice.
    """

    running_mean: torch.Tensor
    running_var: torch.Tensor
    _recomputing = False

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """`[batch, frames, channels]` to the same."""
        mean, variance = self.running_mean, self.running_var
        if self.training and FrameBatchNorm._recomputing:
            mean, variance = mean.clone(), variance.clone()
        y = F.batch_norm(x.flatten(0, 1), mean, variance, self.weight, self.bias, self.training, MOMENTUM)
        return y.view_as(x)


class Recomputing:
    """Inside, batches change no running statistics: they have been taken in before.

    It may be entered again and again, as two backward passes through one part do.
    """

    def __enter__(self) -> None:
        FrameBatchNorm._recomputing = True

    def __exit__(self, *_: object) -> None:
        FrameBatchNorm._recomputing = False
