"""Untrusted models: nothing of the folder runs, and what is wrong in it is one line."""

import json
import os
import pickle
import re
import shutil
import sys

import pytest
import safetensors.torch
import torch
from speechbrain.inference.interfaces import foreign_class

from tests.model_io.results import make_results, trees
from unified_sess.evaluation.evaluate import run_network
from unified_sess.inference import UnifiedSeparation
from unified_sess.model_io import model_folder
from unified_sess.model_io.export import export
from unified_sess.model_io.model_folder import CONFIG, WEIGHTS
from unified_sess.network import UnifiedNetwork
from unified_sess.utils.errors import UserError

MIXTURE = 0.1 * torch.randn(2, 500, generator=torch.Generator().manual_seed(1))
PLAIN = {CONFIG, WEIGHTS, "README.md"}


class Watch:
    """Records what Python does with a folder while it is on: hooks cannot be taken away again."""

    def __init__(self):
        self.folder, self.opened, self.started = None, set(), []
        sys.addaudithook(self)

    def __call__(self, event, arguments):
        """Called by Python for every audited event."""
        if self.folder is None:
            return
        if event == "open" and str(arguments[0]).startswith(str(self.folder)):
            self.opened.add(os.path.relpath(str(arguments[0]), self.folder))
        elif event in ("os.system", "subprocess.Popen", "os.exec", "os.posix_spawn", "pickle.find_class", "os.mkdir"):
            self.started.append((event, arguments))


@pytest.fixture(scope="module")
def watch():
    """An audit hook, off unless it has a folder."""
    watch = Watch()
    yield watch
    watch.folder = None


class Bomb:
    """Makes a folder when it is unpickled."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.fixture
def folder(random_model, tmp_path):
    """A copy of a model folder, to be spoiled."""
    return shutil.copytree(random_model, tmp_path / "model")


def change(folder, **changes):
    """Change entries of a folder's config.json."""
    path = folder / CONFIG
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def refused(source, *words):
    """Assert that a model is refused in one line that holds the words."""
    with pytest.raises(UserError) as error:
        UnifiedSeparation.from_pretrained(source)
    assert "\n" not in str(error.value) and all(word in str(error.value) for word in words), str(error.value)


def test_a_hostile_folder_runs_nothing(folder, watch, tmp_path):
    expected = UnifiedSeparation.from_pretrained(folder).separate_batch(MIXTURE)
    canary = tmp_path / "executed"
    (folder / "custom.py").write_text(f"import os; os.mkdir({str(canary)!r})")
    for name in ("__init__.py", "torch.py", "safetensors.py"):
        shutil.copy(folder / "custom.py", folder / name)
    (folder / "hyperparams.yaml").write_text(f"a: !apply:os.mkdir ['{canary}']\nb: !new:os.mkdir ['{canary}']\n")
    for name in ("encoder.ckpt", "masknet.ckpt", "pytorch_model.bin", "model.pt"):
        torch.save(Bomb(canary), folder / name)
    card = f"---\nlibrary_name: !!python/object/apply:os.mkdir ['{canary}']\n---\n"
    (folder / "README.md").write_text(card)
    watch.folder = folder
    model = UnifiedSeparation.from_pretrained(folder)
    watch.folder = None
    assert not canary.exists() and not watch.started
    assert {CONFIG} <= watch.opened <= PLAIN  # the weights are opened beyond Python's sight
    torch.testing.assert_close(model.separate_batch(MIXTURE), expected)


def test_the_canaries_of_the_test_before_do_sing(tmp_path, watch):
    watch.folder = tmp_path
    pickle.loads(pickle.dumps(Bomb(tmp_path / "executed")))
    watch.folder = None
    assert (tmp_path / "executed").exists() and {event for event, _ in watch.started} >= {
        "pickle.find_class",
        "os.mkdir",
    }
    watch.started.clear()


