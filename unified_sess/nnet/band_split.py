"""A network on bands of a spectrogram: low frequencies keep their detail, high ones share points of the grid.

Most of speech's energy and harmonics lie below 2 to 3 kHz. Gathering what is above into wide bands lets a signal at
16 kHz cost what one at 8 kHz does (compare BSRNN, Luo and Yu 2023, and TIGER, arXiv 2410.01469). Every point has weights
of its own on the way in and out; between them recurrent paths along frequency and time share theirs. Such paths make a
cell. Cells run one after the other, or one of them several times, each time behind a small adapter, and masks can be
read after each run: so how much work a signal gets can be chosen when separating (compare TISDiSS, arXiv 2509.15666).
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn

from unified_sess.nnet.time_frequency import RecurrentPath, level_and_phase

CONTEXT = 3  # frames that a point sees on the way in
PARTS = 3  # of a frequency: level, real and imaginary part
SMALL_POWER_SHARE = 1e-4  # share of a frequency's power under which its real or imaginary part counts as small


class BandSplitNet(nn.Module):
    """Masks from recurrent cells over bands and time that run `repeats` times.

    Arguments
    ---------
    frequencies : int
        Of the encoder: `kernel_size // 2 + 1`.
    bands : list of [int, int]
        From low to high: how many frequencies, and how many of them share a point of the grid.
    channels : int
        Features of a point of the grid.
    hidden : int
        Units in each direction of an LSTM along time.
    frequency_hidden : int
        Units in each direction of an LSTM along frequency.
    num_layers : int
        Pairs of a path along frequency and one along time in a cell.
    repeats : int
        Runs of a cell at most.
    cells : int
        Cells with weights of their own that take turns, 1 to `repeats`: 1 runs the same cell again and again.
    num_spks : int
        Masks: number of speakers, or 1 for an enhancer.
    block : int
        Points that an LSTM takes in one step, along either path: fewer, wider steps are faster.
    causal : bool
        Whether masks of a frame know only the frames up to it.

    Attributes
    ----------
    effort : int
        Runs of a cell, 1 to `repeats`; may be set at any time.

    Raises
    ------
    ValueError
        When the bands do not make up all frequencies, or cells and repeats do not fit.

    Example
    -------
    >>> net = BandSplitNet(33, bands=[[8, 2], [25, 5]], channels=8, hidden=8, frequency_hidden=8)
    >>> net(torch.rand(4, 66, 10)).shape
    torch.Size([2, 4, 66, 10])
    """

    def __init__(
        self,
        frequencies: int = 257,
        bands: Sequence[Sequence[int]] = ((64, 2), (64, 8), (136, 17)),
        channels: int = 32,
        hidden: int = 128,
        frequency_hidden: int = 64,
        num_layers: int = 1,
        repeats: int = 1,
        cells: int = 1,
        num_spks: int = 2,
        block: int = 4,
        causal: bool = False,
    ) -> None:
        super().__init__()
        if not 1 <= cells <= repeats:
            raise ValueError(f"cells must be from 1 to repeats, {repeats}, not {cells}")
        self.num_spks, self.repeats, self.effort, self.causal = num_spks, repeats, repeats, causal
        self.num_layers, self.cells = num_layers, cells
        self.split = _Split(frequencies, bands, channels, causal)
        self.adapters = nn.ModuleList(_Adapter(channels) for _ in range(repeats))
        self.layers = nn.ModuleList(
            nn.ModuleDict(
                {
                    "frequency": RecurrentPath(channels, frequency_hidden, block),
                    "time": RecurrentPath(channels, hidden, block, causal),
                }
            )
            for _ in range(cells * num_layers)  # of one cell after the other
        )
        self.masks = _Masks(frequencies, bands, channels, num_spks)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Returns masks `[masks, batch, 2 * frequencies, frames]` for features `[batch, 2 * frequencies, frames]`."""
        *_, x = self._runs(features)
        return self.masks(x, features)

    def steps(self, features: torch.Tensor) -> list[torch.Tensor]:
        """Masks after each run of a cell, a list; the last are those of `forward`."""
        return [self.masks(x, features) for x in self._runs(features)]

    @torch.no_grad()
    def start_as_identity(self) -> None:
        """Make every mask 1, all weights still to train."""
        for linear in self.masks.bands_out:
            linear.weight.zero_()
            linear.bias.zero_()
            linear.bias.unflatten(1, (self.num_spks, 2, -1))[:, :, 0] = 1

    def _runs(self, features):
        x = self.split(level_and_phase(features, self.causal))
        for run, adapter in enumerate(self.adapters[: self.effort]):
            x = adapter(x)
            first = run % self.cells * self.num_layers
            for layer in self.layers[first : first + self.num_layers]:
                x = layer["frequency"](x)
                x = layer["time"](x.transpose(1, 2)).transpose(1, 2)
            yield x


