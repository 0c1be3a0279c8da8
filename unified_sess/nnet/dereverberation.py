"""Dereverberation by weighted prediction error (WPE): filters fitted to each signal, nothing to train."""

import torch
import torch.nn.functional as F
from torch import nn

from unified_sess.nnet.fourier import fourier, inverse_scale
from unified_sess.nnet.recursive_filters import predict_recursively

FLOOR = 3e-3  # of a frequency's loudest moment: quieter moments weigh no more than those at this power
RIDGE = 1e-3  # of the mean weighted power, added for stability
PRIOR_FRAMES = 2.0  # frames that say no past frame matters, so that little is subtracted from short signals
# The same for filters of the frames so far: with 2, dry validation mixtures lost 2.2 dB, with 80 none on average.
PRIOR_FRAMES_SO_FAR = 80.0
# Share of the energy that is late, from -18 to -14 dB: below, nothing is subtracted, above, all of it. Of 40 dry validation
# mixtures half lie below and a tenth above; of 40 in rooms none lies below and three quarters above.
DRY, IN_A_ROOM = 0.016, 0.04


class Dereverberation(nn.Module):
    """Subtract from every frame what earlier frames predict: the late part of the room.

    Each frequency has a filter over past frames of its own, the one that leaves least where the result is quiet (Nakatani
    et al. 2010, doi:10.1109/TASL.2010.2052251, with one microphone and the power of the result as weight). Where that is so
    little that there may be no room, less or nothing is subtracted.

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
        How often the weights are found anew from the result; once with `causal`.
    causal : bool
        Whether a frame knows only the frames before it: filters, weights and shares are then those of the frames so far.

    Raises
    ------
    ValueError
        When past, delay or iterations are under 1.

    Example
    -------
    >>> Dereverberation(past=4, delay=2, kernel_size=64, stride=32)(torch.rand(2, 3200)).shape
    torch.Size([2, 3200])
    """

    def __init__(
        self,
        past: int = 10,
        delay: int = 2,
        kernel_size: int = 512,
        stride: int = 256,
        iterations: int = 3,
        causal: bool = False,
    ) -> None:
        super().__init__()
        if min(past, delay, iterations) < 1:
            raise ValueError(f"past, delay and iterations must be at least 1, not {past}, {delay} and {iterations}")
        self.past, self.delay, self.iterations = past, delay, iterations
        self.kernel_size, self.stride, self.causal = kernel_size, stride, causal
        # Constants: in no checkpoint, and with values also where the network is built without any.
        # Waves of 16 bits survive a model of 16 bits, and halve its ONNX file's share of them.
        self.register_buffer("waves", fourier(kernel_size).unsqueeze(1).half().float(), persistent=False)
        self.register_buffer("scale", inverse_scale(kernel_size, stride), persistent=False)
        self.register_buffer("identity", torch.eye(2 * past, device="cpu"), persistent=False)

    def forward(self, signal: torch.Tensor) -> torch.Tensor:
        """Signal `[batch, time]` of whole strides, at least a kernel long, to another; gradients pass the filters by."""
        with torch.autocast(signal.device.type, enabled=False):
            return self._without_late_part(signal.to(self.waves.dtype))

    def _without_late_part(self, signal):
        edge = self.kernel_size - self.stride
        spectrum = F.conv1d(F.pad(signal, (edge, edge)).unsqueeze(1), self.waves, stride=self.stride)
        real, imaginary = spectrum.chunk(2, dim=1)
        late = self._late_so_far(real, imaginary) if self.causal else self._late(real, imaginary)
        late = F.conv_transpose1d(late * self.scale, self.waves, stride=self.stride)[:, 0]
        late = late[:, edge : edge + signal.shape[1]]
        if self.causal:  # frame by frame, done already
            return signal - late
        return signal - _share_to_subtract(_energy(late), _energy(signal)) * late

    def _late(self, real, imaginary):
        past_real, past_imaginary = self._past(real), self._past(imaginary)  # [batch, frequencies, frames, past]
        with torch.no_grad():
            filters = self._filters(real, imaginary, past_real, past_imaginary)
        return torch.cat(_predicted(past_real, past_imaginary, filters), dim=1)

    @torch.no_grad()
    def _late_so_far(self, real, imaginary):
        spectrum = torch.complex(real, imaginary)
        late = predict_recursively(spectrum, self.past, self.delay, PRIOR_FRAMES_SO_FAR, FLOOR)
        energies = (x.abs().square().sum(1).cumsum(1) for x in (late, spectrum))  # [batch, frames]
        late = _share_to_subtract(*energies).unsqueeze(1) * late
        return torch.cat((late.real, late.imag), dim=1)

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
            matrix, right = _equations(real.unsqueeze(3), imaginary.unsqueeze(3), past_real, past_imaginary, weight)
            filters = _solved(matrix + self._ridge(matrix, real.shape[2]), right)
            if k + 1 < self.iterations:
                late_real, late_imaginary = _predicted(past_real, past_imaginary, filters)
                clean_real, clean_imaginary = real - late_real, imaginary - late_imaginary
        return filters

    def _ridge(self, matrix, frames):
        level = (matrix * self.identity).sum((2, 3), keepdim=True) / (2 * self.past)
        return ((RIDGE + PRIOR_FRAMES / frames) * level + 1e-20) * self.identity


@torch.no_grad()
def _share_to_subtract(late, all_of_it):
    """0 to 1, of energies."""
    return ((late / all_of_it.clamp_min(1e-30) - DRY) / (IN_A_ROOM - DRY)).clamp(0, 1)


def _energy(signal):
    return signal.square().mean(1, keepdim=True)


def _predicted(past_real, past_imaginary, filters):
    a, b = filters.chunk(2, dim=2)
    return (past_real @ a - past_imaginary @ b)[..., 0], (past_real @ b + past_imaginary @ a)[..., 0]


def _equations(real, imaginary, past_real, past_imaginary, weight):
    """Normal equations of the filters of least weighted error; complex ones, written with real numbers for ONNX."""
    past_real, past_imaginary, past = past_real * weight, past_imaginary * weight, past_real.shape[3]
    both = torch.cat((past_real, past_imaginary), dim=3)
    products = both.transpose(2, 3) @ torch.cat((both, real * weight, imaginary * weight), dim=3)
    upper, lower = products[:, :, :past], products[:, :, past:]
    same = upper[..., :past] + lower[..., past : 2 * past]
    cross = upper[..., past : 2 * past] - lower[..., :past]
    matrix = torch.cat((torch.cat((same, -cross), dim=3), torch.cat((cross, same), dim=3)), dim=2)
    right = torch.cat((upper[..., -2:-1] + lower[..., -1:], upper[..., -1:] - lower[..., -2:-1]), dim=2)
    return matrix, right


def _solved(matrix, right):
    """Solutions `[..., n, 1]` of positive definite systems `[..., n, n]`, by Gauss and Jordan: ONNX has no solver."""
    system, n = torch.cat((matrix, right), dim=-1), matrix.shape[-1]
    for k in range(n):
        row = system[..., k : k + 1, :] / system[..., k : k + 1, k : k + 1]
        others = system - system[..., k : k + 1] * row
        system = torch.cat((others[..., :k, :], row, others[..., k + 1 :, :]), dim=-2)
    return system[..., n:]
