"""Measures of one separated and enhanced mixture; what cannot be measured has a reason instead of a number."""

import fast_bss_eval
import numpy as np
import torch

from unified_sess.losses import pit_si_snr, si_snr

SILENT = 1e-10  # energy per sample (-100 dB of full scale) under which a signal counts as silent
DEFAULT_METRICS = ("si_snr", "sdr")


class Undefined(Exception):
    """A metric has no value for this utterance; the text says why."""


def utterance_metrics(mixture, clean, sources, estimates, enhanced, sample_rate, which=DEFAULT_METRICS):
    """Measure one mixture.

    Arguments
    ---------
    mixture, clean, enhanced : torch.Tensor or numpy.ndarray
        Noisy mixture, clean mixture (sum of the sources) and enhanced mixture, `[time]`.
    sources, estimates : torch.Tensor or numpy.ndarray
        Sources and estimates in any order, `[time, speakers]`.
    sample_rate : int
        In Hz.
    which : sequence of str
        Families of metrics, keys of `FAMILIES`.

    Returns
    -------
    metrics : dict
        A float or None for every key of `metric_names(which)`, and `reasons`: why each None is one. Names ending in
        `i` are improvements over the mixture; `se_` compares the enhanced mixture with the clean mixture. Values of
        several speakers are means under the best permutation, all but PESQ, STOI and DNSMOS in dB.

    Example
    -------
    >>> sources = torch.randn(8000, 2)
    >>> clean = sources.sum(1)
    >>> mixture = clean + 0.1 * torch.randn(8000)
    >>> metrics = utterance_metrics(mixture, clean, sources, sources.flip(1), clean, 8000, which=("si_snr",))
    >>> metrics["si_snr"] > 60
    True
    """
    signals = _Signals(mixture, clean, sources, estimates, enhanced, sample_rate)
    metrics, reasons = {}, {}
    for family in which:
        names, function = FAMILIES[family]
        try:
            values = function(signals)
        except Undefined as undefined:
            values = dict.fromkeys(names, undefined)
        for name in names:
            value = values[name]
            if not isinstance(value, Undefined) and not np.isfinite(value):
                value = Undefined("the value is not finite")
            metrics[name] = None if isinstance(value, Undefined) else float(value)
            if isinstance(value, Undefined):
                reasons[name] = str(value)
    return metrics | {"reasons": reasons}


def metric_names(which=DEFAULT_METRICS):
    """Names of the metrics of some families, in order."""
    return [name for family in which for name in FAMILIES[family][0]]


class _Signals:
    """The signals of an utterance in double precision, estimates in the order of the sources."""

    def __init__(self, mixture, clean, sources, estimates, enhanced, sample_rate):
        self.mixture, self.clean, self.enhanced = (_double(x) for x in (mixture, clean, enhanced))
        self.sources, estimates = _double(sources), _double(estimates)
        self.sample_rate = sample_rate
        self.faults = {}
        if not all(x.isfinite().all() for x in (estimates, self.enhanced)):
            self.faults["estimates"] = "the network's output is not finite"
            estimates, self.enhanced = estimates.nan_to_num(), self.enhanced.nan_to_num()
        _, permutation = pit_si_snr(estimates.unsqueeze(0), self.sources.unsqueeze(0))
        self.estimates = estimates[:, permutation[0]]
        for name, signal in (("sources", self.sources), ("estimates", self.estimates)):
            for k, column in enumerate(signal.T):
                if _silent(column):
                    self.faults.setdefault(name, f"{name[:-1]} {k + 1} is silent")
        for name in ("clean", "enhanced", "mixture"):
            if _silent(getattr(self, name)):
                self.faults[name] = f"the {name + ' mixture' if name != 'mixture' else name} is silent"

    def require(self, *names):
        """Raise `Undefined` where one of the signals cannot be used."""
        for name in names:
            if name in self.faults:
                raise Undefined(self.faults[name])


def _double(signal):
    return torch.as_tensor(signal).detach().cpu().double()


def _silent(signal):
    return bool((signal - signal.mean()).square().mean() < SILENT)


def _attempt(function, *arguments):
    try:
        return function(*arguments)
    except Undefined as undefined:
        return undefined


def _difference(after, before):
    return next((x for x in (after, before) if isinstance(x, Undefined)), None) or after - before


def _si_snr(signals):
    """SI-SNR of the estimates and of the enhanced mixture, and the input SNR."""

    def of(estimates, targets, *needed):
        signals.require(*needed)
        return float(si_snr(estimates, targets).mean())

    sources, mixture = signals.sources.T, signals.mixture
    after = _attempt(of, signals.estimates.T, sources, "sources", "estimates")
    before = _attempt(of, mixture, sources, "sources", "mixture")
    noise = mixture - signals.clean
    if _silent(noise):
        noisy = snr = Undefined("the mixture has no noise")
    else:
        noisy = _attempt(of, mixture, signals.clean, "clean", "mixture")
        snr = _attempt(lambda: signals.require("clean") or _snr(signals.clean, noise))
    enhanced = _attempt(of, signals.enhanced, signals.clean, "clean", "enhanced", "estimates")
    return {
        "si_snr": after,
        "si_snri": _difference(after, before),
        "se_si_snr": enhanced,
        "se_si_snr_noisy": noisy,
        "se_si_snri": _difference(enhanced, noisy),
        "input_snr": snr,
    }


def _snr(signal, noise):
    return float(10 * torch.log10(signal.square().sum() / noise.square().sum()))


def _sdr(signals):
    """SDR of BSS Eval v3 (distortion filters of 512 taps), under the permutation of the best SIR."""

    def of(function, estimates, *needed):
        signals.require(*needed)
        if signals.sources.shape[0] <= 512:
            raise Undefined("the utterance is not longer than the 512 taps of BSS Eval's filter")
        try:
            return float(np.mean(function(signals.sources.T.numpy(), estimates)))
        except np.linalg.LinAlgError:
            raise Undefined("BSS Eval's equations are singular") from None

    # SDR involves the filtered target alone, so the mixture needs no search among permutations.
    mixture = np.tile(signals.mixture.numpy(), (signals.sources.shape[1], 1))
    after = _attempt(of, _bss_eval_sdr, signals.estimates.T.numpy(), "sources", "estimates")
    before = _attempt(of, _sdr_in_order, mixture, "sources", "mixture")
    return {"sdr": after, "sdri": _difference(after, before)}


def _bss_eval_sdr(sources, estimates):
    return fast_bss_eval.bss_eval_sources(sources, estimates)[0]


def _sdr_in_order(sources, estimates):
    return fast_bss_eval.sdr(sources, estimates, return_perm=False)


# Family: the names it gives and the function that measures them.
FAMILIES = {
    "si_snr": (("si_snr", "si_snri", "se_si_snr", "se_si_snr_noisy", "se_si_snri", "input_snr"), _si_snr),
    "sdr": (("sdr", "sdri"), _sdr),
}
