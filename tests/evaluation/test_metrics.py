"""Metrics: agreement with the peers, and no value without a reason."""

import math
import warnings

import numpy as np
import pytest
import torch

from tests.corpus import voice
from unified_sess.evaluation import metrics as metrics_module
from unified_sess.evaluation.metrics import FAMILIES, choose_families, metric_names, utterance_metrics
from unified_sess.evaluation.perceptual import missing_package
from unified_sess.evaluation.signals import match_estimates
from unified_sess.evaluation.signals import si_snr as exact_si_snr
from unified_sess.losses import pit_si_snr, si_snr
from unified_sess.utils.errors import UserError

RATE = 8000


def utterance(speakers=2, seconds=1.5, noise=0.01):
    """Mixture, clean, sources, estimates and enhanced mixture; the estimates come in the reverse order."""
    generator = np.random.default_rng(speakers)
    frames = int(RATE * seconds)
    sources = np.stack([voice(generator, frames, RATE, 100 + 40 * k) for k in range(speakers)], axis=1)
    clean = sources.sum(1)
    hiss = noise * generator.standard_normal(frames)
    leak = 0.2 * np.roll(sources, 1, axis=1) + 0.1 * np.convolve(clean, [0.5, 0, 0.2], "same")[:, None]
    estimates = 3 * (sources + leak + 0.3 * hiss[:, None])[:, ::-1]
    return clean + hiss, clean, sources, estimates, clean + 0.3 * hiss


def measure(signals, which=("si_snr", "sdr"), rate=RATE):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return utterance_metrics(*signals, rate, which)


@pytest.mark.parametrize("speakers", [1, 2, 3])
def test_sdr_agrees_with_mir_eval(speakers):
    separation = pytest.importorskip("mir_eval").separation
    mixture, clean, sources, estimates, enhanced = utterance(speakers)
    measured = measure((mixture, clean, sources, estimates, enhanced))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        after = separation.bss_eval_sources(sources.T, estimates.T)[0].mean()
        before = separation.bss_eval_sources(sources.T, np.tile(mixture, (speakers, 1)), False)[0].mean()
    assert measured["sdr"] == pytest.approx(after, abs=0.01)
    assert measured["sdri"] == pytest.approx(after - before, abs=0.01)


def test_si_snr_is_that_of_the_training_loss():
    mixture, clean, sources, estimates, enhanced = (torch.tensor(x.copy()) for x in utterance())
    measured = measure((mixture, clean, sources, estimates, enhanced))
    loss, _ = pit_si_snr(estimates.unsqueeze(0), sources.unsqueeze(0))
    assert measured["si_snr"] == pytest.approx(-float(loss), abs=1e-3)
    before = float(si_snr(mixture.unsqueeze(0), sources.T).mean())
    assert measured["si_snr"] - measured["si_snri"] == pytest.approx(before, abs=1e-3)
    assert measured["se_si_snr"] == pytest.approx(float(si_snr(enhanced, clean)), abs=1e-3)
    assert measured["se_si_snri"] == pytest.approx(measured["se_si_snr"] - float(si_snr(mixture, clean)), abs=1e-3)


@pytest.mark.parametrize("level", [1.0, 1e-4, 1e-8])
def test_a_20_dB_estimate_of_a_quiet_source_reads_20_dB(level):
    random = np.random.default_rng(0)
    source, noise = random.standard_normal((2, 8000))
    source, noise = source - source.mean(), noise - noise.mean()
    noise -= source * (noise @ source) / (source @ source)
    noise *= 0.1 * np.linalg.norm(source) / np.linalg.norm(noise)
    clean, other = level * source, level * np.roll(source, 900)
    sources = np.stack([clean, other], 1)
    estimates = np.stack([other + level * np.roll(noise, 900), clean + level * noise], 1)
    measured = measure((sources.sum(1), sources.sum(1), sources, estimates, sources.sum(1)), ("si_snr",))
    assert measured["si_snr"] == pytest.approx(20, abs=1e-6)


@pytest.mark.parametrize("level", [1e-6, 1e4])
def test_every_ratio_and_intelligibility_is_the_same_at_every_level(level):
    signals, families = utterance(), ("si_snr", "sdr", "stoi", "estoi")
    one, two = measure(signals, families), measure(tuple(level * x for x in signals), families)
    for name in metric_names(families):
        assert two[name] == pytest.approx(one[name], abs=1e-3), name


