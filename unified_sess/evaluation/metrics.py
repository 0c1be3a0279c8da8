"""Measures of one separated and enhanced mixture; what cannot be measured has a reason instead of a number."""

from collections.abc import Sequence

import numpy as np

from unified_sess.evaluation.perceptual import (
    dnsmos_metrics,
    estoi_metrics,
    missing_package,
    pesq_metrics,
    stoi_metrics,
)
from unified_sess.evaluation.ratios import sdr_metrics, si_snr_metrics
from unified_sess.evaluation.signals import Signal, Signals, Undefined, attempt
from unified_sess.utils.errors import UserError

# Family: the names it gives and the function that measures them.
FAMILIES = {
    "si_snr": (("si_snr", "si_snri", "se_si_snr", "se_si_snr_noisy", "se_si_snri", "input_snr"), si_snr_metrics),
    "sdr": (("sdr", "sdri"), sdr_metrics),
    "stoi": (("stoi", "stoi_mixture"), stoi_metrics),
    "estoi": (("estoi", "estoi_mixture"), estoi_metrics),
    "pesq": (("pesq", "pesq_mixture"), pesq_metrics),
    "dnsmos": (("dnsmos_ovrl", "dnsmos_sig", "dnsmos_bak", "dnsmos_p808", "dnsmos_ovrl_mixture"), dnsmos_metrics),
}

SLOW_FAMILIES = ("dnsmos",)


def utterance_metrics(
    mixture: Signal,
    clean: Signal,
    sources: Signal,
    estimates: Signal,
    enhanced: Signal,
    sample_rate: int,
    which: Sequence[str] = ("si_snr", "sdr"),
) -> dict:
    """Measure one mixture.

    Arguments
    ---------
    mixture, clean, enhanced : torch.Tensor or numpy.ndarray
        Noisy mixture, clean mixture (sum of the sources) and enhanced mixture, `[time]`.
    sources, estimates : torch.Tensor or numpy.ndarray
        Sources, and estimates in any order, `[time, speakers]`.
    sample_rate : int
        In Hz.
    which : sequence of str
        Families of metrics, keys of `FAMILIES`.

    Returns
    -------
    metrics : dict
        A float or None for every name of `metric_names(which)`, and `reasons`: why each None is one. With more
        estimates than sources also `rest_level`, see `Signals`. Ratios are in
        dB, means over the speakers under the best permutation. `si_snri` and `sdri` are improvements over the
        mixture, `se_` compares the enhanced mixture with the clean mixture (`se_si_snr_noisy`: before enhancement),
        `input_snr` is the clean mixture against the noise.

    Example
    -------
    >>> import torch
    >>> sources = torch.randn(8000, 2)
    >>> clean = sources.sum(1)
    >>> mixture = clean + 0.1 * torch.randn(8000)
    >>> metrics = utterance_metrics(mixture, clean, sources, sources.flip(1), clean, 8000, which=["si_snr"])
    >>> metrics["si_snr"] > 60
    True
    """
    signals = Signals(mixture, clean, sources, estimates, enhanced, sample_rate)
    metrics, reasons = {}, {}
    for family in which:
        names, function = FAMILIES[family]
        values = attempt(function, signals)
        for name in names:
            value = values if isinstance(values, Undefined) else values[name]
            if not isinstance(value, Undefined) and not np.isfinite(value):
                value = Undefined("the value is not finite")
            if isinstance(value, Undefined):
                reasons[name] = str(value)
            metrics[name] = None if isinstance(value, Undefined) else float(value)
    if signals.rest_level is not None:
        metrics["rest_level"] = signals.rest_level
    return metrics | {"reasons": reasons}


def metric_names(which: Sequence[str]) -> list[str]:
    """Names of the metrics of some families, in order."""
    return [name for family in which for name in FAMILIES[family][0]]


def choose_families(which: Sequence[str] | None = None) -> list[str]:
    """Families of metrics that can be measured here.

    Arguments
    ---------
    which : sequence of str
        What is wanted; None takes all whose packages are installed but DNSMOS (seconds an utterance), `("all",)`
        takes that too.

    Raises
    ------
    UserError
        Naming the unknown family or the package that is missing.
    """
    which = None if which is None else [family.strip() for family in which]
    if which is None or tuple(which) == ("all",):
        installed = [family for family in FAMILIES if missing_package(family) is None]
        return [family for family in installed if which is not None or family not in SLOW_FAMILIES]
    for family in which:
        if family not in FAMILIES:
            raise UserError(f"the metric '{family}' is unknown: choose from {', '.join(FAMILIES)}, or all")
        if missing_package(family):
            missing = missing_package(family)
            raise UserError(
                f"{family} needs the package {missing}: pip install {missing} (the extra `metrics` has all of them), or leave it out"
            )
    return list(dict.fromkeys(which))
