"""What `unified-sess export` writes, and its model card."""

import os
import resource
import subprocess
import sys

import pytest
import safetensors.torch
import torch
import yaml
from huggingface_hub import ModelCard
from speechbrain.inference.separation import SepformerSeparation

from tests.model_io.results import make_results, trees
from unified_sess.evaluation.metrics import FAMILIES
from unified_sess.evaluation.results import Results
from unified_sess.inference import UnifiedSeparation
from unified_sess.model_io.export import export
from unified_sess.model_io.module_tree import build
from unified_sess.utils.errors import UserError
from unified_sess.utils.metric_names import METRIC_NAMES

FILES = {
    "README.md", "config.json", "custom.py", "decoder.ckpt", "encoder.ckpt", "enhancer.ckpt", "hyperparams.yaml",
    "masknet.ckpt", "model.safetensors",
}  # fmt: skip


@pytest.fixture
def results(tmp_path):
    """A results folder with measures of three mixtures."""
    make_results(tmp_path / "results", si_snri=(5.0,))
    rows = [
        {"ID": name, "si_snri": value, "sdri": value + 1, "pesq": None} for name, value in (("a", 9.0), ("b", 12.0))
    ]
    Results(rows, ["si_snri", "sdri", "pesq"]).save(tmp_path / "results")
    return tmp_path / "results"


def test_files_of_a_model_folder(results, tmp_path):
    assert export(results, tmp_path / "new/model") == tmp_path / "new/model"
    assert {path.name for path in (tmp_path / "new/model").iterdir()} == FILES
    content = (tmp_path / "new/model/hyperparams.yaml").read_text()
    assert str(tmp_path) not in content  # it can be moved and given away
    assert str(tmp_path) not in (tmp_path / "new/model/config.json").read_text()


def test_exporting_again_replaces_the_model(results, tmp_path):
    folder = export(results, tmp_path / "model")
    modules = make_results(tmp_path / "others", si_snri=(1.0,))
    (folder / "notes.txt").write_text("mine")
    export(tmp_path / "others", folder)
    model = UnifiedSeparation.from_pretrained(folder)
    torch.testing.assert_close(model.mods.encoder.conv1d.weight.cpu(), modules["encoder"].conv1d.weight)
    assert "It was not measured" in (folder / "README.md").read_text()  # no numbers of the model before
    assert (folder / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize(
    "name",
    ["README.md", "config.json", "custom.py", "hyperparams.yaml", "model.onnx", "encoder.ckpt", "model.safetensors"],
)
def test_files_of_somebody_else_are_never_replaced(results, tmp_path, name):
    """An export into a project's folder deleted its hyperparams.yaml and custom.py and wrote over its README."""
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / name).write_text("mine")
    for plain in (True, False):
        with pytest.raises(UserError, match=f"{name} was not written by an export"):
            export(results, folder, plain=plain)
    assert {path.name: path.read_text() for path in folder.iterdir()} == {name: "mine"}


def test_a_training_is_never_replaced_by_a_model(results, tmp_path):
    """Arguments the wrong way round."""
    model = export(results, tmp_path / "model")
    before = {path: path.read_bytes() for path in results.rglob("*") if path.is_file()}
    with pytest.raises(UserError, match="was not written by an export"):
        export(model, results)
    assert {path: path.read_bytes() for path in results.rglob("*") if path.is_file()} == before


def test_results_stay_as_they_were(results, tmp_path):
    before = {path: path.read_bytes() for path in results.rglob("*") if path.is_file()}
    export(results, tmp_path / "model")
    with pytest.raises(UserError, match="results folder itself"):
        export(results, results)
    assert {path: path.read_bytes() for path in results.rglob("*") if path.is_file()} == before


def test_card_carries_the_means_of_the_results(results, tmp_path):
    card = ModelCard.load(export(results, tmp_path / "model") / "README.md")
    assert {e.metric_type: e.metric_value for e in card.data.eval_results} == {"si_snri": 10.5, "sdri": 11.5}
    header = yaml.safe_load(card.content.split("---")[1])
    assert header["library_name"] == "unified_sess" and header["pipeline_tag"] == "audio-to-audio"
    assert {"speech-separation", "speech-enhancement"} <= set(header["tags"])
    (model,) = header["model-index"]
    assert [m["value"] for m in model["results"][0]["metrics"]] == [10.5, 11.5]
    for line in (
        "| SI-SNRi (dB) | 10.5 |",
        "| SDRi (dB) | 11.5 |",
        "| 2 mixtures of the test part |",
        "8000 Hz",
        "2 speakers",
    ):
        assert line in card.text
    assert "pesq" not in card.content.lower()  # measured nowhere


def test_card_without_numbers_says_so(tmp_path):
    make_results(tmp_path / "results", si_snri=(5.0,))
    card = ModelCard.load(export(tmp_path / "results", tmp_path / "model") / "README.md")
    assert "It was not measured" in card.text and card.data.eval_results is None


def test_every_measure_has_a_name_in_the_card():
    assert {name for names, _ in FAMILIES.values() for name in names} <= set(METRIC_NAMES)


