"""The model cleans noisy speech, and what is measured where one person talks is what lies on the outputs."""

import runpy
import sys

import numpy as np
import pytest

from tests.corpus import make_corpus


@pytest.fixture
def script(repository):
    return repository / "recipes" / "Recordings" / "alone_and_enhanced.py"


@pytest.mark.parametrize(("leak", "gap", "people"), [(0.1, 20.0, 1), (0.5, 6.0, 1)])
def test_the_gap_is_that_of_the_outputs(script, leak, gap, people):
    """A model that puts all on its second output, and a known share on the first: parts of one voice."""
    random = np.random.default_rng(0)
    sources, noise = random.standard_normal((16000, 2)), 0.1 * random.standard_normal(16000)
    item = {"mixture": sources.sum(1) + noise, "clean": sources.sum(1), "sources": sources}
    heard = []

    def run(mixture):
        heard.append(mixture)
        return np.stack((leak * mixture, mixture), axis=1), mixture

    alone = runpy.run_path(str(script))["alone"]
    assert alone(run, item, 8000, -40.0) == (pytest.approx(gap, abs=0.1), people)
    np.testing.assert_allclose(heard[0], sources[:, 0] + noise, atol=1e-12)
    assert alone(run, item, 8000, None)[1] == 2  # a network that has not learnt silence


@pytest.mark.parametrize("snr", [0.0, 5.0])
def test_the_noise_is_as_loud_as_asked_for(script, snr):
    """A model that gives half of the clean mixture and half of the noisy one lowers the noise by 6 dB."""
    random = np.random.default_rng(0)
    clean = random.standard_normal(16000).astype(np.float32)
    heard = []

    def run(noisy):
        heard.append(noisy)
        return np.stack((noisy, noisy), axis=1), (noisy + clean) / 2

    item = {"mixture": clean + 3 * random.standard_normal(16000).astype(np.float32), "clean": clean}
    found = runpy.run_path(str(script))["enhanced"](run, item, 16000, snr)
    assert found["SI-SNRi"] == pytest.approx(6.02, abs=0.3)
    noise = heard[0] - clean
    assert 10 * np.log10(np.square(clean).sum() / np.square(noise).sum()) == pytest.approx(snr, abs=0.01)


def test_no_mixtures_are_one_line(script, tmp_path, monkeypatch, capsys):
    """Regression: it ended in a traceback."""
    monkeypatch.setattr(sys, "argv", [str(script), "--data-folder", str(tmp_path), "--mixtures", "0"])
    with pytest.raises(SystemExit):
        runpy.run_path(str(script), run_name="__main__")
    assert "--mixtures must be at least 1, not 0" in capsys.readouterr().err


def test_rooms_are_refused(script, tmp_path, monkeypatch, capsys):
    """There the mixture less the direct paths holds the other person's reverberation."""
    (tmp_path / "wav16k/min/test").mkdir(parents=True)
    (tmp_path / "wav16k/min/test/rooms.csv").touch()
    monkeypatch.setattr(sys, "argv", [str(script), "--data-folder", str(tmp_path)])
    with pytest.raises(SystemExit):
        runpy.run_path(str(script), run_name="__main__")
    assert "holds rooms" in capsys.readouterr().err


def test_the_command(script, tmp_path, monkeypatch, capsys):
    corpus = make_corpus(tmp_path / "corpus", splits=[("test", 3)])
    monkeypatch.setattr(sys, "argv", [str(script), "--data-folder", str(corpus), "--mixtures", "2"])
    runpy.run_path(str(script), run_name="__main__")
    told = capsys.readouterr().out
    assert "enhanced, 2 mixtures: SI-SNRi" in told and "one person alone: the next output" in told
    assert "one output alone is taken to hold somebody in" in told
