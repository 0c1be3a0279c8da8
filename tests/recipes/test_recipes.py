"""Every experiment file of the repository trains two steps and tests, with its own kind of network in its small size."""

from pathlib import Path

import pytest
import yaml
from hyperpyyaml import load_hyperpyyaml

from tests.corpus import make_corpus
from unified_sess.network import MODULE_NAMES, NoEnhancer
from unified_sess.training.experiment import Experiment
from unified_sess.utils.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
EXPERIMENTS = sorted([*ROOT.glob("hparams/*.yaml"), *ROOT.glob("recipes/*/*.yaml")])
NAMES = [str(path.relative_to(ROOT)) for path in EXPERIMENTS]


@pytest.fixture(scope="module")
def corpora_of(tmp_path_factory):
    made = {}

    def of(num_spks):
        if num_spks not in made:
            folder = tmp_path_factory.mktemp(f"speakers{num_spks}")
            splits = (("train-360", 2), ("dev", 1), ("test", 1))
            made[num_spks] = make_corpus(folder, splits, num_spks=num_spks, seconds=0.5)
        return made[num_spks]

    return of


@pytest.mark.parametrize("path", EXPERIMENTS, ids=NAMES)
def test_trains_two_steps_and_tests(path, corpora_of, tmp_path, monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(ROOT))
    from train import main

    num_spks = Experiment(path, {"output_folder": str(tmp_path)}).settings["num_spks"]
    backbone = path.name.split("-")[0] if path.parent.name != "hparams" else "convtasnet"
    options = [
        "--network",
        f"{backbone}-small",
        "--data_folder",
        corpora_of(num_spks),
        "--output_folder",
        tmp_path / "out",
    ]
    options += [
        "--num_workers",
        0,
        "--debug",
        "--debug_epochs",
        1,
        "--noprogressbar",
        "--audio_examples",
        0,
        "--batch_size",
        1,
    ]
    options += ["--number_of_epochs", 1]
    main([str(path), *map(str, options)])
    assert "SI-SNR" in capsys.readouterr().out
    assert (tmp_path / "out" / "test_results.csv").exists()


@pytest.mark.parametrize("path", EXPERIMENTS, ids=NAMES)
def test_loads_with_plain_hyperpyyaml_and_is_what_its_name_says(path, tmp_path):
    if "sepformer" in path.name and "unified-gm" not in path.name:
        pytest.skip("the published SepFormer is built once a folder")
    with open(path, encoding="utf-8") as file:
        hparams = load_hyperpyyaml(file, {"data_folder": "somewhere", "output_folder": str(tmp_path)})
    assert set(hparams["modules"]) == set(MODULE_NAMES)
    separation = "separation" in path.name
    assert isinstance(hparams["modules"]["enhancer"], NoEnhancer) == separation
    assert (hparams["enhancement_weight"] == 0) == separation
    assert hparams["gradient_modulation"] == ("sum" if path.stem.endswith("-unified") else "gm")


@pytest.mark.parametrize("path", [p for p in EXPERIMENTS if p.parent.name != "hparams"], ids=NAMES[1:])
def test_recipes_have_every_setting_of_the_default(path):
    def keys(file):
        return {line.split(":")[0] for line in file.read_text(encoding="utf-8").splitlines() if line[:1].isalpha()}

    assert keys(ROOT / "hparams" / "unified.yaml") <= keys(path)


def test_a_recipe_without_data_says_what_to_give(tmp_path):
    from unified_sess.data.parts import choose_data_folder

    settings = Experiment(EXPERIMENTS[-1], {"output_folder": str(tmp_path)}).settings
    with pytest.raises(UserError, match="give --data_folder DIR"):
        choose_data_folder(settings)
    assert yaml.safe_load("null") is settings["data_folder"]
