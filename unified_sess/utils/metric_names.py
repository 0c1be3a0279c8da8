"""Names of the measures as readers see them: the one table for reports, pictures, comparisons and model cards."""

from typing import NamedTuple


class MetricName(NamedTuple):
    """What a measure is called, its unit (empty for a number without one), and what is measured."""

    name: str
    unit: str
    meaning: str


METRIC_NAMES = {
    "si_snr": MetricName("SI-SNR", "dB", "separated sources"),
    "si_snri": MetricName("SI-SNRi", "dB", "separated sources, improvement over the mixture"),
    "sdr": MetricName("SDR", "dB", "separated sources, BSS Eval"),
    "sdri": MetricName("SDRi", "dB", "separated sources, improvement over the mixture"),
    "se_si_snr": MetricName("SI-SNR, enhanced", "dB", "enhanced mixture against the clean mixture"),
    "se_si_snr_noisy": MetricName("SI-SNR, noisy", "dB", "noisy mixture against the clean mixture"),
    "se_si_snri": MetricName("SI-SNRi, enhanced", "dB", "improvement of the mixture by enhancement"),
    "input_snr": MetricName("Input SNR", "dB", "clean mixture against the noise"),
    "rest_level": MetricName("Further outputs", "dB", "energy of outputs beyond the people, relative to all outputs"),
    "stoi": MetricName("STOI", "", "separated sources"),
    "stoi_mixture": MetricName("STOI, mixture", "", "the mixture against each source"),
    "estoi": MetricName("ESTOI", "", "separated sources"),
    "estoi_mixture": MetricName("ESTOI, mixture", "", "the mixture against each source"),
    "pesq": MetricName("PESQ", "", "separated sources"),
    "pesq_mixture": MetricName("PESQ, mixture", "", "the mixture against each source"),
    "dnsmos_ovrl": MetricName("DNSMOS overall", "", "separated sources, no reference"),
    "dnsmos_sig": MetricName("DNSMOS speech", "", "separated sources, no reference"),
    "dnsmos_bak": MetricName("DNSMOS background", "", "separated sources, no reference"),
    "dnsmos_p808": MetricName("DNSMOS P.808", "", "separated sources, no reference"),
    "dnsmos_ovrl_mixture": MetricName("DNSMOS overall, mixture", "", "the mixture"),
    "right_track": MetricName("Right track", "%", "of the time in which one person talks, by 6 dB"),
    "wrong_track": MetricName("Wrong track", "%", "of the time in which one person talks, by 6 dB"),
    "other_tracks": MetricName("Other tracks", "dB", "their level while one person talks, relative to the right track"),
    "der": MetricName("Diarisation error", "%", "of all speech: missed, false or another's"),
    "der_missed": MetricName("Missed speech", "%", "of all speech"),
    "der_false": MetricName("False speech", "%", "of all speech"),
    "der_confused": MetricName("Another's speech", "%", "of all speech"),
    "people_found": MetricName("People found", "", "tracks that hold anybody"),
    "people_right": MetricName("Number of people right", "%", "of the recordings"),
    "alone_others": MetricName("Other outputs, one person", "dB", "level of all others where one person is recorded"),
}
# What a table of few columns or the top of a page shows, in order, as far as it was measured.
HEADLINES = ("si_snri", "sdri", "se_si_snri", "estoi", "pesq", "right_track", "wrong_track", "der", "people_right")


def metric_label(metric: str) -> str:
    """Name and unit of a measure, such as `SI-SNRi (dB)`; an unknown one is called as it is.

    Example
    -------
    >>> metric_label("der"), metric_label("estoi"), metric_label("mine")
    ('Diarisation error (%)', 'ESTOI', 'mine')
    """
    name, unit, _ = METRIC_NAMES.get(metric, (metric, "", ""))
    return f"{name} ({unit})" if unit else name


def headlines(metrics: list[str]) -> list[str]:
    """Those of `HEADLINES` that are among the metrics."""
    return [metric for metric in HEADLINES if metric in metrics]
