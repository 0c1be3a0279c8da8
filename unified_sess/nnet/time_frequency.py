"""A small network on a spectrogram: two paths of LSTMs, one along frequency and one along time.

Where a waveform network has one frame every 1-2 ms, a spectrogram has one every 16 ms, and its frequencies share all
weights (compare TFPSNet, Yang et al. 2022, and TF-GridNet, Wang et al.
2023). The filters start as a short-time Fourier transform and are trained with the rest; they are small, so give them a
small learning rate.
"""

import torch
import torch.nn.functional as F
from torch import nn

from unified_sess.nnet.dereverberation import Dereverberation
from unified_sess.nnet.fourier import fourier, inverse_scale

POWER_FLOOR = 1e-8  # power 80 dB under the signal's mean, below which levels are not told apart


class SpectralEncoder(nn.Module):
    """Filters that start as a short-time Fourier transform with a root-Hann window.

    Arguments
    ---------
    kernel_size : int
        Samples in a filter, a multiple of `stride`.
    stride : int
        Samples between frames, at most half the kernel.
    past : int
        Frames from which `Dereverberation` predicts, and subtracts, the late part of the room; 0 leaves it out.
    delay : int
        How many frames back the newest of them lies.
    causal : bool
        Whether they are found in the frames so far alone; a frame then knows one stride more than its own samples.

    Example
    -------
    >>> SpectralEncoder(256, 128)(torch.rand(3, 8000)).shape
    torch.Size([3, 258, 64])
    """

    def __init__(
        self, kernel_size: int = 256, stride: int = 128, past: int = 0, delay: int = 2, causal: bool = False
    ) -> None:
        super().__init__()
        self.dereverberation = (
            Dereverberation(past, delay, kernel_size, stride, causal=causal) if past else nn.Identity()
        )
        self.edge = _edge(kernel_size, stride)
        self.conv1d = nn.Conv1d(1, kernel_size + 2, kernel_size, stride, bias=False)
        with torch.no_grad():
            self.conv1d.weight.copy_(fourier(kernel_size).unsqueeze(1))

    def forward(self, signal: torch.Tensor) -> torch.Tensor:
        """Signal `[batch, time]` to real parts, then imaginary parts, `[batch, kernel_size + 2, frames]`."""
        missing = -signal.shape[-1] % self.conv1d.stride[0]
        signal = self.dereverberation(F.pad(signal, (self.edge, self.edge + missing)))
        return self.conv1d(signal.unsqueeze(1))


