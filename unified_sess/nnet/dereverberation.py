"""Dereverberation by weighted prediction error (WPE): filters fitted to each signal, nothing to train."""

import torch
import torch.nn.functional as F
from torch import nn

from unified_sess.nnet.fourier import fourier

FLOOR = 1e-2  # of a frequency's loudest moment: quieter moments weigh no more than those at this power
RIDGE = 1e-3  # of the mean weighted power, added for stability
PRIOR_FRAMES = 1.0  # frames that say no past frame matters, so that little is subtracted from short signals


class Dereverberation(nn.Module):
    """Subtract from every frame what earlier frames predict: the late part of the room.

    Each frequency has a filter over past frames of its own, the one that leaves least where the result is quiet (Nakatani
    et al. 2010, section IV, with one microphone and the power of the result as weight). Signals without a room hardly
    change, for speech predicts itself no further than some 30 ms.

    Arguments
    ---------
    past : int
        Frames that predict a frame.
    delay : int
        How many frames back the newest of them lies: what is nearer belongs to the direct sound and is kept.
    kernel_size : int
        Samples in a frame, a multiple of `stride`.
    stride : int
        Samples between frames, at most half the kernel.
    iterations : int
        How often the weights are found anew from the result.

    Example
    -------
    >>> Dereverberation(past=4, delay=2, kernel_size=64, stride=32)(torch.rand(2, 3200)).shape
    torch.Size([2, 3200])
    """

    def __init__(
        self, past: int = 10, delay: int = 2, kernel_size: int = 512, stride: int = 256, iterations: int = 3
    ) -> None:
        super().__init__()
        if min(past, delay, iterations) < 1:
            raise ValueError(f"past, delay and iterations must be at least 1, not {past}, {delay} and {iterations}")
        self.past, self.delay, self.iterations = past, delay, iterations
        self.kernel_size, self.stride = kernel_size, stride

    def forward(self, signal: torch.Tensor) -> torch.Tensor:
        """Signal `[batch, time]` of whole strides, at least a kernel long, to another; gradients pass the filters by."""
        signal, edge = signal.float(), self.kernel_size - self.stride
        waves = fourier(self.kernel_size).unsqueeze(1).to(signal.device)
        spectrum = F.conv1d(F.pad(signal, (edge, edge)).unsqueeze(1), waves, stride=self.stride)
        real, imaginary = spectrum.chunk(2, dim=1)
        past_real, past_imaginary = self._past(real), self._past(imaginary)  # [batch, frequencies, frames, past]
        with torch.no_grad():
            filters = self._filters(real, imaginary, past_real, past_imaginary)
        late = torch.cat(_predicted(past_real, past_imaginary, filters), dim=1)
        # Back to time: all frequencies but the first and the last stand for two.
        twice = torch.full((waves.shape[0], 1, 1), 2.0, device=signal.device)
        twice[:: self.kernel_size // 2] = 1.0  # ends of the real parts, first of the imaginary ones, which are 0 there
        overlap = self.kernel_size / (2 * self.stride)
        late = F.conv_transpose1d(late, waves * twice / overlap, stride=self.stride).squeeze(1)
        return signal - late[:, edge : edge + signal.shape[1]]

    def _past(self, x):
        frames = x.shape[-1]
        x = F.pad(x, (self.delay + self.past - 1, 0))
        return torch.stack([x[..., k : k + frames] for k in range(self.past)], dim=3)

    def _filters(self, real, imaginary, past_real, past_imaginary):
        """`[batch, frequencies, 2 * past, 1]`: real parts of the filters, then imaginary ones."""
        clean_real, clean_imaginary = real, imaginary
        for k in range(self.iterations):
            power = clean_real.square() + clean_imaginary.square()
            # Relative to the loudest moment, so that no loudness is too small for single precision.
            loudest = power.amax(2, keepdim=True).clamp_min(1e-30)
            weight = (power / loudest + FLOOR).rsqrt().unsqueeze(3) * loudest.rsqrt().unsqueeze(3)
            filters = _solved(real.unsqueeze(3), imaginary.unsqueeze(3), past_real, past_imaginary, weight)
            if k + 1 < self.iterations:
                late_real, late_imaginary = _predicted(past_real, past_imaginary, filters)
                clean_real, clean_imaginary = real - late_real, imaginary - late_imaginary
        return filters


def _predicted(past_real, past_imaginary, filters):
    a, b = filters.chunk(2, dim=2)
    return (past_real @ a - past_imaginary @ b).squeeze(3), (past_real @ b + past_imaginary @ a).squeeze(3)


def _solved(real, imaginary, past_real, past_imaginary, weight):
    """The filters of least weighted error: complex normal equations, written with real numbers for ONNX."""
    past_real, past_imaginary, past = past_real * weight, past_imaginary * weight, past_real.shape[3]
    both = torch.cat((past_real, past_imaginary), dim=3)
    products = both.transpose(2, 3) @ torch.cat((both, real * weight, imaginary * weight), dim=3)
    upper, lower = products[:, :, :past], products[:, :, past:]
    same = upper[..., :past] + lower[..., past : 2 * past]
    cross = upper[..., past : 2 * past] - lower[..., :past]
    matrix = torch.cat((torch.cat((same, -cross), dim=3), torch.cat((cross, same), dim=3)), dim=2)
    right = torch.cat((upper[..., -2:-1] + lower[..., -1:], upper[..., -1:] - lower[..., -2:-1]), dim=2)
    level = torch.diagonal(same, dim1=2, dim2=3).mean(2)[..., None, None]
    share = RIDGE + PRIOR_FRAMES / real.shape[2]
    return _gauss_jordan(matrix + (share * level + 1e-20) * torch.eye(2 * past, device=matrix.device), right)


def _gauss_jordan(matrix, right):
    """Solve positive definite systems `[..., n, n]` for `[..., n, 1]` with operations that ONNX has too."""
    system, n = torch.cat((matrix, right), dim=-1), matrix.shape[-1]
    for k in range(n):
        row = system[..., k : k + 1, :] / system[..., k : k + 1, k : k + 1]
        others = system - system[..., k : k + 1] * row
        system = torch.cat((others[..., :k, :], row, others[..., k + 1 :, :]), dim=-2)
    return system[..., n:]
