"""Enhancer and separator as one mask network, for SpeechBrain classes that know no enhancer."""

import torch
from torch import Tensor, nn

from unified_sess.network import estimate

SMALLEST = 1e-30  # of a feature that a mask could turn into another one


class CompositeMaskNet(nn.Module):
    """The masks of both tasks in one: `mask_e * masknet(mask_e * W)`.

    SpeechBrain's `SepformerSeparation` multiplies the encoded mixture by what its `masknet` returns, so with this
    module as `masknet` it runs the whole unified network. Where a network maps, its masks are what it gives divided by
    the features: the same sources, but for what it gives where a feature is zero.

    Arguments
    ---------
    enhancer : torch.nn.Module
        `[batch, channels, frames]` to a mask `[1, batch, channels, frames]`.
    masknet : torch.nn.Module
        `[batch, channels, frames]` to masks `[speakers, batch, channels, frames]`.

    Example
    -------
    >>> from unified_sess.network import NoEnhancer
    >>> from unified_sess.nnet.conv_tasnet import MaskNet
    >>> CompositeMaskNet(NoEnhancer(), MaskNet(N=16, B=8, H=12, P=3, X=2, R=1, C=2))(torch.rand(4, 16, 100)).shape
    torch.Size([2, 4, 16, 100])
    """

    def __init__(self, enhancer: nn.Module, masknet: nn.Module) -> None:
        super().__init__()
        self.enhancer = enhancer
        self.masknet = masknet

    def forward(self, features: Tensor) -> Tensor:
        """Returns masks `[speakers, batch, channels, frames]` for an encoded mixture `[batch, channels, frames]`."""
        if any(getattr(network, "maps", False) for network in (self.enhancer, self.masknet)):
            sources = estimate(self.masknet, estimate(self.enhancer, features)[0])
            return torch.where(features.abs() < SMALLEST, 0, sources / features)
        mask = self.enhancer(features)[0]
        return mask * self.masknet(features * mask)