class SpectralDecoder(nn.Module):
    """Filters that start as the inverse of `SpectralEncoder`'s.

    Arguments
    ---------
    kernel_size, stride : int
        Those of the encoder.

    Example
    -------
    >>> x = torch.rand(3, 8000)
    >>> y = SpectralDecoder(256, 128)(SpectralEncoder(256, 128)(x))
    >>> torch.allclose(y[:, :8000], x, atol=1e-4)
    True
    """

    def __init__(self, kernel_size: int = 256, stride: int = 128) -> None:
        super().__init__()
        self.edge = _edge(kernel_size, stride)
        self.conv = nn.ConvTranspose1d(kernel_size + 2, 1, kernel_size, stride, bias=False)
        with torch.no_grad():
            self.conv.weight.copy_((inverse_scale(kernel_size, stride) * fourier(kernel_size)).unsqueeze(1))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Features `[batch, kernel_size + 2, frames]` to a signal `[batch, time]`, up to a stride longer than it was."""
        return self.conv(features).squeeze(1)[:, self.edge :]


def _edge(kernel_size: int, stride: int) -> int:
    if kernel_size % stride or kernel_size < 2 * stride:
        raise ValueError(
            f"kernel_size must be a multiple of the stride, at least twice, not {kernel_size} and {stride}"
        )
    return kernel_size - stride


class TimeFrequencyNet(nn.Module):
    """Masks from a dual-path recurrent network over frequency and time.

    Arguments
    ---------
    frequencies : int
        Of the encoder: `kernel_size // 2 + 1`.
    channels : int
        Features of a point of the grid.
    hidden : int
        Units of an LSTM in each direction.
    num_layers : int
        Pairs of a path along frequency and one along time.
    num_spks : int
        Masks: number of speakers, or 1 for an enhancer.
    pooling : int
        Frequencies that share a point of the grid.
    block : int
        Points of the grid that an LSTM takes in one step, along either path: fewer, wider steps are faster.
    high_frequencies : int
        How many of the highest frequencies share points of their own, which are wider: little of speech is up there
        (compare BSRNN, Luo and Yu 2023).
    high_pooling : int
        Of those, frequencies that share a point.
    causal : bool
        Whether masks of a frame know only the frames up to it.

    Raises
    ------
    ValueError
        When the frequencies (below the wide points, one less) are no multiple of their pooling.

    Example
    -------
    >>> TimeFrequencyNet(frequencies=33, channels=8, hidden=8, num_layers=1, num_spks=2)(torch.rand(4, 66, 10)).shape
    torch.Size([2, 4, 66, 10])
    """

    def __init__(
        self,
        frequencies: int = 129,
        channels: int = 32,
        hidden: int = 48,
        num_layers: int = 3,
        num_spks: int = 2,
        pooling: int = 2,
        block: int = 1,
        high_frequencies: int = 0,
        high_pooling: int = 16,
        causal: bool = False,
    ) -> None:
        super().__init__()
        self.low = frequencies - high_frequencies
        if (self.low - 1) % pooling:
            raise ValueError(f"frequencies - 1 = {self.low - 1} must be a multiple of pooling, not {pooling}")
        if high_frequencies % high_pooling:
            raise ValueError(f"high_frequencies {high_frequencies} must be a multiple of high_pooling {high_pooling}")
        self.num_spks, self.has_high, self.causal = num_spks, high_frequencies > 0, causal
        self.points = (self.low - 1) // pooling + 1  # of the grid, below the wide ones
        width = max(3, pooling // 2 * 2 + 1)  # at least the stride, so that no frequency is passed over
        grid = {"kernel_size": (3, width), "stride": (1, pooling), "padding": (1, width // 2)}
        self.inputs = nn.Conv2d(3, channels, **grid)
        self.norm = nn.GroupNorm(1, channels)
        self.layers = nn.ModuleList(
            nn.ModuleDict(
                {
                    "frequency": RecurrentPath(channels, hidden, block),
                    "time": RecurrentPath(channels, hidden, block, causal),
                }
            )
            for _ in range(num_layers)
        )
        self.masks = nn.ConvTranspose2d(channels, 2 * num_spks, **grid)
        # Sources start as the mixture, each with its polarity: SI-SNR does not see it, and it stays as it starts.
        nn.init.ones_(self.masks.bias)
        if high_frequencies:
            grid = {"kernel_size": (3, high_pooling), "stride": (1, high_pooling), "padding": (1, 0)}
            self.high_inputs = nn.Conv2d(3, channels, **grid)
            self.high_masks = nn.ConvTranspose2d(channels, 2 * num_spks, **grid)
            nn.init.ones_(self.high_masks.bias)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Returns masks `[masks, batch, 2 * frequencies, frames]` for features `[batch, 2 * frequencies, frames]`."""
        x = self._normed(self._points(level_and_phase(features, self.causal)))
        x = x.permute(0, 2, 3, 1)  # [batch, frames, grid, channels]
        for layer in self.layers:
            x = layer["frequency"](x)
            x = layer["time"](x.transpose(1, 2)).transpose(1, 2)
        masks = self._masks(x.permute(0, 3, 1, 2)).transpose(2, 3)  # [batch, 2 * masks, frequencies, frames]
        return masks.unflatten(1, (self.num_spks, 2)).flatten(2, 3).transpose(0, 1)

    @torch.no_grad()
    def start_as_identity(self) -> None:
        """Make every mask 1, all weights still to train."""
        for name, layer in self.named_children():
            if name in ("masks", "high_masks"):
                layer.weight.zero_()
                layer.bias.fill_(1)

    def _normed(self, x: torch.Tensor) -> torch.Tensor:
        if not self.causal:
            return self.norm(x)
        batch, channels, frames, points = x.shape  # each frame by itself
        x = self.norm(x.transpose(1, 2).reshape(batch * frames, channels, 1, points))
        return x.reshape(batch, frames, channels, points).transpose(1, 2)

    def _points(self, parts: torch.Tensor) -> torch.Tensor:
        if not self.has_high:
            return self._in_time(self.inputs, parts)
        low, high = parts[..., : self.low], parts[..., self.low :]
        return torch.cat((self._in_time(self.inputs, low), self._in_time(self.high_inputs, high)), dim=3)

    def _masks(self, x: torch.Tensor) -> torch.Tensor:
        if not self.has_high:
            return self._in_time(self.masks, x)
        low, high = x[..., : self.points], x[..., self.points :]
        return torch.cat((self._in_time(self.masks, low), self._in_time(self.high_masks, high)), dim=3)

    def _in_time(self, layer: nn.Module, x: torch.Tensor) -> torch.Tensor:
        """A layer over three frames: the one before, this one and the next, or with `causal` the two before and this one."""
        return layer(F.pad(x, (0, 0, 1, 0)))[:, :, :-1] if self.causal else layer(x)


