"""Experiment files: overrides, networks, and one clear line for every mistake."""

import pytest
from hyperpyyaml import load_hyperpyyaml

from unified_sess.network import MODULE_NAMES, count_speakers
from unified_sess.training.experiment import Experiment, parse_command_line
from unified_sess.utils.errors import UserError


@pytest.fixture
def default(repository):
    return repository / "hparams" / "unified.yaml"


def test_the_default_loads_with_plain_hyperpyyaml(default, tmp_path):
    with open(default, encoding="utf-8") as file:
        hparams = load_hyperpyyaml(file, {"data_folder": "somewhere", "output_folder": str(tmp_path)})
    assert set(hparams["modules"]) == set(MODULE_NAMES)


def test_swapping_the_network_keeps_speakers_and_rate(default, tmp_path):
    overrides = {"network": "convtasnet", "num_spks": 3, "sample_rate": 16000, "output_folder": str(tmp_path)}
    experiment = Experiment(default, overrides)
    hparams = experiment.build()
    assert count_speakers(hparams["modules"]) == 3
    assert hparams["network"]["sample_rate"] == 16000


def test_the_saved_experiment_runs_again_as_it_is(default, tmp_path):
    first = Experiment(default, {"lr": 0.0005, "network": "convtasnet", "output_folder": str(tmp_path / "out")})
    first.save(tmp_path / "hyperparams.yaml")
    again = Experiment(tmp_path / "hyperparams.yaml")
    assert again.settings == first.settings
    assert again.settings["lr"] == 0.0005
    assert (
        again.build()["modules"]["masknet"].state_dict().keys()
        == first.build()["modules"]["masknet"].state_dict().keys()
    )


def test_a_network_with_other_speakers_is_refused(default, tmp_path):
    text = default.read_text(encoding="utf-8").replace("    num_spks: !ref <num_spks>\n", "    num_spks: 2\n")
    (tmp_path / "networks").symlink_to(default.parent / "networks")
    (tmp_path / "e.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match="gives 2 sources but num_spks is 3"):
        Experiment(tmp_path / "e.yaml", {"num_spks": 3, "output_folder": str(tmp_path / "out")}).build()


@pytest.mark.parametrize(
    "overrides, name",
    [
        ({}, "sepformer-gm"),
        ({"network": "dprnn", "gradient_modulation": "sum", "num_spks": 3}, "dprnn-sum"),
        ({"enhancer": "none"}, "sepformer-separation"),
        ({"enhancement_weight": 0}, "sepformer-cascade"),
        ({"gradient_modulation": "torchjd:UPGrad", "enhancement_weight": 1}, "sepformer-torchjd-UPGrad-lambda-1"),
        ({"granularity": "global"}, "sepformer-gm-global"),
        ({"name": "mine", "network": "dprnn"}, "mine"),
    ],
)
def test_the_results_folder_is_named_after_what_was_chosen(repository, overrides, name):
    recipe = repository / "recipes" / "LibriMix" / "unified.yaml"
    settings = Experiment(recipe, overrides).settings
    assert settings["output_folder"] == f"results/Libri{settings['num_spks']}Mix/{name}/1234"


def test_a_saved_experiment_of_a_recipe_keeps_its_name_and_folder(repository, tmp_path):
    recipe = repository / "recipes" / "LibriMix" / "unified.yaml"
    first = Experiment(recipe, {"network": "convtasnet-small", "enhancer": "none"})
    first.save(tmp_path / "hyperparams.yaml")
    again = Experiment(tmp_path / "hyperparams.yaml", {"gradient_modulation": "sum"})
    assert again.settings == first.settings | {"gradient_modulation": "sum"}


@pytest.mark.parametrize(
    "overrides, says",
    [
        ({"learning_rate": 1}, "unknown option --learning_rate"),
        ({"batchsize": 1}, "did you mean --batch_size"),
        ({"network": "wavesplit"}, "unknown network 'wavesplit'.*convtasnet"),
        ({"network": "nowhere/x.yaml"}, "unknown network"),
        ({"enhancer": "small"}, "--enhancer can be none, not 'small'"),
        ({"number_of_epochs": "many"}, "number_of_epochs must be a whole number"),
        ({"number_of_epochs": 2.5}, "number_of_epochs must be a whole number"),
        ({"batch_size": 0}, "batch_size must be at least 1"),
        ({"lr": "fast"}, "lr must be a number"),
        ({"num_spks": True}, "num_spks must be"),
        ({"enhancement_weight": -1}, "enhancement_weight must be at least 0"),
    ],
)
def test_mistakes_in_settings_are_one_line(default, overrides, says):
    with pytest.raises(UserError, match=says) as caught:
        Experiment(default, overrides)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "overrides, says", [({"gradient_modulation": "gn"}, "gn"), ({"granularity": "layer"}, "layer")]
)
def test_unknown_rules_are_one_line(default, tmp_path, overrides, says):
    with pytest.raises(UserError, match=says) as caught:
        Experiment(default, {**overrides, "output_folder": str(tmp_path)}).build()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "content, says",
    [
        (None, "cannot read the experiment file"),
        (b"\xff\xfe\x00", "cannot read the experiment file"),
        (b"a: [1, 2\nb: 3", "not valid YAML"),
        (b"just words", "has no settings"),
        (b"network: !include:no/such.yaml\nnum_spks: 2", "which does not exist"),
        (b"num_spks: 2\nx: !new:no.such.Class", "cannot be built"),
        (b"num_spks: 2", "has no encoder"),
    ],
)
def test_bad_experiment_files_are_one_line(tmp_path, content, says):
    path = tmp_path / "e.yaml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=says) as caught:
        Experiment(path).build()
    assert "\n" not in str(caught.value)


def test_command_line_is_split():
    path, run_options, overrides = parse_command_line(
        [
            "e.yaml",
            "--device",
            "cpu",
            "--lr=1e-4",
            "--data_folder",
            "/a: b/#c",
            "--optimizer_step_limit",
            "7",
            "--debug",
        ]
    )
    assert path == "e.yaml"
    assert run_options == {"device": "cpu", "optimizer_step_limit": 7, "debug": True, "param_file": "e.yaml"} or (
        {"device": "cpu", "optimizer_step_limit": 7, "debug": True} == run_options
    )
    assert overrides == {"lr": 1e-4, "data_folder": "/a: b/#c"}


@pytest.mark.parametrize(
    "arguments, says",
    [
        ([], "required"),
        (["e.yaml", "--lr"], "--lr needs a value"),
        (["e.yaml", "lr", "3"], "'lr' is not an option"),
        (["e.yaml", "--precision", "fp8"], "precision"),
        (["e.yaml", "--optimizer_step_limit", "soon"], "optimizer_step_limit must be a whole number"),
        (["e.yaml", "--grad_accumulation_factor", "0"], "at least 1"),
        (["e.yaml", "--ckpt_interval_steps", "2", "--ckpt_interval_minutes", "2"], "exclude each other"),
    ],
)
def test_mistakes_on_the_command_line_are_one_line(arguments, says):
    with pytest.raises(UserError, match=says) as caught:
        parse_command_line(arguments)
    assert "\n" not in str(caught.value)
