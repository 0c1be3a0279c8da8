"""One ONNX file gives the samples that torch gives, at any length and batch, or is not written."""

import json

import numpy as np
import pytest
import torch

from tests.model_io.results import make_results, trees
from unified_sess.inference import UnifiedSeparation
from unified_sess.model_io import onnx_export
from unified_sess.model_io.export import export
from unified_sess.model_io.model_folder import CONFIG, ONNX, ModelConfig
from unified_sess.model_io.module_tree import build
from unified_sess.model_io.onnx_export import check_onnx, to_onnx
from unified_sess.model_io.show_network import load_network
from unified_sess.nnet.time_frequency import SpectralEncoder
from unified_sess.utils.errors import UserError

onnxruntime = pytest.importorskip("onnxruntime")
onnx = pytest.importorskip("onnx")


@pytest.fixture
def short_trials(monkeypatch):
    """A minute of signal is tried in one test alone."""
    monkeypatch.setattr(onnx_export, "TRIALS", ((0.001, 1), (0.3, 2)))


def spectral(backbone="tfdprnn", **options):
    """A small network and its config."""
    content = trees(backbone)
    modules = {name: build(tree, name).eval() for name, tree in content.items()}
    return ModelConfig(content, 2, 8000, **options), modules


@pytest.mark.parametrize("backbone", ["tfdprnn", "wide", "bandsplit"])
@pytest.mark.parametrize("options", [{}, {"silence_threshold": -30.0, "enhanced_from": "sources"}])
def test_a_file_of_onnxruntime_alone_gives_the_samples_of_torch(tmp_path, short_trials, backbone, options):
    make_results(tmp_path / "results", backbone, si_snri=(1.0,))
    path = tmp_path / "results" / "hyperparams.yaml"
    path.write_text(path.read_text() + "".join(f"{name}: {value}\n" for name, value in options.items()))
    folder = export(tmp_path / "results", tmp_path / "model", onnx=True)
    session = onnxruntime.InferenceSession(str(folder / ONNX))
    said = session.get_modelmeta().custom_metadata_map
    assert said["format"] == "unified_sess" and json.loads(said["sample_rate"]) == 8000
    assert {name: str(value) for name, value in options.items()}.items() <= said.items()
    model = UnifiedSeparation.from_pretrained(folder, device="cpu")
    for batch, length in ((1, 1), (1, 63), (2, 64), (3, 1000), (1, 4097)):
        mixture = 0.1 * torch.randn(batch, length)
        sources, enhanced = session.run(["sources", "enhanced"], {"mixture": mixture.numpy()})
        wanted = model.run(mixture, enhanced=True).numpy()
        assert sources.shape == (batch, length, 2) and enhanced.shape == (batch, length)
        np.testing.assert_allclose(sources, wanted[..., :2], atol=1e-4 * np.abs(wanted).max())
        np.testing.assert_allclose(enhanced, wanted[..., 2], atol=1e-4 * np.abs(wanted).max())


def test_a_minute_keeps_its_digits(monkeypatch):
    """Regression: a mean over channels, frequencies and a minute at once lost 6e-4 in fp32."""
    config, modules = spectral()
    monkeypatch.setattr(onnx_export, "TRIALS", ((60.0, 1),))
    assert check_onnx(to_onnx(config, modules), config, modules) < 1e-4


@pytest.mark.parametrize("backbone", ["dprnn", "sepformer", "convtasnet"])
def test_what_would_not_match_is_never_written(tmp_path, short_trials, backbone, capfd):
    make_results(tmp_path / "results", backbone, si_snri=(1.0,))
    try:
        folder = export(tmp_path / "results", tmp_path / "model", onnx=True)
    except UserError as error:
        assert "no ONNX file was written" in str(error) and "\n" not in str(error)
        assert not (tmp_path / "model").exists()
        assert "graph" not in capfd.readouterr().out  # the exporter prints hundreds of lines by itself
    else:  # it may learn to
        assert (folder / ONNX).is_file()


@pytest.mark.parametrize("name", ["tfdprnn-wide", "bandsplit-small"])
def test_causal_networks_are_written_too(repository, short_trials, name):
    """Regression: a sum over the frames so far was refused as an operator that no network of ours uses."""
    size = {"causal": True, "channels": 8, "hidden": 8} | ({"past": 0} if name == "tfdprnn-wide" else {})
    modules, rate = load_network(repository / "hparams" / "networks" / f"{name}.yaml", size)
    config = ModelConfig({}, 2, rate)
    assert check_onnx(to_onnx(config, modules), config, modules) < 1e-4


def test_causal_dereverberation_is_refused_by_name(repository):
    modules, rate = load_network(repository / "hparams" / "networks" / "tfdprnn-wide.yaml", {"causal": True})
    with pytest.raises(UserError, match="causal dereverberation .* `past: 0`"):
        to_onnx(ModelConfig({}, 2, rate), modules)


def test_weights_that_differ_from_torch_are_noticed(short_trials):
    config, modules = spectral()
    data = to_onnx(config, modules)
    with torch.no_grad():
        modules["decoder"].conv.weight.mul_(1.001)
    with pytest.raises(UserError, match="deviates by 0.001"):
        check_onnx(data, config, modules)


def test_exporting_again_takes_the_onnx_file_of_before_away(tmp_path, short_trials):
    make_results(tmp_path / "results", "tfdprnn", si_snri=(1.0,))
    folder = export(tmp_path / "results", tmp_path / "model", onnx=True, plain=True)
    again = export(folder, tmp_path / "again", onnx=True, plain=True)  # a model folder is exported as well
    assert {path.name for path in again.iterdir()} == {"README.md", CONFIG, "model.safetensors", ONNX}
    assert "[batch, time, 2]" in (again / "README.md").read_text()
    export(tmp_path / "results", again, plain=True)
    assert not (again / ONNX).exists() and ONNX not in (again / "README.md").read_text()


def test_waves_of_the_dereverberation_are_stored_once_and_in_16_bits(short_trials):
    """Regression: traced constants stayed in 32 bits, one copy for each use, 2 MB of the file of the model that ships."""
    config, modules = spectral()
    modules["encoder"] = SpectralEncoder(64, 32, past=4)
    with torch.no_grad():
        modules["encoder"].conv1d.weight.mul_(1.5)  # as trained filters, no longer those of the dereverberation
    modules = {name: module.half().float() for name, module in modules.items()}
    model = onnx.load_from_string(to_onnx(config, modules, half=True))
    waves = modules["encoder"].dereverberation.waves.half().numpy()
    stored = [onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer]
    alike = [x for x in stored if x.shape == waves.shape and np.array_equal(x, waves)]
    assert len(alike) == 1 and alike[0].dtype == np.float16
    constants = [node.attribute[0].t for node in model.graph.node if node.op_type == "Constant"]
    assert not [x for x in constants if len(x.raw_data) >= onnx_export.LARGE_CONSTANT]
