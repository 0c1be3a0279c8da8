"""SepReformer: a U-Net that separates at its lowest rates and reconstructs the speakers with shared weights.

Shin et al., "Separate and Reconstruct: Asymmetric Encoder-Decoder for Speech Separation", arXiv 2406.05983. It gives the
sources' features themselves, not masks. Each stage of its decoder has sources to show, for losses at every stage.
"""

from collections.abc import Iterator
from contextlib import nullcontext

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from unified_sess.nnet.attention import at_least_single
from unified_sess.nnet.sepreformer_blocks import (
    DepthwiseConv,
    FrameBatchNorm,
    GlobalBlock,
    LocalBlock,
    Recomputing,
    SpeakerBlock,
)

SEQUENCE_EPS = 1e-8


class GeluEncoder(nn.Module):
    """Learnt filters and GELU, `[batch, time]` to `[batch, channels, frames]`.

    Arguments
    ---------
    kernel_size, out_channels, stride : int
        Samples in a filter, filters, and samples between frames.

    Example
    -------
    >>> GeluEncoder(16, 256, 4)(torch.rand(3, 8000)).shape
    torch.Size([3, 256, 1997])
    """

    def __init__(self, kernel_size: int = 16, out_channels: int = 256, stride: int = 4) -> None:
        super().__init__()
        self.conv1d = nn.Conv1d(1, out_channels, kernel_size, stride, bias=False)

    def forward(self, signal: torch.Tensor) -> torch.Tensor:
        """Signal `[batch, time]` to features `[batch, channels, frames]`."""
        return F.gelu(self.conv1d(signal.unsqueeze(1)))