@pytest.mark.parametrize("how", ["torch", "pickle"])
def test_weights_that_are_a_pickle_are_refused(folder, tmp_path, how):
    bomb = Bomb(tmp_path / "executed")
    if how == "torch":
        torch.save(bomb, folder / WEIGHTS)
    else:
        (folder / WEIGHTS).write_bytes(pickle.dumps(bomb))
    refused(folder, WEIGHTS, "corrupt")
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize(
    "name",
    [
        "os.system", "builtins.eval", "subprocess.Popen", "torch.load", "torch.hub.load", "posix.system", "custom.MaskNet",
        "unified_sess.inference.separation.UnifiedSeparation", "speechbrain.lobes.models.dual_path.os.system",
        "unified_sess.network.NoEnhancer.__init__", "", "NoEnhancer", None, 3, ["os.system"], {"class": "os.system"},
    ],
)  # fmt: skip
def test_only_classes_of_the_whitelist(folder, tmp_path, name):
    modules = json.loads((folder / CONFIG).read_text())["modules"]
    tree = {"class": name, "args": {"command": f"mkdir {tmp_path / 'executed'}"}}
    change(folder, modules=modules | {"enhancer": tree})
    refused(folder, CONFIG, "enhancer")
    deep = json.loads((folder / CONFIG).read_text())["modules"]["masknet"]
    deep["args"] = dict(deep["args"], N=[[tree]])
    change(folder, modules=modules | {"masknet": deep})
    refused(folder, CONFIG, "masknet")
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"format": "other"}, "unified_sess"), ({"format_version": 2}, "format_version 2"), ({"modules": {}}, "encoder"),
        ({"modules": None}, "encoder"), ({"num_spks": 3}, "3 speakers, but its network gives 2"), ({"num_spks": 0}, "num_spks"),
        ({"num_spks": "2"}, "num_spks"), ({"num_spks": True}, "num_spks"), ({"sample_rate": 0}, "sample_rate"),
        ({"sample_rate": -8000}, "sample_rate"), ({"sample_rate": 1e4}, "sample_rate"),
        ({"silence_threshold": True}, "silence_threshold True"),
        ({"enhanced_from": "mixture"}, "choose enhancer or sources"), ({"enhanced_from": ["sources"]}, "enhanced_from"),
        ({"enhanced_from": "sources"}, "without silence_threshold"),
        ({"sample_rate": 10**12}, "1000000000000 Hz"), ({"sample_rate": 1}, "1 Hz"),
        ({"silence_threshold": 3}, "silence_threshold 3"), ({"silence_threshold": "quiet"}, "silence_threshold 'quiet'"),
    ],
)  # fmt: skip
def test_configs_that_cannot_be(folder, changes, words):
    change(folder, **changes)
    refused(folder, CONFIG, words)


@pytest.mark.parametrize(
    "text",
    ["", "[]", "null", "{", "nan", "\ufeff{}", "[" * 100_000, '{"format": "unified_sess"}', "a: !apply:os.getcwd"],
)
def test_configs_that_are_no_config(folder, text):
    (folder / CONFIG).write_text(text, encoding="utf-8")
    refused(folder, CONFIG)


def test_a_config_of_another_encoding(folder):
    (folder / CONFIG).write_bytes(b"\xff\xfe\x00{")
    refused(folder, CONFIG)


def test_modules_that_do_not_fit_together(tmp_path):
    content = trees("convtasnet") | {"enhancer": trees("convtasnet", channels=16)["enhancer"]}
    make_results(tmp_path / "results", content=content, si_snri=(1.0,))
    with pytest.raises(UserError, match="do not fit together"):
        export(tmp_path / "results", tmp_path / "model")
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize("kind", ["folder", "huge header", "wrong type", "no permission"])
def test_weights_that_cannot_be(folder, kind):
    path = folder / WEIGHTS
    if kind == "wrong type":
        tensors = safetensors.torch.load_file(path)
        safetensors.torch.save_file({key: value[..., None] for key, value in tensors.items()}, path)
    elif kind == "huge header":
        path.write_bytes((2**62).to_bytes(8, "little") + b"{}")
    elif kind == "folder":
        path.unlink()
        path.mkdir()
    else:
        path.chmod(0)
        if os.access(path, os.R_OK):
            pytest.skip("this user may read everything")
    refused(folder, str(folder), WEIGHTS)


