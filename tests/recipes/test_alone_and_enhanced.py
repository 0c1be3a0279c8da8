"""The model cleans noisy speech, and what is measured where one person talks is what lies on the outputs."""

import runpy
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from tests.corpus import make_corpus


@pytest.fixture
def script(repository):
    return repository / "recipes" / "Recordings" / "alone_and_enhanced.py"


@pytest.mark.parametrize("rate", [8000, 16000])
@pytest.mark.parametrize(("leak", "expected"), [(0.1, 20.0), (0.5, 6.0)])
def test_the_gap_is_that_of_the_outputs(script, rate, leak, expected):
    """A model that puts all on its second output, and a known share on the first; at its own rate and at half of it."""
    model = SimpleNamespace(sample_rate=16000, device="cpu")
    model.separate_batch = lambda mixture: torch.stack((leak * mixture, mixture), dim=2)
    random = np.random.default_rng(0)
    sources = random.standard_normal((rate, 2)).astype(np.float32)
    noise = 0.1 * random.standard_normal(rate).astype(np.float32)
    item = {"mixture": sources.sum(1) + noise, "clean": sources.sum(1), "sources": sources}
    assert runpy.run_path(str(script))["alone"](model, item, rate) == pytest.approx(expected, abs=0.1)


@pytest.mark.parametrize("snr", [0.0, 5.0])
def test_the_noise_is_as_loud_as_asked_for(script, snr):
    """A model that gives half of the clean mixture and half of the noisy one lowers the noise by 6 dB."""
    random = np.random.default_rng(0)
    clean = random.standard_normal(16000).astype(np.float32)
    heard = []
    model = SimpleNamespace(sample_rate=16000, device="cpu")
    model.enhance_batch = lambda noisy: heard.append(noisy) or (noisy + torch.from_numpy(clean)) / 2
    item = {"mixture": clean + 3 * random.standard_normal(16000).astype(np.float32), "clean": clean}
    found = runpy.run_path(str(script))["enhanced"](model, item, 16000, snr)
    assert found["SI-SNRi"] == pytest.approx(6.02, abs=0.3)
    noise = heard[0][0].numpy() - clean
    assert 10 * np.log10(np.square(clean).sum() / np.square(noise).sum()) == pytest.approx(snr, abs=0.01)


def test_the_command(script, tmp_path, monkeypatch, capsys):
    corpus = make_corpus(tmp_path / "corpus", splits=[("test", 3)])
    monkeypatch.setattr(sys, "argv", [str(script), "--data-folder", str(corpus), "--mixtures", "2"])
    runpy.run_path(str(script), run_name="__main__")
    told = capsys.readouterr().out
    assert "enhanced, 2 mixtures: SI-SNRi" in told and "one person alone: the next output" in told
