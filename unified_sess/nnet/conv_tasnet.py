"""Conv-TasNet's mask network, about twice as fast as SpeechBrain's and interchangeable with it.

Luo and Mesgarani, "Conv-TasNet: Surpassing ideal time-frequency magnitude masking for speech separation", 2019.

Where the stock network spends its time, and what happens here instead:

- transposes around every convolution: channels stay innermost in memory, a 1x1 convolution is one matrix product;
- norms in elementwise steps: a fused norm, whose gain and offset are folded into the convolution that follows;
- dilated depthwise convolutions outside the fast kernels: the frames are seen as a grid of `dilation` columns, down
  which the same convolution has no dilation;
- the slope gradient of PReLU: see `unified_sess.nnet.kernels.prelu`.
"""

from collections import OrderedDict
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from unified_sess.nnet.kernels.global_norm import global_layer_norm
from unified_sess.nnet.kernels.prelu import PReLU

EPS = 1e-8


class MaskNet(nn.Module):
    """Drop-in for `speechbrain.lobes.models.conv_tasnet.MaskNet`: same arguments, state-dict keys and numbers.

    Arguments
    ---------
    N : int
        Channels of the encoder.
    B : int
        Channels of the bottleneck, between the blocks.
    H : int
        Channels inside a block.
    P : int
        Kernel size of the depthwise convolutions, odd.
    X : int
        Blocks in a repeat; their dilations are 1, 2, 4, ... 2 ** (X - 1) frames.
    R : int
        Repeats.
    C : int
        Masks: number of speakers, or 1 for an enhancer.
    norm_type : str
        `gLN` (over channels and frames) or `cLN` (over channels).
    causal : bool
        Convolutions look at the past only, delayed as in SpeechBrain.
    mask_nonlinear : str
        `relu`, or `softmax` over the channels.

    Raises
    ------
    ValueError
        For an unknown `norm_type` or `mask_nonlinear` or an even `P`.

    Example
    -------
    >>> import torch
    >>> MaskNet(N=16, B=8, H=12, P=3, X=2, R=1, C=2)(torch.rand(4, 16, 100)).shape
    torch.Size([2, 4, 16, 100])
    """

    def __init__(
        self,
        N: int,
        B: int,
        H: int,
        P: int,
        X: int,
        R: int,
        C: int,
        norm_type: str = "gLN",
        causal: bool = False,
        mask_nonlinear: str = "relu",
    ) -> None:
        super().__init__()
        if mask_nonlinear not in ("relu", "softmax"):
            raise ValueError(f"unknown mask_nonlinear {mask_nonlinear!r}: relu or softmax")
        self.C = C
        self.mask_nonlinear = mask_nonlinear
        self.layer_norm = ChannelwiseLayerNorm(N)
        self.bottleneck_conv1x1 = PointwiseConv(N, B)
        self.temporal_conv_net = nn.Sequential(
            OrderedDict(
                (f"temporalblock_{r}_{x}", TemporalBlock(B, H, P, 2**x, norm_type, causal))
                for r in range(R)
                for x in range(X)
            )
        )
        self.mask_conv1x1 = PointwiseConv(B, C * N)

    def forward(self, mixture_w: torch.Tensor) -> torch.Tensor:
        """Returns masks `[masks, batch, channels, frames]` for an encoded mixture `[batch, channels, frames]`."""
        batch, channels, frames = mixture_w.shape
        y = self.layer_norm(mixture_w.transpose(1, 2))
        y = self.mask_conv1x1(self.temporal_conv_net(self.bottleneck_conv1x1(y)))
        masks = y.view(batch, frames, self.C, channels).permute(2, 0, 3, 1)
        return F.relu(masks) if self.mask_nonlinear == "relu" else F.softmax(masks, dim=2)