def test_round_trip(random_model, tmp_path):
    model = UnifiedSeparation.from_pretrained(random_model)
    model.save_pretrained(tmp_path / "saved")
    assert {path.name for path in (tmp_path / "saved").iterdir()} == PLAIN
    again = UnifiedSeparation.from_pretrained(tmp_path / "saved")
    torch.testing.assert_close(again.separate_batch(MIXTURE), model.separate_batch(MIXTURE), atol=0, rtol=0)
    assert (tmp_path / "saved" / CONFIG).read_bytes() == (random_model / CONFIG).read_bytes()
    assert (again.num_spks, again.sample_rate) == (2, 8000)
    with torch.no_grad():
        again.mods.encoder.conv1d.weight.zero_()
    again.save_pretrained(tmp_path / "saved")  # what is in memory, not what was on the disk
    third = UnifiedSeparation.from_pretrained(tmp_path / "saved")
    assert not third.mods.encoder.conv1d.weight.any()


def test_a_model_is_saved_over_another_one_whole_or_not_at_all(random_model, folder, tmp_path):
    """A model that could not be saved took the config.json of the folder with it; one that could left two models there."""
    export(random_model, folder)
    model = UnifiedSeparation.from_pretrained(random_model)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert {"hyperparams.yaml", "encoder.ckpt"} <= set(before)
    unsaved = UnifiedSeparation(model.mods, {"num_spks": 2, "sample_rate": 8000})
    with pytest.raises(UserError, match="use unified-sess export"):
        unsaved.save_pretrained(folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    (folder / "README.md").write_text("library_name: unified_sess, in my words")
    model.save_pretrained(folder)  # its own folder: the other forms of the model and the card stay
    assert {path.name for path in folder.iterdir()} == set(before)
    assert "in my words" in (folder / "README.md").read_text()
    with torch.no_grad():
        model.mods.encoder.conv1d.weight.add_(0.1)
    model.save_pretrained(folder)  # of another model nothing stays
    assert {path.name for path in folder.iterdir()} == PLAIN and "in my words" not in (folder / "README.md").read_text()
    (tmp_path / "repository").mkdir()
    (tmp_path / "repository/README.md").write_text("license: mit")
    model.save_pretrained(tmp_path / "repository")
    assert (tmp_path / "repository/README.md").read_text() == "license: mit"
    UnifiedSeparation.from_pretrained(tmp_path / "repository")
    (tmp_path / "project").mkdir()
    (tmp_path / "project/config.json").write_text("mine")
    with pytest.raises(UserError, match="was not written by an export"):
        model.save_pretrained(tmp_path / "project")
    assert (tmp_path / "project/config.json").read_text() == "mine"


def test_the_silence_threshold_is_kept(folder, tmp_path):
    assert UnifiedSeparation.from_pretrained(folder).config.silence_threshold is None
    change(folder, silence_threshold=-25)
    model = UnifiedSeparation.from_pretrained(folder)
    model.save_pretrained(tmp_path / "saved")
    assert UnifiedSeparation.from_pretrained(tmp_path / "saved").config.silence_threshold == -25


@pytest.mark.parametrize(
    "change_of", [{"silence_threshold": -30.0}, {"silence_threshold": -40.0, "enhanced_from": "sources"}]
)
def test_the_digest_of_a_model_without_config_changes_with_its_options(folder, change_of):
    """Results are made anew where it changes."""
    modules = UnifiedSeparation.from_pretrained(folder, device="cpu").mods
    digests = [
        UnifiedSeparation(modules, {"num_spks": 2, "sample_rate": 8000, "silence_threshold": -40.0} | options).digest()
        for options in ({}, {}, change_of)
    ]
    assert digests[0] == digests[1] != digests[2]


OPTIONS = {"silence_threshold": -35.0, "enhanced_from": "sources"}


def test_the_sum_of_the_sources_is_the_enhanced_mixture_where_the_config_says_so(folder, tmp_path):
    by_enhancer = UnifiedSeparation.from_pretrained(folder, device="cpu").enhance_batch(MIXTURE)
    change(folder, **OPTIONS)
    model = UnifiedSeparation.from_pretrained(folder, device="cpu")
    expected = model.separate_batch(MIXTURE).sum(2)
    assert (expected - by_enhancer).abs().max() > 1e-3
    torch.testing.assert_close(model.enhance_batch(MIXTURE), expected)
    torch.testing.assert_close(model.run(MIXTURE, enhanced=True)[..., 2], expected)
    _, evaluated = run_network(UnifiedNetwork(model.mods, model.enhanced_from), MIXTURE[0].numpy())
    torch.testing.assert_close(torch.from_numpy(evaluated), expected[0])
    model.save_pretrained(tmp_path / "saved")
    assert json.loads((tmp_path / "saved" / CONFIG).read_text()) == json.loads((folder / CONFIG).read_text())


def test_an_export_keeps_what_the_experiment_says_of_silence_and_enhancement(tmp_path):
    make_results(tmp_path / "results", si_snri=(1.0,))
    path = tmp_path / "results" / "hyperparams.yaml"
    path.write_text(path.read_text() + "".join(f"{name}: {value}\n" for name, value in OPTIONS.items()))
    exported = export(tmp_path / "results", tmp_path / "model")
    expected = UnifiedSeparation.from_pretrained(exported).separate_batch(MIXTURE).sum(2)
    assert OPTIONS.items() <= json.loads((exported / CONFIG).read_text()).items()
    for model in (
        UnifiedSeparation.from_pretrained(tmp_path / "results"), UnifiedSeparation.from_hparams(exported),
        foreign_class(source=str(exported), pymodule_file="custom.py", classname="CustomInterface"),
    ):  # fmt: skip
        assert model.hparams.silence_threshold == -35.0
        if isinstance(model, UnifiedSeparation):
            assert model.silence_threshold == -35.0
        torch.testing.assert_close(model.enhance_batch(MIXTURE), expected)


def test_files_can_be_read_by_others(folder):
    modes = {path.name: path.stat().st_mode & 0o777 for path in folder.iterdir()}
    assert len(set(modes.values())) == 1, modes


def test_the_shipped_model(random_model, tmp_path, monkeypatch):
    monkeypatch.setattr(model_folder, "SHIPPED", tmp_path / "absent")
    refused(None, "no model of its own")
    monkeypatch.setattr(model_folder, "SHIPPED", random_model)
    model = UnifiedSeparation.from_pretrained()
    expected = UnifiedSeparation.from_pretrained(random_model).separate_batch(MIXTURE)
    torch.testing.assert_close(model.separate_batch(MIXTURE), expected)


def test_the_shipped_model_lies_in_the_package():
    import unified_sess

    assert model_folder.SHIPPED == (model_folder.Path(unified_sess.__file__).resolve().parent / "models" / "default")


@pytest.mark.parametrize("source", ["../../etc/passwd", "a/b/c", "user/na me", "user/--x", "", " ", "https://x.y/z"])
def test_sources_that_are_no_model(source, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(UserError) as error:
        UnifiedSeparation.from_pretrained(source, local_files_only=True)
    assert "\n" not in str(error.value)


def test_nobody_is_told_to_install_a_name_that_is_not_registered(repository):
    """Regression: cards and messages advised `pip install unified_sess`, a name that anybody could register."""
    files = [*repository.glob("*.md"), *(repository / "unified_sess").rglob("*")]
    advice = re.compile(r"pip install ['\"]?unified[_-]sess")
    assert not [path for path in files if path.suffix in (".py", ".md") and advice.search(path.read_text("utf-8"))]
