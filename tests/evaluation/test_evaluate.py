"""Evaluation: same numbers however it runs, goes on after a stop, sounds that can be compared."""

import json
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import torch

from tests.corpus import make_corpus
from tests.inference.stub import GainModel
from unified_sess.data.corpora import find_corpus, prepare_manifests
from unified_sess.data.manifest import read_manifest
from unified_sess.evaluation.evaluate import evaluate_command, evaluate_network, run_network, summary_lines
from unified_sess.evaluation.examples import choose_examples
from unified_sess.evaluation.results import Results
from unified_sess.inference.passes import InPasses
from unified_sess.network import NoEnhancer, UnifiedNetwork
from unified_sess.utils.errors import UserError

METRICS = ("si_snr", "sdr")
COUNT = 5


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = make_corpus(tmp_path_factory.mktemp("corpus"), splits=[("test", COUNT)])
    found = find_corpus(folder, parts=("test",))
    manifests = prepare_manifests(found, tmp_path_factory.mktemp("manifests"), progress=False)
    return read_manifest(manifests["test"], found.root)


class Network(torch.nn.Module):
    """Two bad guesses, 1000 times too loud; stops the evaluation after `stop` mixtures."""

    def __init__(self, stop=None, scale=1000.0):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.tensor(scale))
        self.calls, self.stop = 0, stop

    def separate_batch(self, mixture):
        if self.calls == self.stop:
            raise KeyboardInterrupt
        self.calls += 1
        return torch.stack([mixture, mixture - 0.5 * mixture.roll(1, 1)], -1) * self.scale

    def enhance_batch(self, mixture):
        return (mixture + mixture.roll(1, 1)) * self.scale


def evaluate(network, manifest, folder, **options):
    return evaluate_network(network, manifest, folder, 8000, **{"metrics": METRICS, "progress": False, **options})


