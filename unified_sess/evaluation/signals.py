"""The signals of one utterance, checked and put in order for the metrics."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment

SILENCE = 1e-10  # energy relative to the loudest signal of the utterance (-100 dB) under which a signal is silent
RATIO_RANGE = 1e-12  # ratios end at 120 dB and -120 dB, where double precision has no more to say


Signal = torch.Tensor | np.ndarray


class Undefined(Exception):
    """A metric has no value for this utterance; the text says why."""


class Signals:
    """The signals of an utterance in double precision, estimates in the order of the sources.

    Where the network gives more estimates than there are sources, those of most energy are taken (never those that
    fit best); the energy of the others is `rest_level`. All that is judged is relative to the utterance's own level.

    Arguments
    ---------
    mixture, clean, enhanced : torch.Tensor or numpy.ndarray
        `[time]`.
    sources, estimates : torch.Tensor or numpy.ndarray
        `[time, speakers]`, and at least as many estimates; kept as `[speakers, time]`.
    sample_rate : int
        In Hz.

    Attributes
    ----------
    rest_level : float
        Energy in dB of the estimates that are left out, relative to that of all; None where there are none.

    Raises
    ------
    ValueError
        When there are fewer estimates than sources.
    """

    def __init__(
        self, mixture: Signal, clean: Signal, sources: Signal, estimates: Signal, enhanced: Signal, sample_rate: int
    ) -> None:
        self.mixture, self.clean, self.enhanced = (_double(x) for x in (mixture, clean, enhanced))
        self.sources, outputs = _double(sources).T, _double(estimates).T
        self.sample_rate = sample_rate
        self.faults: dict[str, str] = {}
        if not (outputs.isfinite().all() and self.enhanced.isfinite().all()):
            self.faults = dict.fromkeys(("estimates", "enhanced"), "the network's output is not finite")
            outputs, self.enhanced = (x.nan_to_num(0, 0, 0) for x in (outputs, self.enhanced))
        self.rest_level = rest_level(outputs.T, len(self.sources))
        self.estimates = outputs[match_estimates(outputs.T, self.sources.T)]
        self.level = max(_power(x) for x in (self.mixture, self.clean, *self.sources))
        own_level = max(map(_power, self.estimates))  # networks are free in their scale
        for name, signals, level in (("source", self.sources, self.level), ("estimate", self.estimates, own_level)):
            for k, channel in enumerate(signals):
                if silent(channel, level):
                    self.faults.setdefault(f"{name}s", f"{name} {k + 1} is silent")
        for name, words in (("clean", "clean mixture"), ("enhanced", "enhanced mixture"), ("mixture", "mixture")):
            if silent(getattr(self, name), 0.0 if name == "enhanced" else self.level):
                self.faults.setdefault(name, f"the {words} is silent")

    def require(self, *names: str) -> None:
        """Raise `Undefined` where one of the signals cannot be used."""
        for name in names:
            if name in self.faults:
                raise Undefined(self.faults[name])


def si_snr(estimates: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Scale-invariant signal-to-noise ratio in dB along the last dimension (Le Roux et al. 2019).

    Unlike the training loss it adds nothing to an energy: a quiet signal has the ratio of a loud one. Ratios end at
    120 and -120 dB; two silent signals have 0.

    Arguments
    ---------
    estimates, targets : torch.Tensor
        `[..., time]` in double precision; leading dimensions broadcast. The mean is removed from both.

    Returns
    -------
    torch.Tensor
        `[...]`, dB.

    Example
    -------
    >>> tone = torch.sin(torch.arange(800, dtype=torch.float64))
    >>> noise = torch.cos(torch.arange(800, dtype=torch.float64))
    >>> round(float(si_snr(1e-6 * (tone + 0.1 * noise), 1e-6 * tone)))
    20
    """
    estimates = estimates - estimates.mean(-1, keepdim=True)
    targets = targets - targets.mean(-1, keepdim=True)
    energy = targets.square().sum(-1, keepdim=True)
    gain = (estimates * targets).sum(-1, keepdim=True) / torch.where(energy > 0, energy, 1.0)
    wanted = (gain * targets).square().sum(-1)
    residual = (estimates - gain * targets).square().sum(-1)
    ratio = (wanted + RATIO_RANGE * residual) / (residual + RATIO_RANGE * wanted)
    return 10 * torch.log10(torch.where(wanted + residual > 0, ratio, 1.0))


def match_estimates(estimates: Signal, sources: Signal) -> list[int]:
    """Which estimate belongs to which source: of those of most energy, the permutation of the best mean SI-SNR.

    Arguments
    ---------
    estimates, sources : torch.Tensor or numpy.ndarray
        `[time, outputs]` and `[time, speakers]`, at least as many outputs as speakers.

    Returns
    -------
    list of int
        `order[speaker]` is the estimate of that speaker.

    Raises
    ------
    ValueError
        Where there are fewer outputs than speakers.
    """
    outputs, targets = _double(estimates).T, _double(sources).T
    if len(outputs) < len(targets):
        raise ValueError(f"{len(outputs)} estimates cannot be those of {len(targets)} sources")
    loudest = _by_energy(outputs)[: len(targets)].sort().values
    table = si_snr(outputs[loudest].unsqueeze(1), targets.unsqueeze(0))
    rows, columns = linear_sum_assignment(-table.numpy())
    return [int(loudest[row]) for _, row in sorted(zip(columns, rows))]


def rest_level(estimates: Signal, speakers: int) -> float | None:
    """Energy in dB of the estimates `[time, outputs]` behind the `speakers` of most energy, relative to that of all.

    None where there are no further ones; -120 dB is the least.
    """
    outputs = _double(estimates).T
    if len(outputs) <= speakers:
        return None
    energies = outputs.square().sum(-1)
    rest = energies[_by_energy(outputs)[speakers:]].sum() / energies.sum().clamp(min=1e-300)
    return float(10 * torch.log10(rest.clamp(min=RATIO_RANGE)))


def _by_energy(estimates):
    return estimates.square().sum(-1).argsort(descending=True, stable=True)


def mixture_scale(mixture: Signal, estimates: Signal) -> np.ndarray:
    """Estimates `[time, speakers]` under the one factor that brings their sum nearest to the mixture `[time]`."""
    from unified_sess.inference.scale import MixtureScale  # the package around it is slow to import

    scale = MixtureScale()
    scale.add(np.asarray(mixture, "f8"), np.asarray(estimates, "f8"))
    return np.asarray(estimates) * scale.factors


def silent(signal: torch.Tensor, level: float) -> bool:
    """Whether a signal has next to no energy around its mean, against itself and against the power `level`."""
    return bool((signal - signal.mean()).square().mean() <= SILENCE * max(level, _power(signal)))


def attempt(function: Callable, *arguments: Any) -> Any:
    """The value of a function, or the `Undefined` it raised."""
    try:
        return function(*arguments)
    except Undefined as undefined:
        return undefined


def difference(after: Any, before: Any) -> Any:
    """After - before, or the `Undefined` that one of them is."""
    return next((x for x in (after, before) if isinstance(x, Undefined)), None) or after - before


def _power(signal):
    return float(signal.square().mean())


def _double(signal: Signal) -> torch.Tensor:
    return (
        torch.as_tensor(np.ascontiguousarray(signal) if isinstance(signal, np.ndarray) else signal)
        .detach()
        .cpu()
        .double()
    )