class SepReformer(nn.Module):
    """The sources' features, or masks, from one network that halves the rate stage by stage and doubles it again.

    Arguments
    ---------
    in_channels : int
        Channels of the encoder.
    channels : int
        Features of a frame inside (F of the paper), a multiple of `nhead`.
    stages : int
        How often the rate is halved (R of the paper).
    num_spks : int
        Sources: number of speakers, or 1 for an enhancer.
    encoder_blocks, decoder_blocks : int
        Pairs of a global and a local block in a stage of the encoder and of the decoder.
    nhead : int
        Attention heads.
    kernel_size : int
        Frames that the convolution of a local block sees, odd.
    max_distance : int
        Steps at the lowest rate from which on distances are not told apart.
    dropout : float
        Share of values left out in training, 0 to 1.
    maps : bool
        True gives the sources' features, as published; False gives masks of at least 0, that start near 1.
    step_outputs : bool
        Whether there are output layers for losses on each stage of the decoder; separating does not need them.
    activation_checkpointing : bool
        Keep only each block's input for the backward pass and compute the block again there.

    Raises
    ------
    ValueError
        When channels are no multiple of the heads.

    Example
    -------
    >>> SepReformer(in_channels=16, channels=8, stages=2, nhead=2)(torch.rand(4, 16, 100)).shape
    torch.Size([2, 4, 16, 100])
    """

    def __init__(
        self,
        in_channels: int = 256,
        channels: int = 128,
        stages: int = 4,
        num_spks: int = 2,
        encoder_blocks: int = 2,
        decoder_blocks: int = 3,
        nhead: int = 8,
        kernel_size: int = 65,
        max_distance: int = 2000,
        dropout: float = 0.05,
        maps: bool = True,
        step_outputs: bool = True,
        activation_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        if channels % nhead:
            raise ValueError(f"channels = {channels} must be a multiple of nhead = {nhead}")
        self.num_spks, self.stages, self.max_distance, self.dropout = num_spks, stages, max_distance, dropout
        self.maps, self.activation_checkpointing = maps, activation_checkpointing
        self.norm = nn.GroupNorm(1, in_channels, eps=SEQUENCE_EPS)
        self.inputs = nn.Linear(in_channels, channels, bias=False)
        self.distances = nn.Parameter(torch.randn(2 * max_distance, channels // nhead))

        def pair() -> dict:
            return {
                "global": GlobalBlock(channels, nhead, dropout),
                "local": LocalBlock(channels, kernel_size, dropout),
            }

        def speakers() -> dict:
            return {"speakers": SpeakerBlock(channels, nhead, dropout)} if num_spks > 1 else {}

        self.encoder = nn.ModuleList(  # the last one is the bottleneck
            nn.ModuleList(nn.ModuleDict(pair()) for _ in range(encoder_blocks)) for _ in range(stages + 1)
        )
        self.halves = nn.ModuleList(
            nn.Sequential(DepthwiseConv(channels, 5, stride=2), FrameBatchNorm(channels), nn.GELU())
            for _ in range(stages)
        )
        self.split = SpeakerSplit(channels, num_spks)
        self.fusions = nn.ModuleList(nn.Linear(2 * channels, channels) for _ in range(stages))
        self.decoder = nn.ModuleList(
            nn.ModuleList(nn.ModuleDict(pair() | speakers()) for _ in range(decoder_blocks)) for _ in range(stages)
        )
        self.outputs = _output_layer(channels, in_channels)
        if not maps:
            nn.init.ones_(self.outputs[-1].bias)
        heads = stages if step_outputs else 0
        self.step_outputs = nn.ModuleList(_output_layer(channels, in_channels) for _ in range(heads))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Returns `[sources, batch, channels, frames]` for features `[batch, channels, frames]`."""
        *_, x = self._stages(features)
        return self._last(x, features)

    def steps(self, features: torch.Tensor) -> list[torch.Tensor]:
        """The same after each stage of the decoder, a list; the last is what `forward` gives."""
        *earlier, x = self._stages(features)
        return [
            *(self._masked(layer, y, features) for layer, y in zip(self.step_outputs, earlier)),
            self._last(x, features),
        ]

    @torch.no_grad()
    def start_as_identity(self) -> None:
        """Make every mask 1, all weights still to train; `ValueError` of a network that gives no masks."""
        if self.maps:
            raise ValueError("only a network that gives masks can start as an identity")
        self.outputs[-1].weight.zero_()
        self.outputs[-1].bias.fill_(1)

    def _stages(self, features: torch.Tensor) -> Iterator[torch.Tensor]:
        """What the decoder starts from and gives after each stage, `[batch * sources, frames, channels]`."""
        x = at_least_single(self.inputs(self.norm(features).transpose(1, 2)))
        x = F.pad(x, (0, 0, 0, -x.shape[1] % 2**self.stages))
        distances = self._distances(x.shape[1] // 2**self.stages)
        skips = []
        for stage, half in zip(self.encoder, [*self.halves, None]):
            x = self._through(stage, x, distances)
            skips.append(self.split(x))
            x = x if half is None else at_least_single(half(x))
        x = skips.pop()
        yield x
        for fusion, stage in zip(self.fusions, self.decoder):
            # A linear layer of both, of the one at the lower rate before each frame of it stands twice.
            of_x, of_skip = fusion.weight.chunk(2, dim=1)
            low, skip = F.linear(x, of_x), F.linear(skips.pop(), of_skip, fusion.bias)
            x = at_least_single(skip.unflatten(1, (-1, 2)) + low.unsqueeze(2)).flatten(1, 2)
            x = self._through(stage, x, distances)
            yield x

    def _through(self, stage, x, distances):
        for pair in stage:
            x = self._run(pair["global"], x, distances)
            x = self._run(pair["local"], x)
            if "speakers" in pair:
                x = self._run(pair["speakers"], x, self.num_spks)
        return x

    def _run(self, block, *inputs):
        if not (self.activation_checkpointing and self.training and torch.is_grad_enabled()):
            return block(*inputs)
        contexts = {"context_fn": lambda: (nullcontext(), Recomputing())}
        return checkpoint(block, *inputs, use_reentrant=False, preserve_rng_state=self.dropout > 0, **contexts)

    def _distances(self, steps):
        """Embeddings of the distances from `steps` down to `1 - steps`, `[2 * steps, width]`."""
        distance = steps - torch.arange(2 * steps, device=self.distances.device)
        return self.distances[distance.clamp(-self.max_distance, self.max_distance - 1) + self.max_distance]

    def _last(self, x, features):
        if not self.maps:
            return self._by_source(self.outputs(x[:, : features.shape[2]]).relu())
        return self._by_source(self.outputs(x[:, : features.shape[2]]))

    def _masked(self, layer, x, features):
        """Features masked by what a layer makes of frames at a lower rate, each of which stands for several."""
        masks = self._by_source(layer(x).relu())
        masks = F.interpolate(masks.flatten(0, 1), features.shape[2], mode="nearest").unflatten(0, masks.shape[:2])
        return masks * features if self.maps else masks

    def _by_source(self, y):
        return y.unflatten(0, (-1, self.num_spks)).permute(1, 0, 3, 2)


class SpeakerSplit(nn.Module):
    """One sequence to one a speaker, `[batch, frames, channels]` to `[batch * speakers, frames, channels]`.

    Arguments
    ---------
    channels, num_spks : int
        Features of a frame, and speakers.
    """

    def __init__(self, channels: int, num_spks: int) -> None:
        super().__init__()
        wide = 2 * channels * num_spks
        self.num_spks = num_spks
        self.layers = nn.Sequential(nn.Linear(channels, 2 * wide), nn.GLU(), nn.Linear(wide, channels * num_spks))
        self.weight, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """`[batch, frames, channels]` to `[batch * speakers, frames, channels]`, each normalised over all its values."""
        x = self.layers(x).unflatten(2, (self.num_spks, -1)).transpose(1, 2).flatten(0, 1)
        return F.layer_norm(x, x.shape[1:], eps=SEQUENCE_EPS) * self.weight + self.bias


def _output_layer(channels, out_channels):
    return nn.Sequential(nn.Linear(channels, 4 * channels), nn.GLU(), nn.Linear(2 * channels, out_channels))