def test_numbers_survive_saving(results, tmp_path):
    folder = export(results, tmp_path / "model")
    UnifiedSeparation.from_pretrained(folder).save_pretrained(tmp_path / "saved")
    card = ModelCard.load(tmp_path / "saved/README.md")
    assert {e.metric_type: e.metric_value for e in card.data.eval_results} == {"si_snri": 10.5, "sdri": 11.5}
    assert "custom.py" not in card.text  # what this folder does not have


def test_half_precision(results, tmp_path):
    whole, half = export(results, tmp_path / "whole"), export(results, tmp_path / "half", half=True)
    stored = [safetensors.torch.load_file(half / "model.safetensors"), torch.load(half / "masknet.ckpt")]
    assert {value.dtype for state in stored for value in state.values()} == {torch.float16}
    models = [
        UnifiedSeparation.from_pretrained(half), UnifiedSeparation.from_hparams(half),
        SepformerSeparation.from_hparams(source=str(half)), UnifiedSeparation.from_pretrained(whole),
    ]  # fmt: skip
    mixture = 0.1 * torch.randn(2, 900)
    expected = models[0].separate_batch(mixture)
    for model in models:
        assert {p.dtype for p in model.mods.parameters()} == {torch.float32}
        sources = model.separate_batch(mixture)
        torch.testing.assert_close(
            sources, expected, atol=1e-2 * expected.abs().max() if model is models[3] else 1e-5, rtol=0
        )


def test_weights_beyond_half_precision_are_refused(tmp_path):
    content = trees("none")
    modules = {name: build(tree, name) for name, tree in content.items()}
    torch.nn.init.constant_(modules["decoder"].weight, 1e6)
    make_results(tmp_path / "results", modules=modules, content=content, si_snri=(1.0,))
    with pytest.raises(UserError, match="decoder are too large for 16 bits"):
        export(tmp_path / "results", tmp_path / "model", half=True)
    assert not (tmp_path / "model").exists()


def test_a_plain_model_holds_nothing_to_execute(results, tmp_path):
    folder = export(results, tmp_path / "model")
    expected = UnifiedSeparation.from_pretrained(folder).separate_batch(torch.ones(1, 99))
    export(results, folder, plain=True)
    assert {path.name for path in folder.iterdir()} == {"README.md", "config.json", "model.safetensors"}
    torch.testing.assert_close(UnifiedSeparation.from_pretrained(folder).separate_batch(torch.ones(1, 99)), expected)
    assert "custom.py" not in (folder / "README.md").read_text()


@pytest.mark.parametrize("kind", ["file", "below a file", "read-only"])
def test_a_model_folder_that_cannot_be(results, tmp_path, kind):
    (tmp_path / "file").touch()
    folder = {"file": tmp_path / "file", "below a file": tmp_path / "file/model", "read-only": "/proc/model"}[kind]
    with pytest.raises(UserError, match="cannot write in the folder"):
        export(results, folder)


def test_a_full_disk_leaves_no_model(results, tmp_path):
    def few_bytes():
        resource.setrlimit(resource.RLIMIT_FSIZE, (6000, 6000))

    command = [sys.executable, "-c", "from unified_sess.cli import main; main()", "export", results, tmp_path / "model"]
    result = subprocess.run(command, preexec_fn=few_bytes, capture_output=True, text=True, check=False)
    assert result.returncode == 1 and result.stderr.count("\n") == 1 and "Traceback" not in result.stderr, result.stderr
    with pytest.raises(UserError):
        UnifiedSeparation.from_pretrained(tmp_path / "model")
    assert not [path for path in (tmp_path / "model").iterdir() if path.name.startswith(".")]
    export(results, tmp_path / "model")
    UnifiedSeparation.from_pretrained(tmp_path / "model")


def test_an_export_that_breaks_off_leaves_no_mixture_of_two_models(results, tmp_path, monkeypatch):
    folder = export(results, tmp_path / "model")
    make_results(tmp_path / "others", si_snri=(1.0,))
    real, saved = torch.save, []

    def save(state, file):
        saved.append(file)
        if len(saved) == 3:
            raise KeyboardInterrupt
        real(state, file)

    monkeypatch.setattr(torch, "save", save)
    with pytest.raises(KeyboardInterrupt):
        export(tmp_path / "others", folder)
    for load in (UnifiedSeparation.from_pretrained, UnifiedSeparation.from_hparams):
        with pytest.raises(UserError):
            load(folder)


@pytest.mark.parametrize("name", ["hyperparams.yaml", "masknet.ckpt", "CKPT.yaml"])
@pytest.mark.parametrize("damage", ["missing", "empty", "text", "half"])
def test_damaged_results(results, tmp_path, name, damage):
    (path,) = results.rglob(name)
    data = path.read_bytes()
    content = {"empty": b"", "text": b"\xff\xfehello" * 9, "half": data[: len(data) // 2]}
    path.unlink() if damage == "missing" else path.write_bytes(content[damage])
    try:
        export(results, tmp_path / "model")
    except UserError as error:
        assert "\n" not in str(error) and str(results) in str(error)
        assert not os.path.exists(tmp_path / "model")
    else:
        assert name == "CKPT.yaml" and damage in ("empty", "half")  # still valid YAML; the weights are whole