def contents(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture
def no_report(monkeypatch):
    """Drawing the page takes seconds and has tests of its own."""
    monkeypatch.setattr("unified_sess.evaluation.evaluate.write_report", lambda *_: None)


@pytest.fixture(scope="module")
def finished(corpus, tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished") / "out"
    return folder, evaluate(Network(), corpus, folder, audio_examples=2)


@pytest.mark.slow
def test_worker_processes_give_the_same_bytes(corpus, finished, tmp_path):
    evaluate(Network(), corpus, tmp_path / "out", audio_examples=2, jobs=2)
    assert contents(tmp_path / "out") == contents(finished[0])


def test_a_stopped_evaluation_goes_on_where_it_was(corpus, finished, tmp_path, no_report):
    with pytest.raises(KeyboardInterrupt):
        evaluate(Network(stop=3), corpus, tmp_path / "out", audio_examples=2)
    assert not (tmp_path / "out" / "test_results.csv").exists()
    partial = tmp_path / "out" / "test_results.partial"
    partial.write_text(partial.read_text(encoding="utf-8")[:-7], encoding="utf-8")  # killed inside a line
    again = Network()
    evaluate(again, corpus, tmp_path / "out", audio_examples=2)
    assert again.calls == COUNT - 2 + 2  # what was left, and the two examples
    expected = contents(finished[0])
    del expected["report.html"]
    assert contents(tmp_path / "out") == expected


@pytest.mark.parametrize("change", ["parameters", "metrics", "data"])
def test_partial_results_of_something_else_are_not_used(corpus, tmp_path, change, no_report):
    data = tmp_path / "data"
    shutil.copytree(corpus.data_root, data)
    manifest = read_manifest_of(data, tmp_path)
    with pytest.raises(KeyboardInterrupt):
        evaluate(Network(stop=3), manifest, tmp_path / "out")
    again = Network(scale=2.0 if change == "parameters" else 1000.0)
    if change == "data":
        path = data / "test" / "s1" / "u0.wav"
        signal, rate = soundfile.read(path, dtype="float32")
        soundfile.write(path, 0.5 * signal, rate, subtype="FLOAT")
    metrics = ("si_snr",) if change == "metrics" else METRICS
    evaluate(again, manifest, tmp_path / "out", audio_examples=0, metrics=metrics)
    assert again.calls == COUNT


def read_manifest_of(data, tmp_path):
    found = find_corpus(data, parts=("test",))
    return read_manifest(prepare_manifests(found, tmp_path / "m", progress=False)["test"], found.root)


def test_both_estimates_come_from_one_pass_of_the_unified_network():
    from speechbrain.lobes.models.dual_path import Decoder, Encoder

    class Halves(torch.nn.Module):
        def forward(self, features):
            return torch.stack([features, 1 - features])

    encoder, decoder = Encoder(16, 8), Decoder(8, 1, 16, 8)
    network = UnifiedNetwork({"encoder": encoder, "enhancer": NoEnhancer(), "masknet": Halves(), "decoder": decoder})
    mixture = torch.randn(500)
    sources, enhanced = run_network(network, mixture)
    assert sources.shape == (500, 2) and enhanced.shape == (500,)
    np.testing.assert_allclose(sources, network.separate_batch(mixture[None])[0], atol=1e-6)
    np.testing.assert_allclose(enhanced, network.enhance_batch(mixture[None])[0], atol=1e-6)


def test_limit_takes_the_first_mixtures(corpus, tmp_path, no_report):
    results = evaluate(Network(), corpus, tmp_path / "out", limit=2, audio_examples=0)
    assert [row["ID"] for row in results.rows] == [corpus[0].id, corpus[1].id]
    assert not (tmp_path / "out" / "audio").exists()


def test_examples_are_as_loud_as_the_mixture_and_never_clipped(finished, corpus):
    folder, results = finished
    assert len(results.details["examples"]) == 2
    for name in results.details["examples"]:
        signals = {
            key: soundfile.read(folder / "audio" / f"{name}_{key}.wav")[0]
            for key in ("mixture", "enhanced", "s1_estimate", "s2_estimate", "s1", "s2")
        }
        assert max(np.abs(s).max() for s in signals.values()) <= 0.991
        total = signals["s1_estimate"] + signals["s2_estimate"]
        # The best factor is one: another one would not bring the sum nearer to the mixture.
        assert np.dot(total, signals["mixture"]) / np.dot(total, total) == pytest.approx(1, abs=0.01)
        assert np.dot(signals["enhanced"], signals["mixture"]) / np.dot(*[signals["enhanced"]] * 2) == pytest.approx(
            1, abs=0.01
        )


def test_loud_mixtures_stay_under_full_scale_with_their_balance(corpus, tmp_path, no_report):
    data = tmp_path / "data"
    shutil.copytree(corpus.data_root, data)
    for path in data.rglob("u*.wav"):
        signal, rate = soundfile.read(path, dtype="float32")
        soundfile.write(path, 20 * signal, rate, subtype="FLOAT")
    results = evaluate(Network(), read_manifest_of(data, tmp_path), tmp_path / "out", limit=1, audio_examples=1)
    folder, name = tmp_path / "out" / "audio", results.details["examples"][0]
    signals = {key: soundfile.read(folder / f"{name}_{key}.wav")[0] for key in ("mixture", "s1", "s2")}
    original = {
        key: soundfile.read(data / "test" / folder_name / f"{name}.wav")[0]
        for key, folder_name in (("s1", "s1"), ("s2", "s2"))
    }
    assert max(np.abs(s).max() for s in signals.values()) <= 0.991
    ratios = [np.std(signals[key]) / np.std(original[key]) for key in ("s1", "s2")]
    assert ratios[0] == pytest.approx(ratios[1], rel=1e-3)


def test_examples_of_an_earlier_evaluation_are_replaced_and_other_files_kept(corpus, tmp_path, no_report):
    evaluate(Network(), corpus, tmp_path, audio_examples=COUNT)
    (tmp_path / "audio" / "mine.wav").write_bytes(b"")
    results = evaluate(Network(), corpus, tmp_path, audio_examples=1)
    names = {path.name for path in (tmp_path / "audio").iterdir()}
    assert names == {"mine.wav"} | {name for name in names if name.startswith(f"{results.details['examples'][0]}_")}


def test_examples_run_from_best_to_worst_with_the_median():
    results = Results(
        [{"ID": str(k), "si_snri": v} for k, v in enumerate([3.0, None, 9.0, 1.0, 5.0, 7.0])], ["si_snri"]
    )
    assert choose_examples(results, 3) == [2, 0, 1]  # the one without a value counts as the worst
    assert choose_examples(results, 2) == [2, 1]
    assert choose_examples(results, 1) == [0]
    assert choose_examples(results, 0) == []
    assert sorted(choose_examples(results, 50)) == list(range(6))


def test_a_faulty_file_is_named_and_nothing_is_written(corpus, tmp_path):
    data = tmp_path / "data"
    shutil.copytree(corpus.data_root, data)
    manifest = read_manifest_of(data, tmp_path)
    broken = data / "test" / "s2" / f"{corpus[1].id}.wav"
    signal, rate = soundfile.read(broken)
    soundfile.write(broken, signal[:-5], rate, subtype="FLOAT")
    with pytest.raises(UserError, match="samples where its mixture"):
        evaluate(Network(), manifest, tmp_path / "out")
    broken.unlink()
    with pytest.raises(UserError, match=f"{corpus[1].id}.wav"):
        evaluate(Network(), manifest, tmp_path / "out")
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["test_results.partial"]


def test_a_network_that_diverged_is_counted_and_does_not_stop_the_evaluation(corpus, tmp_path, no_report):
    results = evaluate(Network(scale=float("nan")), corpus, tmp_path, audio_examples=1)
    assert results.means()["si_snri"] is None
    summary = json.loads((tmp_path / "test_results.json").read_text(encoding="utf-8"))
    assert summary["metrics"]["si_snri"]["undefined"] == {"the network's output is not finite": COUNT}
    assert not any("separation" in line for line in summary_lines(results, tmp_path))


def test_the_summary_says_what_training_reached(finished, tmp_path):
    folder, results = finished
    text = "\n".join(summary_lines(results, folder))
    assert "SI-SNR" in text and "SDR" in text and "improvement" in text and "audio" in text
    assert "conflict" not in text  # nothing was trained here
    log = "epoch: 1, lr: 1.00e-03 - train loss_ss: 2.7, train conflict_rate: 7.39e-01 - valid si_snri: 3\n"
    (tmp_path / "train_log.txt").write_text(log + log.replace("7.39e-01", "2.50e-01"), encoding="utf-8")
    assert "conflict rate of the two gradients in the last epoch: 25.0 %" in "\n".join(summary_lines(results, tmp_path))


def pretrained(num_spks):
    from speechbrain.lobes.models.dual_path import Decoder, Encoder

    from unified_sess.inference import UnifiedSeparation
    from unified_sess.nnet.conv_tasnet import MaskNet

    masknet = MaskNet(N=16, B=8, H=8, P=3, X=1, R=1, C=num_spks)
    modules = {"encoder": Encoder(16, 16), "masknet": masknet, "decoder": Decoder(16, 1, 16, 8, bias=False)}
    return UnifiedSeparation(modules, {"num_spks": num_spks, "sample_rate": 8000}, run_opts={"device": "cpu"})


def test_the_command_needs_nothing_but_a_model_and_the_test_part(corpus, tmp_path, monkeypatch, no_report):
    model = pretrained(2)
    monkeypatch.setattr("unified_sess.inference.separation.UnifiedSeparation.from_pretrained", lambda *_, **__: model)
    out = tmp_path / "out"
    results = evaluate_command(corpus.data_root, output=out, metrics=METRICS, limit=2, audio_examples=1, progress=False)
    expected = evaluate(UnifiedNetwork(model.mods), corpus, tmp_path / "other", limit=2, audio_examples=1)
    assert results.rows == expected.rows
    assert (out / "test_results.csv").read_bytes() == (tmp_path / "other" / "test_results.csv").read_bytes()


def test_the_command_measures_passes(corpus, tmp_path, monkeypatch, no_report):
    model = pretrained(2)
    monkeypatch.setattr("unified_sess.inference.separation.UnifiedSeparation.from_pretrained", lambda *_, **__: model)
    measured = {"metrics": METRICS, "limit": 2, "audio_examples": 0, "progress": False}
    once, twice = (
        evaluate_command(corpus.data_root, output=tmp_path / str(passes), passes=passes, **measured)
        for passes in (1, 2)
    )
    expected = evaluate(InPasses(model, 2), corpus, tmp_path / "own", limit=2, audio_examples=0)
    assert twice.rows == expected.rows and twice.rows != once.rows
    with pytest.raises(UserError, match="passes must be from 1"):
        evaluate_command(corpus.data_root, output=tmp_path / "none", passes=0, **measured)
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("threshold, why", [(-40.0, "holds mixtures"), (None, "are not placed by voice")])
def test_voices_are_of_conversations_alone(corpus, tmp_path, monkeypatch, threshold, why):
    model = GainModel(0.6, 0.4, threshold=threshold)
    monkeypatch.setattr("unified_sess.inference.separation.UnifiedSeparation.from_pretrained", lambda *_, **__: model)
    with pytest.raises(UserError, match=f"--voices net.onnx: .*{why}.*leave it out"):
        evaluate_command(corpus.data_root, output=tmp_path / "out", voices=SimpleNamespace(name="net.onnx"))
    assert not (tmp_path / "out").exists()


def test_a_network_of_another_rate_is_measured_at_the_rate_of_the_corpus(corpus, tmp_path, no_report):
    """Its estimates are the mixture: resampled there and back they improve nothing, and lose next to nothing."""

    class Copies:
        def __init__(self):
            self.heard = []

        def separate_batch(self, mixture):
            self.heard.append(mixture.shape[1])
            return mixture.unsqueeze(2).expand(-1, -1, 2)

        def enhance_batch(self, mixture):
            return mixture

    network = Copies()
    results = evaluate(network, corpus, tmp_path / "out", audio_examples=0, network_rate=16000)
    assert network.heard == [2 * soundfile.info(row.mixture).frames for row in corpus]
    assert (results.details["sample_rate"], results.details["network_rate"]) == (8000, 16000)
    for metric in ("si_snri", "se_si_snri"):
        assert abs(results.values(metric)).max() < 0.5


def test_the_command_takes_a_corpus_that_is_not_there_at_the_rate_of_the_model(tmp_path, monkeypatch, no_report):
    model = pretrained(2)
    model.hparams.sample_rate = 16000
    monkeypatch.setattr("unified_sess.inference.separation.UnifiedSeparation.from_pretrained", lambda *_, **__: model)
    make_corpus(tmp_path / "Libri2Mix", splits=[("test", 2)])
    out = tmp_path / "out"
    results = evaluate_command(tmp_path / "Libri2Mix", output=out, metrics=METRICS, audio_examples=1, progress=False)
    assert (results.details["sample_rate"], results.details["network_rate"]) == (8000, 16000)
    example = next((out / "audio").rglob("*.wav"))
    assert soundfile.info(example).samplerate == 8000


def test_a_model_of_too_few_speakers_is_refused_with_options_that_evaluate_has(corpus, tmp_path, monkeypatch):
    model = pretrained(1)
    monkeypatch.setattr("unified_sess.inference.separation.UnifiedSeparation.from_pretrained", lambda *_, **__: model)
    with pytest.raises(UserError, match="2 speakers and the model separates 1: give --model one for 2") as error:
        evaluate_command(corpus.data_root, output=tmp_path / "out", metrics=METRICS, progress=False)
    assert "num_spks" not in str(error.value)  # which `unified-sess evaluate` does not take
    assert not (tmp_path / "out").exists()


def test_of_more_outputs_than_people_the_loudest_are_measured_and_the_rest_is_reported(corpus, tmp_path, no_report):
    class Three(Network):
        def separate_batch(self, mixture):
            two = super().separate_batch(mixture)
            return torch.cat([0.1 * two[..., :1], two], -1)

    two = evaluate(Network(), corpus, tmp_path / "two", audio_examples=0)
    three = evaluate(Three(), corpus, tmp_path / "three", audio_examples=1)
    assert "rest_level" not in two.metrics and three.metrics == [*two.metrics, "rest_level"]
    for metric in two.metrics:
        np.testing.assert_allclose(two.values(metric), three.values(metric), atol=1e-4)
    assert -25 < three.means()["rest_level"] < -20  # a tenth of one of two loud outputs
    assert any("beyond the 2 of most energy" in line for line in summary_lines(three, tmp_path))


def test_the_summary_does_not_count_mixtures_whose_measure_is_undefined(tmp_path):
    rows = [{"ID": "a", "si_snr": 3.0, "si_snri": 2.0}, {"ID": "b", "si_snr": None, "si_snri": None}]
    assert "SI-SNR 3.00 dB (improvement 2.00 dB), of 1 mixtures" in "\n".join(
        summary_lines(Results(rows, ["si_snr", "si_snri"]), tmp_path)
    )