@pytest.mark.parametrize("kind", ["silent source", "silent estimate", "no noise"])
def test_what_is_silent_is_so_at_every_level(kind):
    for level in (1e-6, 1e6):
        measured = measure(tuple(level * x for x in degenerate(kind)), ("si_snr",))
        assert measured["reasons"] == measure(degenerate(kind), ("si_snr",))["reasons"]


def test_ratios_end_at_120_dB_and_silence_has_none_better():
    tone = torch.sin(torch.arange(800, dtype=torch.float64))
    assert float(exact_si_snr(tone, tone)) == pytest.approx(120, abs=0.1)
    assert float(exact_si_snr(torch.zeros(800).double(), tone)) == 0
    assert float(exact_si_snr(tone, torch.zeros(800).double())) == pytest.approx(-120)


def test_outputs_of_most_energy_are_scored_and_never_those_that_fit_best():
    mixture, clean, sources, estimates, enhanced = utterance()
    loud = 5 * np.stack([mixture, np.roll(mixture, 40)], axis=1)
    outputs = np.concatenate([0.01 * sources, loud], axis=1)  # the perfect ones are quiet
    measured = measure((mixture, clean, sources, outputs, enhanced), ("si_snr",))
    alone = measure((mixture, clean, sources, loud, enhanced), ("si_snr",))
    assert measured["si_snr"] == pytest.approx(alone["si_snr"])
    rest = 10 * np.log10(np.square(0.01 * sources).sum() / np.square(outputs).sum())
    assert measured["rest_level"] == pytest.approx(rest) and "rest_level" not in alone
    assert sorted(match_estimates(outputs, sources)) == [2, 3]


def test_silent_further_outputs_are_reported_as_120_dB_below():
    mixture, clean, sources, estimates, enhanced = utterance()
    outputs = np.concatenate([0 * sources[:, :1], estimates], axis=1)
    measured = measure((mixture, clean, sources, outputs, enhanced), ("si_snr",))
    assert measured["rest_level"] == pytest.approx(-120)
    assert measured["si_snri"] == measure((mixture, clean, sources, estimates, enhanced), ("si_snr",))["si_snri"]


def test_order_scale_and_offset_of_the_estimates_do_not_matter():
    mixture, clean, sources, estimates, enhanced = utterance()
    other = estimates[:, ::-1] * [0.01, 50.0]
    one = measure((mixture, clean, sources, estimates, enhanced))
    two = measure((mixture, clean, sources, other, 7 * enhanced))
    for name in metric_names(("si_snr", "sdr")):
        assert one[name] == pytest.approx(two[name], abs=1e-4), name


@pytest.mark.parametrize("snr", [-10, 0, 25])
def test_input_snr_is_the_one_of_mixing(snr):
    mixture, clean, sources, estimates, enhanced = utterance()
    noise = mixture - clean
    noise *= np.linalg.norm(clean) / np.linalg.norm(noise) * 10 ** (-snr / 20)
    assert measure((clean + noise, clean, sources, estimates, enhanced))["input_snr"] == pytest.approx(snr, abs=1e-4)


def degenerate(kind):
    mixture, clean, sources, estimates, enhanced = utterance()
    if kind == "silent source":
        sources[:, 1] = 0
    elif kind == "constant source":
        sources[:, 1] = 0.25
    elif kind == "silent estimate":
        estimates[:, 0] = 0
    elif kind == "output not finite":
        estimates = estimates * np.nan
        enhanced = enhanced * np.inf
    elif kind == "no noise":
        mixture = clean
    elif kind == "perfect":
        estimates, enhanced = sources, clean
    elif kind == "silence":
        mixture, clean, sources = 0 * mixture, 0 * clean, 0 * sources
    elif kind == "same source twice":
        sources[:, 1] = sources[:, 0]
    elif kind == "one sample":
        mixture, clean, sources, estimates, enhanced = (x[:1] for x in (mixture, clean, sources, estimates, enhanced))
    elif kind == "500 samples":
        mixture, clean, sources, estimates, enhanced = (x[:500] for x in (mixture, clean, sources, estimates, enhanced))
    return mixture, clean, sources, estimates, enhanced


KINDS = ["silent source", "constant source", "silent estimate", "output not finite", "no noise", "perfect", "silence"]
KINDS += ["same source twice", "one sample", "500 samples"]


