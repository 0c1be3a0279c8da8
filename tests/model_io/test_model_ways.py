"""A trained network gives the same numbers however it is loaded, and a broken one ends in one line."""

import json
import os
import pickle
import shutil
import subprocess
import sys
from collections import Counter
from types import ModuleType

import pytest
import safetensors.torch
import torch
from speechbrain.inference.interfaces import foreign_class
from speechbrain.inference.separation import SepformerSeparation

from tests.model_io.results import make_results, node, trees
from unified_sess.evaluation.results import Results
from unified_sess.inference import UnifiedSeparation
from unified_sess.model_io.export import OWN_FILES, export
from unified_sess.network import UnifiedNetwork
from unified_sess.utils.errors import UserError

MIXTURE = 0.1 * torch.randn(2, 3000, generator=torch.Generator().manual_seed(1))
WITHOUT_PACKAGE = """
import importlib.abc, importlib.util, sys
class Refuse(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "unified_sess":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
real = importlib.util.find_spec
importlib.util.find_spec = lambda name, *a: None if name == "unified_sess" else real(name, *a)
sys.meta_path.insert(0, Refuse())
import torch
from speechbrain.inference.interfaces import foreign_class
model = foreign_class(source=sys.argv[1], pymodule_file="custom.py", classname="CustomInterface")
mixture = torch.load(sys.argv[2])
torch.save((model.separate_batch(mixture), model.enhance_batch(mixture)), sys.argv[3])
assert type(model.mods.masknet.masknet).__module__.startswith(("speechbrain", "custom")), type(model.mods.masknet.masknet)
"""


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """Folder of a small Conv-TasNet's results, its modules and its model folder."""
    folder = tmp_path_factory.mktemp("exported")
    modules = make_results(folder / "results")
    Results([{"ID": "a", "si_snri": 9.0}, {"ID": "b", "si_snri": 11.0}], ["si_snri"]).save(folder / "results")
    return folder / "results", modules, export(folder / "results", folder / "model")


@pytest.mark.parametrize(
    ("backbone", "num_spks"),
    [("convtasnet", 3), ("dprnn", 2), ("sepformer", 2), ("none", 2), ("tfdprnn", 2), ("wide", 2), ("bandsplit", 2)]
    + [("sepreformer", 3), ("locoformer", 2)],
)
def test_every_way_gives_the_same_sources(tmp_path, backbone, num_spks):
    modules = make_results(tmp_path / "results", backbone, num_spks)
    folder = export(tmp_path / "results", tmp_path / "model")
    expected = UnifiedNetwork(modules).separate_batch(MIXTURE)
    assert expected.shape == (2, 3000, num_spks) and expected.abs().max() > 1e-4
    models = {
        "pretrained": UnifiedSeparation.from_pretrained(folder),
        "results": UnifiedSeparation.from_pretrained(tmp_path / "results"),
        "hparams": UnifiedSeparation.from_hparams(folder, savedir=tmp_path / "links"),
        "stock": SepformerSeparation.from_hparams(source=str(folder)),
        "foreign": foreign_class(source=str(folder), pymodule_file="custom.py", classname="CustomInterface"),
    }
    for name, model in models.items():
        torch.testing.assert_close(model.separate_batch(MIXTURE).cpu(), expected, atol=1e-5, rtol=0, msg=name)
    enhanced = UnifiedNetwork(modules).enhance_batch(MIXTURE)
    for name in ("pretrained", "hparams", "foreign"):
        torch.testing.assert_close(models[name].enhance_batch(MIXTURE).cpu(), enhanced, atol=1e-5, rtol=0, msg=name)


@pytest.mark.slow
@pytest.mark.parametrize("backbone", ["convtasnet", "sepformer", "bandsplit", "sepreformer", "locoformer"])
def test_foreign_class_without_the_package(tmp_path, backbone):
    modules = make_results(tmp_path / "results", backbone)
    folder = export(tmp_path / "results", tmp_path / "model")
    torch.save(MIXTURE, tmp_path / "mixture.pt")
    command = [sys.executable, "-c", WITHOUT_PACKAGE, folder, tmp_path / "mixture.pt", tmp_path / "sources.pt"]
    subprocess.run(command, check=True, cwd=tmp_path, env=os.environ | {"CUDA_VISIBLE_DEVICES": ""})
    sources, enhanced = torch.load(tmp_path / "sources.pt")
    torch.testing.assert_close(sources, UnifiedNetwork(modules).separate_batch(MIXTURE), atol=1e-5, rtol=0)
    torch.testing.assert_close(enhanced, UnifiedNetwork(modules).enhance_batch(MIXTURE), atol=1e-5, rtol=0)


