"""The network that tells voices apart, for its training; `inference.voices.encoder` runs it without torch."""

from typing import Any

import numpy as np
import torch
from torch import nn


class VoiceEncoder(nn.Module):
    """Embeddings of voices: convolutions along time, then weighted statistics of a stretch of it.

    A small relative of x-vectors (Snyder et al. 2018) with the attentive statistics of Okabe et al. 2018
    (arXiv 1803.10963).

    Arguments
    ---------
    bands : int
        Of the spectrum.
    channels : int
        Features of a frame; the last layer has twice as many.
    size : int
        Of an embedding.
    dilations : sequence of int
        Frames between the taps of each block's filter.

    Example
    -------
    >>> VoiceEncoder()(torch.rand(3, 32, 100)).shape
    torch.Size([3, 128])
    """

    def __init__(
        self, bands: int = 32, channels: int = 160, size: int = 128, dilations: tuple[int, ...] = (1, 2, 4)
    ) -> None:
        super().__init__()
        self.first, self.first_norm = nn.Conv1d(bands, channels, 5, padding=2), nn.BatchNorm1d(channels)
        self.blocks = nn.ModuleList(nn.Conv1d(channels, channels, 3, padding=d, dilation=d) for d in dilations)
        self.norms = nn.ModuleList(nn.BatchNorm1d(channels) for _ in dilations)
        self.last, self.attention = nn.Conv1d(channels, 2 * channels, 1), nn.Conv1d(2 * channels, 1, 1)
        self.pool_norm, self.linear = nn.BatchNorm1d(4 * channels), nn.Linear(4 * channels, size)

    def forward(self, spectrum: torch.Tensor) -> torch.Tensor:
        """Spectra in dB near -1 to 1, `[batch, bands, frames]`, to embeddings of any length `[batch, size]`."""
        x = self.first_norm(self.first(spectrum).relu())
        for block, norm in zip(self.blocks, self.norms, strict=True):
            x = x + norm(block(x).relu())
        x = self.last(x).relu()
        share = self.attention(x).clamp(-10, 10).softmax(2)
        mean, square = (share * x).sum(2), (share * x * x).sum(2)
        deviation = (square - mean * mean).clamp_min(1e-6).sqrt()
        return self.linear(self.pool_norm(torch.cat((mean, deviation), dim=1)))

    @torch.no_grad()
    def arrays(self) -> dict[str, np.ndarray]:
        """Everything that `inference.voices.encoder` needs, by name, float16."""
        found: dict[str, Any] = {"blocks": torch.tensor(len(self.blocks))}
        found |= _filters("first", self.first) | _affine("first", self.first_norm)
        for k, (block, norm) in enumerate(zip(self.blocks, self.norms, strict=True)):
            found |= (
                _filters(str(k), block) | _affine(str(k), norm) | {f"{k}.dilation": torch.tensor(block.dilation[0])}
            )
        for name, layer in (("last", self.last), ("attention", self.attention)):
            found |= {f"{name}.weight": layer.weight[:, :, 0].T, f"{name}.bias": layer.bias}
        scale, shift = _affine("", self.pool_norm).values()
        found["linear.weight"] = (self.linear.weight * scale).T
        found["linear.bias"] = self.linear.bias + self.linear.weight @ shift
        return {name: value.half().numpy() for name, value in found.items()}


def _filters(name, layer):
    return {f"{name}.weight": layer.weight.permute(2, 1, 0), f"{name}.bias": layer.bias}


def _affine(name, norm):
    """What a batch norm does once it is trained."""
    scale = norm.weight / (norm.running_var + norm.eps).sqrt()
    return {f"{name}.scale": scale, f"{name}.shift": norm.bias - scale * norm.running_mean}