@pytest.mark.parametrize("kind", KINDS)
def test_undefined_values_are_none_with_a_reason(kind):
    families = choose_families()
    measured = measure(degenerate(kind), families)
    for name in metric_names(families):
        if measured[name] is None:
            assert measured["reasons"][name], name
        else:
            assert math.isfinite(measured[name]) and name not in measured["reasons"], name


def test_the_reason_names_the_silent_source():
    measured = measure(degenerate("silent source"))
    assert measured["reasons"]["si_snri"] == "source 2 is silent"
    assert measured["reasons"]["sdr"] == "source 2 is silent"
    assert measured["se_si_snri"] is not None  # enhancement does not need the sources one by one


def test_without_noise_separation_has_a_value_and_input_snr_a_reason():
    measured = measure(degenerate("no noise"))
    assert measured["si_snri"] is not None and measured["sdri"] is not None
    assert measured["reasons"] == dict.fromkeys(
        ("se_si_snr_noisy", "se_si_snri", "input_snr"), "the mixture has no noise"
    )


def test_intelligibility_of_a_perfect_separation_is_one_and_falls_with_noise():
    mixture, clean, sources, estimates, enhanced = utterance()
    perfect = measure((mixture, clean, sources, sources, clean), ("stoi", "estoi"))
    assert perfect["stoi"] == pytest.approx(1, abs=1e-6) and perfect["estoi"] == pytest.approx(1, abs=1e-6)
    assert perfect["stoi_mixture"] < 1 and perfect["estoi_mixture"] < 1
    noisy = measure((mixture, clean, sources, sources + 0.2 * (mixture - clean)[:, None], clean), ("estoi",))
    assert noisy["estoi"] < perfect["estoi"]


@pytest.mark.skipif(missing_package("pesq") is not None, reason="extra metrics")
def test_pesq_of_a_perfect_separation_is_its_maximum_at_any_scale():
    mixture, clean, sources, _, enhanced = utterance()
    for scale in (1, 1e-3, 100):
        measured = measure((mixture, clean, sources, scale * sources, enhanced), ("pesq",))
        assert measured["pesq"] == pytest.approx(4.55, abs=0.01)  # end of the narrow-band scale
        assert measured["pesq_mixture"] < 4
    assert (
        "8000 and 16000" in measure((mixture, clean, sources, sources, enhanced), ("pesq",), 11025)["reasons"]["pesq"]
    )


@pytest.mark.skipif(missing_package("dnsmos") is not None, reason="extra metrics")
@pytest.mark.filterwarnings("ignore")
def test_dnsmos_is_on_its_scale_and_does_not_depend_on_the_scale_of_the_estimates():
    mixture, clean, sources, estimates, enhanced = utterance()
    one = utterance_metrics(mixture, clean, sources, estimates, enhanced, RATE, ("dnsmos",))
    two = utterance_metrics(mixture, clean, sources, 100 * estimates, enhanced, RATE, ("dnsmos",))
    for name in metric_names(("dnsmos",)):
        assert 0.9 < one[name] < 5 and one[name] == pytest.approx(two[name], abs=1e-3)


def test_families_are_checked(monkeypatch):
    with pytest.raises(UserError, match="'wer' is unknown: choose from si_snr"):
        choose_families(["si_snr", "wer"])
    monkeypatch.setattr(metrics_module, "missing_package", lambda family: "pesq" if family == "pesq" else None)
    with pytest.raises(UserError, match=r"needs the package pesq: pip install pesq \(the extra"):
        choose_families(["pesq"])
    assert choose_families() == ["si_snr", "sdr", "stoi", "estoi"]  # neither what is missing nor what is slow
    assert choose_families(["all"]) == ["si_snr", "sdr", "stoi", "estoi", "dnsmos"]
    assert choose_families(["sdr", "sdr"]) == ["sdr"]


def test_spaces_between_metrics_are_no_part_of_their_names():
    assert choose_families("si_snr, sdr ,stoi".split(",")) == ["si_snr", "sdr", "stoi"]
    assert choose_families([" all "]) == choose_families(["all"])


def test_every_family_gives_the_names_it_promises():
    families = choose_families()
    measured = measure(utterance(), families)
    assert set(measured) == {*metric_names(families), "reasons"} and not measured["reasons"]
    assert set(families) <= set(FAMILIES)