class _Adapter(nn.Module):
    """What tells a run of the cell from the others: a linear layer added to its input, zero at the start."""

    def __init__(self, channels) -> None:
        super().__init__()
        self.linear = nn.Linear(channels, channels)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, x):
        return x + self.linear(x)


class _Split(nn.Module):
    """Parts of a spectrogram `[batch, 3, frames, frequencies]` to points of the grid `[batch, frames, points, channels]`."""

    def __init__(self, frequencies, bands, channels, causal) -> None:
        super().__init__()
        self.bands, self.missing = bands, _missing(frequencies, bands)
        self.context = (CONTEXT - 1, 0) if causal else (CONTEXT // 2, CONTEXT // 2)
        self.bands_in = nn.ModuleList(
            _LinearOfEach(size // width, CONTEXT * PARTS * width, channels) for size, width in bands
        )
        self.norm = nn.LayerNorm(channels)

    def forward(self, parts):
        x = F.pad(parts, (0, self.missing, *self.context)).transpose(1, 2)  # [batch, frames, 3, frequencies]
        batch, _, frames, _ = parts.shape
        x = torch.cat([x[:, k : k + frames] for k in range(CONTEXT)], dim=2)
        points, start = [], 0
        for (size, width), linear in zip(self.bands, self.bands_in):
            # Not unflatten, here and below: ONNX would take the length of the example for that of every signal.
            band = x[..., start : start + size].reshape(batch, frames, CONTEXT * PARTS, size // width, width)
            points.append(linear(band.transpose(2, 3).flatten(3)))
            start += size
        return self.norm(torch.cat(points, dim=2))


class _Masks(nn.Module):
    """Points of the grid to complex masks, written as factors of real and imaginary parts."""

    def __init__(self, frequencies, bands, channels, num_spks) -> None:
        super().__init__()
        self.frequencies, self.bands, self.num_spks = frequencies, bands, num_spks
        self.shared = nn.Sequential(nn.LayerNorm(channels), nn.Linear(channels, 2 * channels), nn.PReLU())
        self.bands_out = nn.ModuleList(
            _LinearOfEach(size // width, 2 * channels, 2 * num_spks * width) for size, width in bands
        )
        # Sources start as the mixture, each with its polarity: SI-SNR does not see it, and it stays as it starts.
        for linear in self.bands_out:
            nn.init.zeros_(linear.bias)
            linear.bias.data.unflatten(1, (num_spks, 2, -1))[:, :, 0] = 1.0

    def forward(self, x, features):
        batch, frames, *_ = x.shape
        x, masks, start = self.shared(x), [], 0
        for (size, width), linear in zip(self.bands, self.bands_out):
            points = size // width
            mask = linear(x[:, :, start : start + points]).reshape(batch, frames, points, 2 * self.num_spks, width)
            masks.append(mask.transpose(2, 3).flatten(3))  # [batch, frames, 2 * masks, size]
            start += points
        masks = torch.cat(masks, dim=3)[..., : self.frequencies].permute(2, 0, 3, 1)
        real, imaginary = masks[::2], masks[1::2]  # [masks, batch, frequencies, frames]
        return _as_factors(real, imaginary, features)


class _LinearOfEach(nn.Module):
    """A linear layer for each point of the grid, `[batch, frames, points, inputs]` to `[..., outputs]`."""

    def __init__(self, points, inputs, outputs) -> None:
        super().__init__()
        bound = 1 / math.sqrt(inputs)
        self.weight = nn.Parameter(torch.empty(points, inputs, outputs).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(points, outputs).uniform_(-bound, bound))

    def forward(self, x):
        return torch.matmul(x.transpose(1, 2), self.weight).transpose(1, 2) + self.bias


def _as_factors(real, imaginary, features):
    """Factors of the real and imaginary parts of features that multiply them by a complex mask.

    (m + ni)(a + bi) has the real part a(m - n b/a) and the imaginary part b(m + n a/b). Where a or b is small beside
    the other, its factor stays bounded and the turn falls short.
    """
    a, b = features.float().chunk(2, dim=1)
    floor = SMALL_POWER_SHARE * (a.square() + b.square()) + 1e-30
    product = a * b
    turn = torch.cat((-product / (a.square() + floor), product / (b.square() + floor)), dim=1)
    return torch.cat((real, real), dim=2) + torch.cat((imaginary, imaginary), dim=2) * turn


def _missing(frequencies, bands):
    """Frequencies by which bands reach above the spectrogram, less than the highest point is wide."""
    if any(size % width for size, width in bands):
        raise ValueError(f"bands {bands} must have sizes that are multiples of their widths")
    missing = sum(size for size, _ in bands) - frequencies
    if not 0 <= missing < bands[-1][1]:
        raise ValueError(f"bands {bands} cover {missing + frequencies} frequencies, not {frequencies}")
    return missing
