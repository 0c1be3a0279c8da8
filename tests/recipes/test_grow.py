"""A model at 8 kHz that grows to 16 kHz goes on separating what it separated, and knows how loud its sources are."""

import runpy
import shutil
import sys

import numpy as np
import pytest
import soundfile
import soxr
import torch

from tests.corpus import make_corpus
from tests.inference.training import mixture
from unified_sess.inference import UnifiedSeparation
from unified_sess.losses import si_snr
from unified_sess.model_io.model_files import load_model


@pytest.fixture
def script(repository):
    return repository / "recipes" / "Recordings" / "grow.py"


def test_up_to_4_khz_the_grown_model_does_what_the_trained_one_does(repository, script, tmp_path):
    trained = repository / "recipes" / "Mini" / "separator"
    runpy.run_path(str(script))["grow"](trained, tmp_path / "grown")
    old, new = UnifiedSeparation.from_pretrained(trained), UnifiedSeparation.from_pretrained(tmp_path / "grown")
    assert (old.sample_rate, new.sample_rate) == (8000, 16000)
    for seed in range(3):
        heard, _ = mixture(np.random.default_rng(seed), 3.0)
        sources = old.separate_batch(torch.from_numpy(heard).unsqueeze(0))
        grown = new.separate_batch(torch.from_numpy(soxr.resample(heard, 8000, 16000)).unsqueeze(0))[0].numpy()
        low = torch.from_numpy(soxr.resample(grown, 16000, 8000)).unsqueeze(0)
        assert si_snr(low.transpose(1, 2), sources.transpose(1, 2)).min() > 10


def test_the_command_brings_the_sources_to_the_level_of_the_corpus(repository, script, tmp_path, monkeypatch, capsys):
    corpus = make_corpus(tmp_path / "corpus", splits=[("dev", 4)], num_spks=2)
    trained = repository / "recipes" / "Mini" / "separator"
    words = [trained, tmp_path / "grown", "--data-folder", corpus]
    monkeypatch.setattr(sys, "argv", [str(script), *map(str, words)])
    runpy.run_path(str(script), run_name="__main__")
    gain = float(capsys.readouterr().out.split()[2])
    (_, old), (_, new) = load_model(trained), load_model(tmp_path / "grown")
    assert torch.allclose(new["masknet"].masks.weight * gain, old["masknet"].masks.weight, rtol=1e-2)
    assert gain > 0


def test_people_who_never_speak_have_no_level(repository, script, tmp_path):
    """A silent source made the gain, and then the weights, NaN."""
    corpus = make_corpus(tmp_path / "corpus", splits=[("dev", 4)], num_spks=2)
    trained, measure = repository / "recipes" / "Mini" / "separator", runpy.run_path(str(script))["measure_gain"]
    whole = measure(trained, corpus)
    for number, path in enumerate(sorted(corpus.rglob("s2/*.wav"))):
        if number % 2:
            signal, rate = soundfile.read(path)
            soundfile.write(path, 0 * signal, rate, subtype="FLOAT")
    assert measure(trained, corpus) == pytest.approx(whole, rel=0.5)
    for path in corpus.rglob("s?/*.wav"):
        signal, rate = soundfile.read(path)
        soundfile.write(path, 0 * signal, rate, subtype="FLOAT")
    with pytest.raises(Exception, match="does anybody speak"):
        measure(trained, corpus)


def test_a_grown_model_takes_the_place_of_another_whole(repository, script, random_model, tmp_path):
    grow, trained = runpy.run_path(str(script))["grow"], repository / "recipes" / "Mini" / "separator"
    shutil.copytree(random_model, tmp_path / "model")
    (tmp_path / "model" / "model.onnx").write_bytes(b"of another model")
    grow(trained, tmp_path / "model")
    assert {path.name for path in (tmp_path / "model").iterdir()} == {"README.md", "config.json", "model.safetensors"}
    shutil.copytree(trained, tmp_path / "trained")
    with pytest.raises(Exception, match="is MODEL itself"):
        grow(tmp_path / "trained", tmp_path / "trained")


def test_what_cannot_grow_is_named(script, random_model, tmp_path):
    grow = runpy.run_path(str(script))["grow"]
    with pytest.raises(Exception, match="no model of tfdprnn-small"):
        grow(random_model, tmp_path / "grown")
    assert not (tmp_path / "grown").exists()