def test_no_two_files_of_a_custom_py_have_a_name_in_common():
    names = Counter(name for file in OWN_FILES for name, value in vars(file).items() if _belongs_to(value, file, name))
    assert [name for name, count in names.items() if count > 1] == []


def _belongs_to(value, file, name):
    """Whether a file defines a name, rather than imports it."""
    return getattr(value, "__module__", file.__name__) == file.__name__ and not (
        name.startswith("__") or isinstance(value, ModuleType)
    )


@pytest.mark.slow
def test_network_files_of_the_repository_can_be_exported(repository):
    from unified_sess.model_io.module_tree import trees_of_experiment
    from unified_sess.training.experiment import Experiment

    files = sorted((repository / "hparams" / "networks").glob("*.yaml"))
    assert len(files) > 4
    for file in files:
        experiment = Experiment(repository / "hparams" / "unified.yaml", {"network": file.stem})
        modules, settings = trees_of_experiment(experiment.text, file)
        assert settings["num_spks"] == 2 and set(modules) == {"encoder", "enhancer", "masknet", "decoder"}


def test_best_checkpoint_is_exported(tmp_path):
    modules = make_results(tmp_path / "results", si_snri=(4.0, -1.0, 3.0))
    model = UnifiedSeparation.from_pretrained(tmp_path / "results")
    torch.testing.assert_close(model.mods.encoder.conv1d.weight.cpu(), modules["encoder"].conv1d.weight)


def test_model_card(exported):
    _, _, folder = exported
    from huggingface_hub import ModelCard

    card = ModelCard.load(folder / "README.md")
    assert card.data.library_name == "unified_sess" and card.data.pipeline_tag == "audio-to-audio"
    assert [(e.metric_type, e.metric_value) for e in card.data.eval_results] == [("si_snri", 10.0)]
    assert "| SI-SNRi (dB) | 10.0 |" in card.text and "2 mixtures" in card.text


def test_hub_conventions(exported, tmp_path, monkeypatch):
    _, modules, folder = exported
    hub = tmp_path / "hub"

    class Api:
        def __init__(self, token=None):
            pass

        def create_repo(self, repo_id, **_):
            return type("Url", (), {"repo_id": repo_id})

        def upload_folder(self, repo_id, folder_path, **_):
            shutil.copytree(folder_path, hub / repo_id)
            return "url"

    def download(repo_id, allow_patterns, **_):
        assert set(allow_patterns) == {"config.json", "model.safetensors"}
        return hub / repo_id

    monkeypatch.setattr("huggingface_hub.hub_mixin.HfApi", Api)
    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    UnifiedSeparation.from_pretrained(folder).push_to_hub("user/model")
    assert {path.name for path in (hub / "user/model").iterdir()} == {"config.json", "model.safetensors", "README.md"}
    assert "value: 10.0" in (hub / "user/model/README.md").read_text()
    model = UnifiedSeparation.from_pretrained("user/model")
    expected = UnifiedNetwork(modules).separate_batch(MIXTURE)
    torch.testing.assert_close(model.separate_batch(MIXTURE).cpu(), expected, atol=1e-5, rtol=0)


def test_nothing_of_a_strange_folder_is_executed(exported, tmp_path):
    folder = shutil.copytree(exported[2], tmp_path / "model")
    (folder / "custom.py").write_text("raise SystemExit('executed')")
    (folder / "hyperparams.yaml").write_text("a: !apply:os.mkdir [executed]")
    for file in folder.glob("*.ckpt"):
        file.write_bytes(pickle.dumps(_Bomb(tmp_path / "executed")))
    UnifiedSeparation.from_pretrained(folder)
    assert not (tmp_path / "executed").exists()


def test_a_strange_results_folder_is_not_executed(tmp_path):
    make_results(tmp_path / "results", si_snri=(1.0,))
    (checkpoint,) = (tmp_path / "results" / "save").glob("CKPT*/masknet.ckpt")
    checkpoint.write_bytes(pickle.dumps(_Bomb(tmp_path / "executed")))
    with pytest.raises(UserError, match=r"masknet\.ckpt is corrupt"):
        UnifiedSeparation.from_pretrained(tmp_path / "results")
    assert not (tmp_path / "executed").exists()


