"""Prediction filters that follow a signal frame by frame: recursive least squares."""

import torch
import torch.nn.functional as F


def predict_recursively(
    spectrum: torch.Tensor, past: int, delay: int, prior_frames: float, floor: float
) -> torch.Tensor:
    """What earlier frames predict of each frame, by filters that know no frame from this one on.

    The filters are those that leave least weighted power in the frames so far, found by recursive least squares without
    forgetting; the weight of a frame is one over the power that its prediction left (weighted prediction error, Nakatani
    et al. 2010, doi:10.1109/TASL.2010.2052251; the recursion is that of NARA-WPE, Drude et al. 2018).

    Arguments
    ---------
    spectrum : torch.Tensor
        `[batch, frequencies, frames]`, complex.
    past : int
        Frames that predict a frame.
    delay : int
        How many frames back the newest of them lies.
    prior_frames : float
        Frames of unit power that say no past frame matters; larger than 0.
    floor : float
        Of the loudest power so far: a quieter frame weighs hardly more than one of this power.

    Returns
    -------
    torch.Tensor
        `[batch, frequencies, frames]`, complex.

    Example
    -------
    >>> predict_recursively(torch.randn(2, 5, 20, dtype=torch.complex64), 4, 2, prior_frames=2.0, floor=0.003).shape
    torch.Size([2, 5, 20])
    """
    padded = F.pad(spectrum, (delay + past - 1, 0))
    frames, predicted = spectrum.shape[2], torch.zeros_like(spectrum)
    inverse = torch.eye(past, dtype=spectrum.dtype, device=spectrum.device) / prior_frames
    inverse = inverse.expand(*spectrum.shape[:2], past, past)  # of the weighted products of past frames
    filters = spectrum.new_zeros(*spectrum.shape[:2], past)
    loudest = spectrum.real.new_zeros(spectrum.shape[:2])
    for k in range(frames):
        window = padded[:, :, k : k + past]
        predicted[:, :, k] = (filters.conj() * window).sum(2)
        error = spectrum[:, :, k] - predicted[:, :, k]
        power = error.abs().square()
        loudest = torch.maximum(loudest, power)
        weight = power + floor * loudest + 1e-30
        gain = (inverse @ window.unsqueeze(3))[..., 0]
        change = gain / (weight + (window.conj() * gain).sum(2).real).unsqueeze(2)
        inverse = inverse - change.unsqueeze(3) * gain.conj().unsqueeze(2)
        filters = filters + change * error.conj().unsqueeze(2)
    return predicted
