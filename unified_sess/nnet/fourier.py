"""The waves of a short-time Fourier transform, as filters."""

import math

import torch


def fourier(size: int) -> torch.Tensor:
    """Real and imaginary parts of windowed waves, `[size + 2, size]`; an orthonormal transform but for the window.

    On the CPU, also where the network is built without values on the meta device, whose arithmetic takes seconds to
    import torch's compiler.
    """
    with torch.device("cpu"):
        time, frequency = torch.arange(size), torch.arange(size // 2 + 1).unsqueeze(1)
        phase = 2 * math.pi * (frequency * time % size) / size
        window = torch.hann_window(size).sqrt() / math.sqrt(size)
        return torch.cat((window * phase.cos(), -window * phase.sin()))


def inverse_scale(size: int, stride: int) -> torch.Tensor:
    """Factors `[size + 2, 1]` of `fourier`'s waves with which its parts, added up every `stride` samples, are the signal."""
    with torch.device("cpu"):
        twice = torch.full((size // 2 + 1, 1), 2.0)  # a real signal's other half of frequencies
        twice[0] = twice[-1] = 1.0
        overlap = size / (2 * stride)  # what the squared windows of all frames add up to
        return torch.cat((twice, twice)) / overlap
