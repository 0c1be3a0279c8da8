"""Models of a listener: intelligibility (STOI, ESTOI) and quality (PESQ, DNSMOS).

Values are means over the speakers; names that end in `_mixture` are those of the mixture, without the network.
"""

import importlib.util
import warnings

import numpy as np
import pystoi
import soxr

from unified_sess.evaluation.signals import Signals, Undefined, attempt, mixture_scale

PESQ_BANDS = {8000: "nb", 16000: "wb"}
DNSMOS_RATE = 16000  # Hz
DNSMOS_PEAK = 0.99
PACKAGES = {"pesq": ("pesq",), "dnsmos": ("speechmos", "librosa", "onnxruntime", "requests")}


def missing_package(family: str) -> str | None:
    """First package that a family of metrics needs and that is not installed, or None."""
    return next((name for name in PACKAGES.get(family, ()) if importlib.util.find_spec(name) is None), None)


def stoi_metrics(signals: Signals) -> dict:
    """Short-time objective intelligibility, 0 to 1 (Taal et al. 2011)."""
    return _against_sources("stoi", lambda source, signal: _stoi(source, signal, signals.sample_rate, False), signals)


def estoi_metrics(signals: Signals) -> dict:
    """Extended STOI (Jensen and Taal 2016)."""
    return _against_sources("estoi", lambda source, signal: _stoi(source, signal, signals.sample_rate, True), signals)


def pesq_metrics(signals: Signals) -> dict:
    """PESQ: narrow band at 8 kHz (P.862), wide band at 16 kHz (P.862.2); about 1 (bad) to 4.5."""
    return _against_sources("pesq", lambda source, signal: _pesq(source, signal, signals.sample_rate), signals)


def dnsmos_metrics(signals: Signals) -> dict:
    """DNSMOS P.835 (overall, speech, background) and P.808, 1 to 5, without a reference (Reddy et al. 2022)."""
    scores = attempt(_dnsmos_of_estimates, signals)
    if isinstance(scores, Undefined):
        scores = dict.fromkeys(("ovrl", "sig", "bak", "p808"), scores)
    mixture = attempt(_dnsmos_of_mixture, signals)
    return {f"dnsmos_{name}": value for name, value in scores.items()} | {"dnsmos_ovrl_mixture": mixture}


def _against_sources(name, function, signals):
    def of(estimates, *needed):
        signals.require("sources", *needed)
        return np.mean([function(s.numpy(), e.numpy()) for s, e in zip(signals.sources, estimates)])

    return {
        name: attempt(of, signals.estimates, "estimates"),
        f"{name}_mixture": attempt(of, signals.mixture.expand_as(signals.sources), "mixture"),
    }


def _stoi(source, signal, sample_rate, extended):
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)  # pystoi gives 1e-5 with a warning where it has no value
        try:
            return pystoi.stoi(source, signal, sample_rate, extended=extended)
        except (RuntimeWarning, ValueError):
            raise Undefined("less than 30 frames of speech, too little for STOI") from None


def _pesq(source, signal, sample_rate):
    import pesq  # of the extra `metrics`

    if sample_rate not in PESQ_BANDS:
        raise Undefined("PESQ is defined at 8000 and 16000 Hz only")
    # PESQ turns both into 16 bits under one factor, which would quantise the quieter one.
    signal = signal * np.dot(signal, source) / np.dot(signal, signal)
    try:
        return pesq.pesq(sample_rate, source, signal, PESQ_BANDS[sample_rate])
    except pesq.PesqError as error:
        text = error.args[0] if error.args else type(error).__name__
        raise Undefined(f"PESQ: {text.decode() if isinstance(text, bytes) else text}") from None


def _dnsmos_of_estimates(signals):
    signals.require("estimates", "mixture")
    estimates = mixture_scale(signals.mixture.numpy(), signals.estimates.numpy().T).T
    scores = [_dnsmos(estimate, signals.sample_rate) for estimate in estimates]
    return {name: np.mean([score[f"{name}_mos"] for score in scores]) for name in ("ovrl", "sig", "bak", "p808")}


def _dnsmos_of_mixture(signals):
    signals.require("mixture")
    return _dnsmos(signals.mixture.numpy(), signals.sample_rate)["ovrl_mos"]


def _dnsmos(signal, sample_rate):
    from speechmos import dnsmos  # of the extra `metrics`

    signal = soxr.resample(signal, sample_rate, DNSMOS_RATE)
    return dnsmos.run(signal * min(1, DNSMOS_PEAK / np.abs(signal).max()), DNSMOS_RATE)
