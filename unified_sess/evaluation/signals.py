"""The signals of one utterance, checked and put in order for the metrics."""

import numpy as np
import torch

from unified_sess.losses import pit_si_snr

SILENT = 1e-10  # energy per sample (-100 dB of full scale) under which a signal counts as silent


class Undefined(Exception):
    """A metric has no value for this utterance; the text says why."""


class Signals:
    """The signals of an utterance in double precision, estimates in the order of the sources.

    Arguments
    ---------
    mixture, clean, enhanced : torch.Tensor or numpy.ndarray
        `[time]`.
    sources, estimates : torch.Tensor or numpy.ndarray
        `[time, speakers]`; kept as `[speakers, time]`.
    sample_rate : int
        In Hz.
    """

    def __init__(self, mixture, clean, sources, estimates, enhanced, sample_rate):
        self.mixture, self.clean, self.enhanced = (_double(x) for x in (mixture, clean, enhanced))
        self.sources, estimates = _double(sources).T, _double(estimates).T
        self.sample_rate = sample_rate
        self.faults = {}
        if not (estimates.isfinite().all() and self.enhanced.isfinite().all()):
            self.faults = dict.fromkeys(("estimates", "enhanced"), "the network's output is not finite")
            estimates, self.enhanced = (x.nan_to_num(0, 0, 0) for x in (estimates, self.enhanced))
        self.estimates = estimates[best_permutation(estimates.T, self.sources.T)]
        for name, signal in (("source", self.sources), ("estimate", self.estimates)):
            for k, channel in enumerate(signal):
                if silent(channel):
                    self.faults.setdefault(f"{name}s", f"{name} {k + 1} is silent")
        for name, words in (("clean", "clean mixture"), ("enhanced", "enhanced mixture"), ("mixture", "mixture")):
            if silent(getattr(self, name)):
                self.faults.setdefault(name, f"the {words} is silent")

    def require(self, *names):
        """Raise `Undefined` where one of the signals cannot be used."""
        for name in names:
            if name in self.faults:
                raise Undefined(self.faults[name])


def best_permutation(estimates, sources):
    """Order in which estimates `[time, speakers]` fit the sources best in SI-SNR, `[speakers]`."""
    batch = (torch.as_tensor(x).unsqueeze(0) for x in (estimates, sources))
    return pit_si_snr(*batch)[1][0]


def mixture_scale(mixture, estimates):
    """Estimates `[time, speakers]` under the one factor that brings their sum nearest to the mixture `[time]`."""
    from unified_sess.inference.scale import MixtureScale  # the package around it is slow to import

    scale = MixtureScale()
    scale.add(np.asarray(mixture, "f8"), np.asarray(estimates, "f8"))
    return np.asarray(estimates) * scale.factors


def silent(signal):
    """Whether a signal has next to no energy around its mean."""
    return bool((signal - signal.mean()).square().mean() < SILENT)


def attempt(function, *arguments):
    """The value of a function, or the `Undefined` it raised."""
    try:
        return function(*arguments)
    except Undefined as undefined:
        return undefined


def difference(after, before):
    """After - before, or the `Undefined` that one of them is."""
    return next((x for x in (after, before) if isinstance(x, Undefined)), None) or after - before


def _double(signal):
    return torch.as_tensor(signal).detach().cpu().double()
