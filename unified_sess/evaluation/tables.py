"""Tables of results: all metrics, and groups of mixtures by input SNR and by gender."""

from typing import NamedTuple

import numpy as np

from unified_sess.evaluation.results import Results

GROUP_METRICS = ("si_snri", "sdri", "se_si_snri", "estoi", "pesq")
SNR_STEP = 5  # dB
OUTER_STEPS = 3  # bins on each side of 0 dB before all that is further out falls together

# What readers see: name, unit, meaning.
LABELS = {
    "si_snr": ("SI-SNR", "dB", "separated sources"),
    "si_snri": ("SI-SNRi", "dB", "separated sources, improvement over the mixture"),
    "sdr": ("SDR", "dB", "separated sources, BSS Eval"),
    "sdri": ("SDRi", "dB", "separated sources, improvement over the mixture"),
    "se_si_snr": ("SI-SNR, enhanced", "dB", "enhanced mixture against the clean mixture"),
    "se_si_snr_noisy": ("SI-SNR, noisy", "dB", "noisy mixture against the clean mixture"),
    "se_si_snri": ("SI-SNRi, enhanced", "dB", "improvement of the mixture by enhancement"),
    "input_snr": ("Input SNR", "dB", "clean mixture against the noise"),
    "stoi": ("STOI", "", "separated sources"),
    "stoi_mixture": ("STOI, mixture", "", "the mixture against each source"),
    "estoi": ("ESTOI", "", "separated sources"),
    "estoi_mixture": ("ESTOI, mixture", "", "the mixture against each source"),
    "pesq": ("PESQ", "", "separated sources"),
    "pesq_mixture": ("PESQ, mixture", "", "the mixture against each source"),
    "dnsmos_ovrl": ("DNSMOS overall", "", "separated sources, no reference"),
    "dnsmos_sig": ("DNSMOS speech", "", "separated sources, no reference"),
    "dnsmos_bak": ("DNSMOS background", "", "separated sources, no reference"),
    "dnsmos_p808": ("DNSMOS P.808", "", "separated sources, no reference"),
    "dnsmos_ovrl_mixture": ("DNSMOS overall, mixture", "", "the mixture"),
}


class Group(NamedTuple):
    """Some of the utterances: what they share, how many they are, and `metric -> {mean, interval_95, ...}`."""

    name: str
    count: int
    metrics: dict


def label(metric):
    """Name and unit of a metric as readers see it, such as `SI-SNRi (dB)`."""
    name, unit, _ = LABELS.get(metric, (metric, "", ""))
    return f"{name} ({unit})" if unit else name


def by_input_snr(results):
    """Groups of `SNR_STEP` dB of the input SNR, from noisy to clean; empty without noise."""
    if "input_snr" not in results.metrics:
        return []
    edge = OUTER_STEPS * SNR_STEP
    floors = np.clip(np.floor(results.values("input_snr") / SNR_STEP) * SNR_STEP, -edge - SNR_STEP, edge)

    def name(floor):
        if floor < -edge:
            return f"under {-edge} dB"
        return f"{edge} dB and more" if floor == edge else f"{floor:.0f} to {floor + SNR_STEP:.0f} dB"

    return [_group(name(floor), results, floors == floor) for floor in sorted(set(floors[np.isfinite(floors)]))]


def by_genders(results):
    """Groups of the genders that speak, such as `FM`; empty where they are not known."""
    genders = np.array([row.get("genders") or "" for row in results.rows])
    return [_group(name, results, genders == name) for name in sorted(set(genders) - {""})]


def _group(name, results, chosen):
    rows = [row for row, taken in zip(results.rows, chosen) if taken]
    part = Results(rows, [metric for metric in GROUP_METRICS if metric in results.metrics])
    return Group(name, len(rows), part.metric_summary())