class RecurrentPath(nn.Module):
    """An LSTM along the last but one dimension, added to its input `[batch, others, steps, channels]`.

    Arguments
    ---------
    channels : int
        Features of a point of the grid.
    hidden : int
        Units of the LSTM in each direction.
    block : int
        Points of the grid that the LSTM takes in one step.
    causal : bool
        Whether a point knows only the points before it: one direction, and blocks that end where they used to start.

    Example
    -------
    >>> RecurrentPath(8, 16, block=4)(torch.rand(2, 5, 10, 8)).shape
    torch.Size([2, 5, 10, 8])
    """

    def __init__(self, channels: int, hidden: int, block: int, causal: bool = False) -> None:
        super().__init__()
        self.block, self.causal = block, causal
        self.norm = nn.LayerNorm(channels)
        self.rnn = nn.LSTM(channels * block, hidden, batch_first=True, bidirectional=not causal)
        self.linear = nn.Linear(hidden if causal else 2 * hidden, channels * block)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Points `[batch, others, steps, channels]` to as many."""
        batch, others, steps, channels = x.shape
        whole = steps + -steps % self.block
        y = F.pad(self.norm(x), (0, 0, self.block - 1, 0) if self.causal else (0, 0, 0, whole - steps))
        y = self.rnn(y[:, :, :whole].reshape(batch * others, -1, channels * self.block))[0]
        return x + self.linear(y).view(batch, others, -1, channels)[:, :, :steps]


def level_and_phase(features: torch.Tensor, causal: bool = False) -> torch.Tensor:
    """Log level and compressed real and imaginary parts, `[batch, 3, frames, frequencies]`, whatever the loudness.

    Loudness is that of the whole signal, or with `causal` that of the frames so far.
    """
    features = features.float()
    power = features.square().mean(1, keepdim=True)  # in two stages: over a minute at once fp32 loses digits
    if causal:
        power = power.cumsum(2) / torch.arange(1, power.shape[2] + 1, device=power.device)
    else:
        power = power.mean(2, keepdim=True)
    scale = power.mul(2).clamp_min(1e-20).rsqrt()
    real, imaginary = (features * scale).chunk(2, dim=1)
    level = (real.square() + imaginary.square() + POWER_FLOOR).sqrt()
    root = level.sqrt()
    return torch.stack((level.log(), real / root, imaginary / root), dim=1).transpose(2, 3)