class TemporalBlock(nn.Module):
    """One residual block; `[batch, frames, B]` to the same.

    Arguments: as `MaskNet`, with the block's `dilation` in frames.
    """

    def __init__(self, B: int, H: int, P: int, dilation: int, norm_type: str = "gLN", causal: bool = False) -> None:
        super().__init__()
        depthwise = OrderedDict(
            conv_0=DepthwiseConv(H, P, dilation, causal),
            act=PReLU(),
            act_0=choose_norm(norm_type, H),
            conv_1=PointwiseConv(H, B),
        )
        self.layers = nn.ModuleDict(
            OrderedDict(
                conv=PointwiseConv(B, H), act=PReLU(), norm=choose_norm(norm_type, H), DSconv=nn.ModuleDict(depthwise)
            )
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Returns the block's output added to `x`."""
        wide, deep = self.layers, self.layers["DSconv"]
        y = wide["act"](wide["conv"](x))
        y = deep["act"](deep["conv_0"](y, norm=wide["norm"]))
        return x + deep["conv_1"](y, norm=deep["act_0"])


class PointwiseConv(nn.Module):
    """A 1x1 convolution without bias as one matrix product over all frames, `[batch, frames, channels]`."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv1d(in_channels, out_channels, 1, bias=False)  # holds the weight under SpeechBrain's key

    def forward(self, x: torch.Tensor, norm: Any | None = None) -> torch.Tensor:
        """Returns `[batch, frames, out_channels]`, the convolution of `x` or, with a `norm`, of `norm(x)`."""
        weight = self.conv.weight.squeeze(2)
        if norm is None or _on_gpu(x):
            return F.linear(x if norm is None else norm(x), weight)
        return F.linear(norm.normalize(x), weight * norm.gamma.view(-1), weight @ norm.beta.view(-1))


class DepthwiseConv(nn.Module):
    """A depthwise dilated convolution over frames, `[batch, frames, channels]` to the same.

    Without `causal` the ends are padded by reflection, or by their last frame where a signal is too short to be
    reflected (SpeechBrain's stops there). With it, zeros stand before the start and each frame sees only frames at
    least `dilation * (kernel_size - 1) / 2` earlier, which is SpeechBrain's delay. An even kernel is a `ValueError`.
    """

    def __init__(self, channels: int, kernel_size: int, dilation: int = 1, causal: bool = False) -> None:
        super().__init__()
        if kernel_size % 2 == 0:
            raise ValueError(f"the kernel size P must be odd, got {kernel_size}")
        self.conv = nn.Conv1d(channels, channels, kernel_size, dilation=dilation, groups=channels, bias=False)
        self.causal = causal

    def forward(self, x: torch.Tensor, norm: Any) -> torch.Tensor:
        """Returns the convolution of `norm(x)`, of the same shape."""
        _, frames, channels = x.shape
        (kernel_size,), (dilation,) = self.conv.kernel_size, self.conv.dilation
        half = dilation * (kernel_size - 1) // 2
        weight = self.conv.weight
        if self.causal or _on_gpu(x):  # zeros stand beside the norm's output, so its offset cannot wait until after
            x, bias = norm(x), None
        else:
            x, bias = norm.normalize(x), weight.sum((1, 2)) * norm.beta.view(-1)
            weight = weight * norm.gamma.view(-1, 1, 1)
        before, after = (3 * half, -half) if self.causal else (half, half)
        mode = "constant" if self.causal else "reflect" if half < frames else "replicate"

        # The grid needs whole rows; what fills the last one is cut off again. None where too short to reflect so far.
        fill = -frames % dilation
        columns = dilation if half + fill < frames else 1
        x = F.pad(_as_image(x, 1), (0, 0, before, after + (fill if columns > 1 else 0)), mode=mode)
        x = _as_image(x.permute(0, 2, 3, 1).flatten(1, 2), columns)
        if _on_gpu(x):
            x = (
                x.contiguous()
            )  # PyTorch's own kernel, in single precision exact; cuDNN's, for this layout, rounds to TF32
        x = F.conv2d(x, weight.unsqueeze(3), bias, groups=channels, dilation=(dilation // columns, 1))
        return x.permute(0, 2, 3, 1).flatten(1, 2)[:, :frames]


def _on_gpu(x: torch.Tensor) -> bool:
    """Whether to leave norms unfolded: there the many small operations of folding cost more than they save."""
    return x.device.type == "cuda"


def _as_image(x: torch.Tensor, columns: int) -> torch.Tensor:
    """View of `[batch, frames, channels]` as `[batch, channels, frames / columns, columns]`."""
    return x.unflatten(1, (-1, columns)).permute(0, 3, 1, 2)


def choose_norm(norm_type: str, channels: int) -> "ChannelwiseLayerNorm":
    """Returns the norm called `gLN` or `cLN`; raises ValueError for another name."""
    if norm_type == "gLN":
        return GlobalLayerNorm(channels)
    if norm_type == "cLN":
        return ChannelwiseLayerNorm(channels)
    raise ValueError(f"unknown norm_type {norm_type!r}: gLN or cLN")


class ChannelwiseLayerNorm(nn.Module):
    """cLN: each frame is normalised over its channels, `[batch, frames, channels]`."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(1, 1, channels))
        self.beta = nn.Parameter(torch.zeros(1, 1, channels))

    def normalize(self, x: torch.Tensor) -> torch.Tensor:
        """Returns `x` without mean and with variance 1, before gain and offset."""
        return F.layer_norm(x, x.shape[-1:], eps=EPS)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Returns `x` normalised, of the same shape."""
        return F.layer_norm(x, x.shape[-1:], self.gamma.flatten(), self.beta.flatten(), EPS)


class GlobalLayerNorm(ChannelwiseLayerNorm):
    """gLN: each utterance is normalised over its channels and frames, `[batch, frames, channels]`."""

    def normalize(self, x: torch.Tensor) -> torch.Tensor:
        """Returns `x` without mean and with variance 1, before gain and offset."""
        return F.group_norm(x, 1, eps=EPS)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Returns `x` normalised, of the same shape."""
        return global_layer_norm(x, self.gamma.flatten(), self.beta.flatten(), EPS)
