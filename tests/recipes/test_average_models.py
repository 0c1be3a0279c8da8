"""The average of models: between them, whole with one of share 1, refused where networks differ."""

import json
import runpy
import shutil

import pytest
import torch

from tests.model_io.results import make_results
from unified_sess.model_io.export import export
from unified_sess.model_io.model_files import load_model
from unified_sess.model_io.module_tree import with_defaults
from unified_sess.utils.errors import UserError


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    for name, backbone in (("a", "wide"), ("b", "wide"), ("c", "tfdprnn")):
        make_results(folder / f"results-{name}", backbone, si_snri=(1.0,))
        export(folder / f"results-{name}", folder / name, plain=True)
    return folder


@pytest.fixture
def average(repository):
    return runpy.run_path(str(repository / "recipes" / "Recordings" / "average_models.py"))["average"]


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_weights_lie_between_those_of_the_models(models, average, tmp_path, share):
    average([(models / "a", 1 - share), (models / "b", share)], tmp_path / "mean")
    a, b, mean = (
        load_model(path)[1]["masknet"].state_dict() for path in (models / "a", models / "b", tmp_path / "mean")
    )
    for key in mean:
        torch.testing.assert_close(mean[key].float(), torch.lerp(a[key], b[key], share), atol=1e-3, rtol=2e-3)


def test_nothing_of_an_older_model_stays_beside_the_average(models, average, tmp_path):
    """The ONNX file and the card of another model stayed, and were used."""
    shutil.copytree(models / "c", tmp_path / "mean")
    (tmp_path / "mean" / "model.onnx").write_bytes(b"of another model")
    average([(models / "a", 1.0)], tmp_path / "mean")
    assert {path.name for path in (tmp_path / "mean").iterdir()} == {"README.md", "config.json", "model.safetensors"}


def test_other_networks_and_shares_that_do_not_add_up_are_refused(models, average, tmp_path):
    with pytest.raises(UserError, match="another network"):
        average([(models / "c", 0.5), (models / "a", 0.5)], tmp_path / "mean")
    for share in (0.6, float("nan")):
        with pytest.raises(UserError, match="add up to 1"):
            average([(models / "a", 0.5), (models / "b", share)], tmp_path / "mean")
    assert not (tmp_path / "mean").exists()


def test_a_model_from_before_an_option_existed_is_of_the_same_network(models, average, tmp_path):
    """What ships does not name `causal`, trainings from it do."""
    shutil.copytree(models / "b", tmp_path / "newer")
    path = tmp_path / "newer" / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    arguments = config["modules"]["masknet"]["args"]
    assert "causal" not in arguments
    arguments["causal"] = False
    path.write_text(json.dumps(config), encoding="utf-8")
    average([(models / "a", 0.5), (tmp_path / "newer", 0.5)], tmp_path / "mean")
    arguments["causal"] = True
    path.write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(UserError, match="another network"):
        average([(models / "a", 0.5), (tmp_path / "newer", 0.5)], tmp_path / "other")


def test_a_class_under_its_old_name_is_the_same_network():
    old, new = ({"class": f"unified_sess.nnet.{place}.PReLU", "args": {}} for place in ("prelu", "kernels.prelu"))
    assert with_defaults(old) == with_defaults(new)


def test_what_ships_has_its_numbers_in_the_card_and_an_onnx_file(models, repository, tmp_path, monkeypatch):
    pytest.importorskip("onnx")
    monkeypatch.setattr("unified_sess.model_io.onnx_export.TRIALS", ((0.01, 1),))
    ship = runpy.run_path(str(repository / "recipes" / "Recordings" / "ship.py"))["ship"]
    with pytest.raises(UserError, match="holds no results"):
        ship(models / "a", tmp_path, tmp_path / "shipped")
    assert not (tmp_path / "shipped").exists()
    measured = {"metrics": {"si_snri": {"mean": 4.25, "count": 7}}}
    (tmp_path / "test_results.json").write_text(json.dumps(measured), encoding="utf-8")
    ship(models / "a", tmp_path, tmp_path / "shipped")
    assert {path.name for path in (tmp_path / "shipped").iterdir()} == {
        "README.md", "config.json", "model.onnx", "model.safetensors",
    }  # fmt: skip
    card = (tmp_path / "shipped" / "README.md").read_text(encoding="utf-8")
    assert "4.25" in card and "7 mixtures" in card and "## Limits" in card
