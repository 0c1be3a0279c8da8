"""Losses of the two tasks, one value an utterance; lower is better.

Separation: PIT SI-SNR (the paper), or one with a soft limit that also knows level, polarity and silent sources; for
the earlier steps of a separator also the SI-SNR of magnitudes.
Enhancement: the squared distance of features (the paper), its ratio in dB, or the SNR of the enhanced mixture.
"""

import itertools
from collections.abc import Callable
from functools import lru_cache

import torch

EPS = 1e-8
SILENCE_DB = -60.0  # a source that far below its mixture never speaks
LEVEL_WEIGHT = 5.0  # dB for an estimate that is silent, or twice as large as its target
SEPARATION_LOSSES = ("si_snr", "snr", "si_snr_level")
STEP_LOSSES = ("as_last", "magnitude")  # of a separator's earlier steps
ENHANCEMENT_LOSSES = ("feature_distance", "log_feature_distance", "snr")


def si_snr(estimates: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Scale-invariant signal-to-noise ratio in dB, along the last dimension; higher is better.

    Silent targets give a finite value (about -80 dB) with a gradient of zero.

    Arguments
    ---------
    estimates, targets : torch.Tensor
        `[..., time]`; leading dimensions broadcast. The mean is removed from both.

    Returns
    -------
    ratio : torch.Tensor
        `[...]`, dB.

    Example
    -------
    >>> s = torch.sin(torch.arange(800) / 5.0)
    >>> bool(si_snr(3 * s, s) > 60)
    True
    """
    estimates = estimates - estimates.mean(-1, keepdim=True)
    targets = targets - targets.mean(-1, keepdim=True)
    gain = (estimates * targets).sum(-1, keepdim=True) / (targets.square().sum(-1, keepdim=True) + EPS)
    wanted = gain * targets
    ratio = wanted.square().sum(-1) / ((estimates - wanted).square().sum(-1) + EPS)
    return 10 * torch.log10(ratio + EPS)


@lru_cache
def _permutations(speakers, device):
    return torch.tensor(list(itertools.permutations(range(speakers))), device=device)


def _best_permutation(table: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Best mean `[batch]` and permutation `[batch, speakers]` of scores `[batch, estimate, target]`; higher is better."""
    speakers = table.shape[-1]
    permutations = _permutations(speakers, table.device)  # [P, C]
    scores = table[:, permutations, torch.arange(speakers, device=table.device)].mean(-1)  # [B, P]
    best, index = scores.max(-1)
    return best, permutations[index]


def pit_si_snr(estimates: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Permutation-invariant negative SI-SNR of each utterance.

    Arguments
    ---------
    estimates, targets : torch.Tensor
        `[batch, time, speakers]`.

    Returns
    -------
    loss : torch.Tensor
        `[batch]`, negative mean SI-SNR over the speakers in dB under the best permutation; lower is better.
    permutation : torch.Tensor
        `[batch, speakers]`: `estimates[b, :, permutation[b, c]]` belongs to `targets[b, :, c]`.
    """
    table = si_snr(estimates.transpose(1, 2).unsqueeze(2), targets.transpose(1, 2).unsqueeze(1))  # [B, est, target]
    best, permutation = _best_permutation(table)
    return -best, permutation


def pit_magnitude_snr(
    estimates: torch.Tensor, targets: torch.Tensor, frame: int = 512, stride: int = 128
) -> tuple[torch.Tensor, torch.Tensor]:
    """Permutation-invariant negative SI-SNR of the magnitudes of spectra: phase is left to other losses.

    The loss of SepReformer's earlier stages (Shin et al., arXiv 2406.05983, and its public code): each target is scaled
    to the estimate as in `si_snr`, though by 0.01 at least, and the magnitudes are compared.

    Arguments
    ---------
    estimates, targets : torch.Tensor
        `[batch, time, speakers]`.
    frame, stride : int
        Samples in a frame, which has a Hann window, and between frames, a quarter of it.

    Returns
    -------
    loss : torch.Tensor
        `[batch]`, negative mean over the speakers in dB under the best permutation.
    permutation : torch.Tensor
        As of `pit_si_snr`.
    """
    estimates, targets = (x.transpose(1, 2) - x.mean(1).unsqueeze(2) for x in (estimates, targets))  # [B, C, T]
    gain = estimates @ targets.transpose(1, 2) / (targets.square().sum(-1).unsqueeze(1) + EPS)  # [B, est, target]
    estimates, targets = (_magnitudes(x, frame, stride) for x in (estimates, targets))
    wanted = gain.clamp(min=0.01).unsqueeze(-1) * targets.unsqueeze(1)
    ratio = wanted.square().sum(-1) / ((estimates.unsqueeze(2) - wanted).square().sum(-1) + EPS)
    best, permutation = _best_permutation(10 * torch.log10(ratio + EPS))
    return -best, permutation


def _magnitudes(signals, frame, stride):
    """All magnitudes of signals `[batch, channels, time]`, `[batch, channels, values]`, with a floor of 1e-5."""
    missing = max(frame - signals.shape[2], -signals.shape[2] % stride)
    window = torch.hann_window(frame, dtype=signals.dtype, device=signals.device)
    window = window * (8 * stride / 3) ** 0.5 / frame  # windows of a quarter's distance keep the energy, as published
    padded = torch.nn.functional.pad(signals.flatten(0, 1), (0, missing))
    spectra = torch.stft(padded, frame, stride, window=window, center=False, return_complex=True)
    power = torch.view_as_real(spectra).square().sum(-1)
    return (power + 1e-10).sqrt().unflatten(0, signals.shape[:2]).flatten(2)


def limited_snr(
    estimates: torch.Tensor, targets: torch.Tensor, mixture: torch.Tensor, limit: float = 30.0
) -> torch.Tensor:
    """SNR in dB with a soft limit, along the last dimension; for a silent target, what is left of the mixture.

    With tau = 10^(-limit/10), an active target gives -10 log10(|estimate - target|^2 / |target|^2 + tau), a silent one
    -10 log10(|estimate|^2 / |mixture|^2 + tau): both are 0 dB for a useless and `limit` dB for a perfect estimate
    (Wisdom et al., "What's all the FUSS about free universal sound separation data?", arXiv 2011.00803, the losses
    of active and of silent sources). Unlike SI-SNR it knows level and polarity, and its gradient does not vanish where nobody speaks.

    Arguments
    ---------
    estimates, targets, mixture : torch.Tensor
        `[..., time]`; leading dimensions broadcast. A target 60 dB or more below the mixture is silent.
    limit : float
        dB, 20 to 40.

    Returns
    -------
    ratio : torch.Tensor
        `[...]`, dB; higher is better.

    Example
    -------
    >>> s = torch.sin(torch.arange(800) / 5.0)
    >>> limited_snr(0.9 * s, s, s).round().item(), limited_snr(0.1 * s, 0 * s, s).round().item()
    (20.0, 20.0)
    """
    silent = _silent(targets, mixture)
    reference = torch.where(silent, mixture.square().sum(-1), targets.square().sum(-1))
    wrong = (estimates - torch.where(silent.unsqueeze(-1), 0, targets)).square().sum(-1)
    return -10 * torch.log10(wrong / (reference + EPS) + 10 ** (-limit / 10))


def _silent(targets, mixture):
    return targets.square().sum(-1) <= 10 ** (SILENCE_DB / 10) * mixture.square().sum(-1)


def leveled_si_snr(
    estimates: torch.Tensor, targets: torch.Tensor, mixture: torch.Tensor, limit: float = 30.0
) -> torch.Tensor:
    """SI-SNR in dB with a soft limit, less what the estimate's level is off; for a silent target as `limited_snr`.

    Where sources are far below the mixture, as the direct path in a room is, an estimate near zero has an SNR of 0 dB
    and nearly every other one less, so that training by SNR makes outputs silent before it has learnt to separate.
    SI-SNR sees shape alone and has no such way out. What it does not see is added: `LEVEL_WEIGHT` dB times |1 - gain|,
    with the gain a of the target in the estimate, <estimate, target> / |target|^2, which knows polarity too.

    Arguments
    ---------
    estimates, targets, mixture, limit
        As of `limited_snr`.

    Returns
    -------
    ratio : torch.Tensor
        `[...]`, dB; higher is better.

    Example
    -------
    >>> s = torch.sin(torch.arange(800) / 5.0)
    >>> [leveled_si_snr(gain * s, s, s).round().item() for gain in (1.0, 0.5, 2.0, -1.0)]
    [30.0, 28.0, 25.0, 20.0]
    """
    wanted = targets.square().sum(-1)
    gain = (estimates * targets).sum(-1) / (wanted + EPS)
    off = (estimates - gain.unsqueeze(-1) * targets).square().sum(-1)
    # As in si_snr, an estimate of nothing but zeros is a bad one.
    ratio = gain.square() * wanted / (off + EPS) + EPS
    shape = -10 * torch.log10(1 / ratio + 10 ** (-limit / 10))
    silence = limited_snr(estimates, torch.zeros_like(targets), mixture, limit)
    return torch.where(_silent(targets, mixture), silence, shape - LEVEL_WEIGHT * (1 - gain).abs())


LIMITED_RATIOS = {"snr": limited_snr, "si_snr_level": leveled_si_snr}


def pit_limited_snr(
    estimates: torch.Tensor,
    targets: torch.Tensor,
    mixture: torch.Tensor,
    limit: float = 30.0,
    ratio: Callable[..., torch.Tensor] = limited_snr,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Permutation-invariant negative `limited_snr` of each utterance, silent sources included.

    Arguments
    ---------
    estimates, targets : torch.Tensor
        `[batch, time, speakers]`; targets of people who never speak are zero.
    mixture : torch.Tensor
        `[batch, time]`.
    limit : float
        dB.
    ratio : callable
        `limited_snr` or `leveled_si_snr`.

    Returns
    -------
    loss : torch.Tensor
        `[batch]`, negative mean over the outputs in dB under the best permutation.
    permutation : torch.Tensor
        As of `pit_si_snr`.
    """
    table = ratio(
        estimates.transpose(1, 2).unsqueeze(2),
        targets.transpose(1, 2).unsqueeze(1),
        mixture.unsqueeze(1).unsqueeze(1),
        limit,
    )
    best, permutation = _best_permutation(table)
    return -best, permutation


def si_snr_improvement(estimates: torch.Tensor, targets: torch.Tensor, mixture: torch.Tensor) -> torch.Tensor:
    """Mean SI-SNR improvement in dB over the people who speak, under the best permutation; NaN where nobody does.

    Arguments
    ---------
    estimates, targets : torch.Tensor
        `[batch, time, speakers]`.
    mixture : torch.Tensor
        `[batch, time]`.

    Returns
    -------
    improvement : torch.Tensor
        `[batch]`, dB.
    """
    targets = targets.transpose(1, 2)
    mixture = mixture.unsqueeze(1)
    active = ~_silent(targets, mixture)  # [B, target]
    table = si_snr(estimates.transpose(1, 2).unsqueeze(2), targets.unsqueeze(1)) * active.unsqueeze(1)
    best, _ = _best_permutation(table)
    count = active.sum(-1)
    before = (si_snr(mixture, targets) * active).sum(-1) / count
    return best * targets.shape[1] / count - before


def feature_distance(enhanced: torch.Tensor, clean: torch.Tensor) -> torch.Tensor:
    """Sum over channels and frames of the squared difference of features `[batch, channels, frames]`, `[batch]`."""
    enhanced, clean = _single(enhanced), _single(clean)
    return (enhanced - clean).square().sum((1, 2))


def log_feature_distance(
    enhanced: torch.Tensor, clean: torch.Tensor, noisy: torch.Tensor, limit: float = 30.0
) -> torch.Tensor:
    """Distance of the enhanced features to the clean ones in dB of the clean ones, with a soft limit, `[batch]`.

    The squared distance of the paper grows with level and transform; this one does not, so that lambda means the same
    everywhere. Where nobody speaks it is what is left of the noisy features.

    Arguments
    ---------
    enhanced, clean, noisy : torch.Tensor
        Features `[batch, channels, frames]`.
    limit : float
        dB.
    """
    enhanced, clean, noisy = (_single(x).flatten(1) for x in (enhanced, clean, noisy))
    return -limited_snr(enhanced, clean, noisy, limit)


def _single(features: torch.Tensor) -> torch.Tensor:
    """In single precision: a sum over an utterance has too many terms for half of it."""
    return features.float() if features.dtype.itemsize < 4 else features
