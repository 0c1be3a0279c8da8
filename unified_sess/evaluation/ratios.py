"""Energy ratios in dB: SI-SNR, SDR and the SNR of the noise."""

import fast_bss_eval
import numpy as np
import torch

from unified_sess.evaluation.signals import Signals, Undefined, attempt, difference, si_snr, silent

FILTER_TAPS = 512  # of BSS Eval's distortion filter


def si_snr_metrics(signals: Signals) -> dict:
    """SI-SNR of the estimates and of the enhanced mixture (Le Roux et al. 2019), and the input SNR."""

    def of(estimates, targets, *needed):
        signals.require(*needed)
        return float(si_snr(estimates, targets).mean())

    mixture, noise = signals.mixture, signals.mixture - signals.clean
    after = attempt(of, signals.estimates, signals.sources, "sources", "estimates")
    before = attempt(of, mixture, signals.sources, "sources", "mixture")
    enhanced = attempt(of, signals.enhanced, signals.clean, "clean", "enhanced")
    if silent(noise, signals.level):
        noisy = snr = Undefined("the mixture has no noise")
    else:
        noisy = attempt(of, mixture, signals.clean, "clean", "mixture")
        snr = attempt(_input_snr, signals, noise)
    return {
        "si_snr": after,
        "si_snri": difference(after, before),
        "se_si_snr": enhanced,
        "se_si_snr_noisy": noisy,
        "se_si_snri": difference(enhanced, noisy),
        "input_snr": snr,
    }


def sdr_metrics(signals: Signals) -> dict:
    """SDR of BSS Eval version 3 (Vincent et al. 2006), under the permutation of the best SIR."""

    def of(function, estimates, *needed):
        signals.require(*needed)
        if signals.sources.shape[1] <= FILTER_TAPS:
            raise Undefined(f"the utterance is not longer than the {FILTER_TAPS} taps of BSS Eval's filter")
        try:
            with np.errstate(all="ignore"):  # a perfect estimate gives infinity, which counts as undefined
                return float(np.mean(function(signals.sources.numpy(), estimates.numpy())))
        except (np.linalg.LinAlgError, ValueError):  # no solution, or infinite ratios of both signs
            raise Undefined("BSS Eval's equations have no finite solution") from None

    after = attempt(of, _sdr_of_best_sir, signals.estimates, "sources", "estimates")
    # SDR involves the filtered target alone, so the mixture needs no search among permutations.
    before = attempt(of, _sdr_in_order, signals.mixture.expand_as(signals.sources), "sources", "mixture")
    return {"sdr": after, "sdri": difference(after, before)}


def _input_snr(signals, noise):
    signals.require("clean")
    return float(10 * torch.log10(signals.clean.square().sum() / noise.square().sum()))


def _sdr_of_best_sir(sources, estimates):
    if len(sources) == 1:  # no interference to tell permutations by
        return _sdr_in_order(sources, estimates)
    return fast_bss_eval.bss_eval_sources(sources, estimates)[0]


def _sdr_in_order(sources, estimates):
    return fast_bss_eval.sdr(sources, np.ascontiguousarray(estimates))