class _Bomb:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize(
    ("tree", "words"),
    [
        (node("os.system", command="true"), "os.system"),
        (node("torch.nn.Linear", in_features=1, out_features=1), "torch.nn.Linear"),
        (node("unified_sess.network.NoEnhancer", x=node("subprocess.Popen", args="true")), "subprocess.Popen"),
        (node("speechbrain.lobes.models.dual_path.SBRNNBlock", rnn_type="logging"), "rnn_type"),
        (node("speechbrain.lobes.models.dual_path.Encoder", kernel_size=2, out_channels=10**9), "1000000000"),
        (node("speechbrain.lobes.models.dual_path.Encoder", colour=3), "may not set"),
        (node("speechbrain.lobes.models.dual_path.Encoder", colour="red"), "does not take"),
        ("unified_sess.network.NoEnhancer", "class"),
    ],
)
def test_config_names_only_what_is_allowed(exported, tmp_path, tree, words):
    folder = shutil.copytree(exported[2], tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    config["modules"]["enhancer"] = tree
    (folder / "config.json").write_text(json.dumps(config))
    _assert_one_line(folder, words)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
@pytest.mark.parametrize("damage", ["missing", "empty", "text", "truncated"])
def test_damaged_model_files(exported, tmp_path, name, damage):
    folder = shutil.copytree(exported[2], tmp_path / "model")
    whole = (folder / name).read_bytes()
    content = {"empty": b"", "text": b"hello" * 20, "truncated": whole[: len(whole) // 2]}
    (folder / name).unlink() if damage == "missing" else (folder / name).write_bytes(content[damage])
    _assert_one_line(folder, name)


def test_weights_of_other_sizes(exported, tmp_path):
    folder = shutil.copytree(exported[2], tmp_path / "model")
    tensors = safetensors.torch.load_file(folder / "model.safetensors")
    weight = tensors["encoder.conv1d.weight"]
    for changed, words in (
        (tensors | {"encoder.conv1d.weight": weight[:4]}, "shape"),
        ({key: value for key, value in tensors.items() if key != "encoder.conv1d.weight"}, "lacks"),
        (tensors | {"encoder.more": weight.clone()}, "unexpected"),
        (tensors | {"other": weight.clone()}, "no module"),
    ):
        safetensors.torch.save_file(changed, folder / "model.safetensors")
        _assert_one_line(folder, words)


@pytest.mark.parametrize("name", ["hyperparams.yaml", "encoder.ckpt", "enhancer.ckpt", "masknet.ckpt", "decoder.ckpt"])
@pytest.mark.parametrize("damage", ["missing", "empty", "text", "half", "another's"])
def test_damaged_speechbrain_files(exported, tmp_path, name, damage):
    folder = shutil.copytree(exported[2], tmp_path / "model")
    whole, other = (folder / name).read_bytes(), "masknet.ckpt" if name == "encoder.ckpt" else "encoder.ckpt"
    content = {"empty": b"", "text": b"hello" * 20, "half": whole[: len(whole) // 2]}
    content["another's"] = (folder / other).read_bytes()  # SpeechBrain alone leaves the weights random then
    (folder / name).unlink() if damage == "missing" else (folder / name).write_bytes(content[damage])
    with pytest.raises(UserError, match=str(folder)):
        UnifiedSeparation.from_hparams(folder)


def test_no_such_model(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(UserError, match="nobody/nothing"):
        UnifiedSeparation.from_pretrained("nobody/nothing", local_files_only=True)
    with pytest.raises(UserError, match=r"no config\.json"):
        UnifiedSeparation.from_pretrained(tmp_path)
    with pytest.raises(UserError, match="no model folder"):
        UnifiedSeparation.from_pretrained("/nowhere/at all/")


def test_no_such_results(tmp_path):
    with pytest.raises(UserError, match="no results folder"):
        export(tmp_path / "nothing", tmp_path / "model")
    with pytest.raises(UserError, match=r"hyperparams\.yaml"):
        export(tmp_path, tmp_path / "model")
    make_results(tmp_path / "results")
    shutil.rmtree(tmp_path / "results" / "save")
    with pytest.raises(UserError, match="no checkpoint"):
        export(tmp_path / "results", tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_results_with_a_class_that_is_not_allowed(tmp_path):
    content = trees("none")
    make_results(tmp_path / "results", content=content)
    path = tmp_path / "results" / "hyperparams.yaml"
    path.write_text(path.read_text().replace("!new:unified_sess.network.NoEnhancer", "!apply:os.getcwd"))
    with pytest.raises(UserError, match="enhancer"):
        export(tmp_path / "results", tmp_path / "model")


def _assert_one_line(folder, words):
    with pytest.raises(UserError) as error:
        UnifiedSeparation.from_pretrained(folder)
    assert words in str(error.value) and str(folder) in str(error.value)
