"""The model that ships: small, safe, its card says where it comes from, and it separates people it never heard."""

import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from unified_sess.data.dynamic_mixing import DynamicMixingDataset
from unified_sess.inference import UnifiedSeparation
from unified_sess.losses import pit_si_snr, si_snr
from unified_sess.model_io import onnx_export
from unified_sess.model_io.model_files import load_model
from unified_sess.model_io.model_folder import ONNX, SHIPPED
from unified_sess.model_io.onnx_file import read_onnx


@pytest.fixture(scope="module")
def model():
    return UnifiedSeparation.from_pretrained()


@pytest.fixture(scope="module")
def mixtures(corpora, tmp_path_factory, model):
    """24 noisy mixtures of 4 s of speakers and noise recordings that are in no training."""
    folders = corpora / "LibriSpeech" / "test-clean", corpora / "wham_noise" / "tt"
    length = 4 * model.sample_rate
    options = {"sample_rate": model.sample_rate, "speed_factors": None, "mixtures_per_epoch": 24, "workers": 1}
    dataset = DynamicMixingDataset(*folders, tmp_path_factory.mktemp("index"), training_signal_len=length, **options)
    return [dataset[(1, index, length)] for index in range(24)]


def test_it_is_small_and_holds_nothing_to_execute():
    assert {path.name for path in SHIPPED.iterdir()} == {"README.md", "config.json", "model.onnx", "model.safetensors"}
    assert max(path.stat().st_size for path in SHIPPED.iterdir()) <= 10e6


def test_its_onnx_file_is_of_the_same_model(monkeypatch):
    """After a new model: unified-sess export unified_sess/models/default unified_sess/models/default/model.onnx --half"""
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    monkeypatch.setattr(onnx_export, "TRIALS", ((0.01, 1), (2.0, 2)))
    config, modules = load_model(SHIPPED)
    file = read_onnx(SHIPPED / ONNX)
    assert file.config == config._replace(modules={})
    assert onnx_export.check_onnx(file.data, config, modules) < 1e-4


def test_it_hears_and_gives_16_khz(model):
    assert (model.sample_rate, model.num_spks) == (16000, 2)
    assert model.config.silence_threshold is not None


def test_its_card_names_data_licences_results_and_limits():
    card = ModelCard.load(SHIPPED / "README.md")
    assert {result.metric_type for result in card.data.eval_results} >= {"si_snri", "sdri", "stoi"}
    for word in ("LibriSpeech", "CC BY 4.0", "Pixabay", "## Limits", "## Training"):
        assert word in card.content


@pytest.mark.slow
def test_it_separates_people_it_never_heard(model, mixtures):
    gains = []
    for item in mixtures:
        mixture, sources = torch.from_numpy(item["mixture"]), torch.from_numpy(item["sources"])
        separated = -pit_si_snr(model.separate_batch(mixture[None]), sources[None])[0]
        gains.append(float(separated - si_snr(mixture, sources.T).mean()))
    assert np.mean(gains) > 4.5
    assert np.mean(np.array(gains) > 0) > 0.9


@pytest.mark.slow
def test_its_sources_have_the_polarity_of_the_mixture(model, mixtures):
    for item in mixtures:
        mixture = torch.from_numpy(item["mixture"])
        assert (model.separate_batch(mixture[None])[0].T @ mixture > 0).all()


@pytest.mark.slow
def test_of_one_person_in_noise_one_output_holds_most(model, mixtures):
    """What is left on the other track is what a listener hears of a split voice."""
    leaks = []
    for item in mixtures:
        alone = torch.from_numpy(item["mixture"] - item["sources"][:, 1])
        levels = 10 * torch.log10(model.separate_batch(alone[None])[0].square().mean(0) + 1e-12)
        leaks.append(float(levels.max() - levels.min()))
    assert np.median(leaks) > 10


def test_long_silence_and_noise_alone_stay_finite(model):
    for signal in (torch.zeros(1, 16000), 0.1 * torch.randn(1, 16000)):
        assert model.separate_batch(signal).isfinite().all()


class NoDouble(TorchDispatchMode):
    """Refuses what Apple's mps refuses: numbers of 64 bits with a point."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            assert not isinstance(tensor, torch.Tensor) or tensor.dtype not in (torch.float64, torch.complex128), func
        return result


def test_the_network_needs_no_double_precision(model):
    """So `--device mps` has what it needs; on such a device it was not tried."""
    with NoDouble():
        assert model.run(torch.randn(1, 300), enhanced=True).isfinite().all()
        with pytest.raises(AssertionError):
            torch.zeros(1).double()
