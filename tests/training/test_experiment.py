"""Experiment files: overrides, networks, and one clear line for every mistake."""

import pytest
from hyperpyyaml import load_hyperpyyaml

from unified_sess.network import MODULE_NAMES, count_speakers
from unified_sess.training.command_line import parse_command_line
from unified_sess.training.experiment import Experiment
from unified_sess.training.settings import SETTINGS
from unified_sess.utils.errors import UserError
from unified_sess.utils.yaml_files import read_yaml


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
    assert again.settings.pop("modulation")["args"]["rule"] == "sum"
    first.settings.pop("modulation")
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
        ({"batch_size": 0}, "batch_size must be a whole number from 1 to"),
        ({"lr": "fast"}, "lr must be a number"),
        ({"num_spks": True}, "num_spks must be"),
        ({"opt_class": 3}, "opt_class is not a value"),
        ({"lr": 1e30}, "lr must be a number above 0 and up to 1, not 1e"),
        ({"lr_factors": {"encoder": "x"}}, "lr_factors of encoder must be a number from 0 to 1000, not 'x'"),
        ({"lr_factors": {"separator": 1}}, "lr_factors names 'separator'"),
        ({"lr_factors": {"masknet:0": None}}, r"a blank behind the colon, \{masknet: 0\}"),
        ({"scenes": {"rooms:0.5": None}}, r"a blank behind the colon, \{rooms: 0.5\}"),
        ({"scenes": {"romms": 0.5}}, "did you mean rooms"),
        ({"freeze": "encoder"}, r"a list of modules such as \[encoder, decoder\], not 'encoder'"),
        ({"speed_perturb": [0]}, r"speed_perturb must be a list of numbers from 0.1 to 10 or null, not \[0\]"),
        ({"training_signal_len": float("inf")}, "training_signal_len must be a number from 0.01 to 3600 s or null"),
        ({"training_signal_len": 0}, "training_signal_len must be .* not 0"),
        ({"seed": -1}, "seed must be a whole number from 0 to 4294967295, not -1"),
        ({"mode": "mid"}, "mode must be min or max or null, not 'mid'"),
        ({"data_folder": ""}, "data_folder is empty"),
        ({"enhancement_weight": -1}, "enhancement_weight must be a number from 0 to"),
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
        (["e.yaml", "--grad_accumulation_factor", "0"], "grad_accumulation_factor must be a whole number from 1"),
        (["e.yaml", "--batch_size", "1.5"], "batch_size must be a whole number"),
        (["e.yaml", "--data_folder", ""], "data_folder is empty"),
        (["e.yaml", "--demo_corpus", "maybe"], "demo_corpus must be True or False, not 'maybe'"),
        (["e.yaml", "--max_grad_norm", "nan"], "max_grad_norm must be a number from -1"),
        (["e.yaml", "--ckpt_interval_steps", "2", "--ckpt_interval_minutes", "2"], "exclude each other"),
    ],
)
def test_mistakes_on_the_command_line_are_one_line(arguments, says):
    with pytest.raises(UserError, match=says) as caught:
        parse_command_line(arguments)
    assert "\n" not in str(caught.value)


TYPED = {
    "speech_folder": ["speech #2", "3", "2024-01-01", "yes", "~x", "!x", "a: b", "\u00e9 'q' \"d\" \\"],
    "output_folder": ["it's #1", "2024-01-01", "3", "12#", "3/4", "a<b>: c", "yes", "(x)", "!x", "[a]", "{seed}"],
}


@pytest.mark.parametrize("name, text", [(name, text) for name, texts in TYPED.items() for text in texts])
def test_texts_arrive_as_typed(tmp_path, name, text):
    """Regression: `speech #2` became `speech`, `it's #1` became `it's`, 2024-01-01 and 3 ended in tracebacks."""
    _, _, overrides = parse_command_line(["e.yaml", f"--{name}", text])
    content = (
        "seed: 1\noutput_folder: !ref results/<seed>\nsave_folder: !ref <output_folder>/save\nspeech_folder: null\n"
    )
    (tmp_path / "e.yaml").write_text(content, encoding="utf-8")
    Experiment(tmp_path / "e.yaml", overrides).save(tmp_path / "saved.yaml")
    for experiment in (Experiment(tmp_path / "e.yaml", overrides), Experiment(tmp_path / "saved.yaml")):
        assert experiment.settings[name] == text
        if name == "output_folder":
            assert experiment.settings["save_folder"] == f"{text}/save"
            assert load_hyperpyyaml(experiment.text)["save_folder"] == f"{text}/save"


@pytest.mark.parametrize(
    "name, text, value",
    [
        ("batch_size", "2.0", 2),
        ("lr", "1e-5", 1e-5),
        ("speed_perturb", "0.9", [0.9]),
        ("speed_perturb", "[0.9, 1]", [0.9, 1]),
        ("lr_factors", "{encoder: 0}", {"encoder": 0}),
        ("training_signal_len", "null", None),
        ("demo_corpus", "no", False),
        ("mode", "max", "max"),
        ("speakers", "[null, 'people #2.csv']", [None, "people #2.csv"]),
    ],
)
def test_settings_have_their_own_types(default, name, text, value):
    _, _, overrides = parse_command_line(["e.yaml", f"--{name}", text])
    found = Experiment(default, overrides).settings[name]
    assert found == value and type(found) is type(value)


def test_a_file_is_checked_like_the_command_line(default, tmp_path):
    (tmp_path / "networks").symlink_to(default.parent / "networks")
    text = default.read_text(encoding="utf-8")
    (tmp_path / "e.yaml").write_text(text.replace("batch_size: 4 ", "batch_size: 2.0 "), encoding="utf-8")
    assert repr(Experiment(tmp_path / "e.yaml").settings["batch_size"]) == "2"
    (tmp_path / "e.yaml").write_text(text.replace("lr: 0.004 ", "lr: fast "), encoding="utf-8")
    with pytest.raises(UserError, match="lr must be a number"):
        Experiment(tmp_path / "e.yaml")


def test_a_dictionary_replaces_the_files(default, tmp_path):
    """HyperPyYAML merges dictionaries, so that a factor of the file could not be taken away."""
    (tmp_path / "networks").symlink_to(default.parent / "networks")
    text = default.read_text(encoding="utf-8").replace("lr_factors: {encoder", "lr_factors: {masknet")
    (tmp_path / "e.yaml").write_text(text, encoding="utf-8")
    assert Experiment(tmp_path / "e.yaml", {"lr_factors": {"encoder": 0}}).settings["lr_factors"] == {"encoder": 0}


def test_every_setting_of_the_experiments_is_in_the_table(default):
    files = [default, *default.parent.parent.glob("recipes/*/*.yaml")]
    for file in files:
        lines = file.read_text(encoding="utf-8").splitlines()
        names = {line.split(":")[0] for line in lines if line[:1].isalpha() and ":" in line and "!n" not in line}
        assert names - set(SETTINGS) <= {
            "network",
            "modules",
            "enhancer",
            "separator_layers",
            "enhancer_layers",
            "lr_scheduler",
        }, file


def test_options_of_a_saved_experiment_take_effect_everywhere(default, tmp_path):
    """Regression: in a saved experiment the new folder, rate or number of epochs changed, what follows from it did not."""
    saved = tmp_path / "run" / "hyperparams.yaml"
    saved.parent.mkdir()
    Experiment(default, {"output_folder": str(saved.parent), "network": "dprnn-small"}).save(saved)
    overrides = {"output_folder": str(tmp_path / "new"), "number_of_epochs": 9, "lr": 0.001}
    again = Experiment(saved, overrides)
    hparams = again.build()
    assert hparams["checkpointer"].checkpoints_dir == tmp_path / "new" / "save"
    assert hparams["epoch_counter"].limit == 9 and len(hparams["lr_scheduler"].value_at_epoch) == 9
    assert type(hparams["modules"]["masknet"]).__name__ == "Dual_Path_Model"
    again.save(tmp_path / "again.yaml")
    assert Experiment(tmp_path / "again.yaml", {"lr": 0.002}).settings["number_of_epochs"] == 9

    old = saved.read_text(encoding="utf-8").split("# With options")[0]  # as saved by earlier versions
    saved.write_text(old, encoding="utf-8")
    assert Experiment(saved).settings["lr"] == 0.004
    with pytest.raises(UserError, match=f"resolved experiment.*--output_folder {saved.parent}"):
        Experiment(saved, overrides)


def test_options_of_a_saved_experiment_reach_the_network(repository, tmp_path):
    """The network's references were saved as constants: separator_layers changed nothing, num_spks was an error."""
    recipe, saved = repository / "recipes/Mini/unified.yaml", tmp_path / "hyperparams.yaml"
    settings = {"data_folder": "none", "output_folder": str(tmp_path)}
    Experiment(recipe, settings).save(saved)
    for option in ({"separator_layers": 1}, {"num_spks": 3}, {"enhancer_layers": 2}):
        ours, theirs = (
            [(name, p.shape) for part in modules.values() for name, p in part.named_parameters()]
            for modules in (
                Experiment(saved, option).build()["modules"],
                Experiment(recipe, settings | option).build()["modules"],
            )
        )
        assert ours == theirs
    again = tmp_path / "again.yaml"
    Experiment(saved, {"lr": 0.002}).save(again)  # and those of one that was saved from a saved one
    assert Experiment(again, {"num_spks": 3}).build()["modules"]["masknet"].num_spks == 3
    assert Experiment(again).settings["lr"] == 0.002


@pytest.mark.parametrize("network", ["sepformer", "bandsplit-small", "tf-locoformer-m"])
def test_a_saved_network_is_the_same_with_an_option(default, tmp_path, network):
    saved = tmp_path / "hyperparams.yaml"
    whole = Experiment(default, {"network": network})
    whole.save(saved)
    assert read_yaml(Experiment(saved, {"lr": whole.settings["lr"]}).text, saved) == read_yaml(whole.text, saved)


def test_a_network_whose_references_cannot_move_is_saved_resolved(repository, tmp_path):
    """An included file that includes another, and a nested override, made the saved experiment take no option at all."""
    text = (repository / "hparams/unified.yaml").read_text(encoding="utf-8")
    small = (repository / "hparams/networks/tfdprnn-small.yaml").read_text(encoding="utf-8")
    (tmp_path / "networks").mkdir()
    (tmp_path / "networks/sizes.yaml").write_text("channels: 8\n")
    nested = small.replace("channels: !ref <channels>", "channels: !ref <sizes[channels]>")
    (tmp_path / "networks/nested.yaml").write_text("sizes: !include:sizes.yaml\n" + nested)
    (tmp_path / "networks/dashed.yaml").write_text(
        small.replace("num_layers", "num-layers", 1).replace("<num_layers>", "<num-layers>")
    )
    (tmp_path / "small.yaml").write_text(small)
    saved = tmp_path / "elsewhere" / "hyperparams.yaml"
    saved.parent.mkdir()
    deeper = text.replace(
        "    num_spks: !ref <num_spks>\n", "    num_spks: !ref <num_spks>\n    masknet:\n        block: 2\n", 1
    )
    (tmp_path / "networks/plain.yaml").write_text(small)
    for network in ("nested", "dashed", "plain"):
        (tmp_path / "unified.yaml").write_text(deeper if network == "plain" else text)
        whole = Experiment(tmp_path / "unified.yaml", {"network": network})
        whole.save(saved)
        again = Experiment(saved, {"lr": 0.0007})
        assert again.settings["lr"] == 0.0007 and count_speakers(again.build()["modules"]) == 2


def test_scenes_may_hold_a_reference(default, tmp_path):
    text = default.read_text(encoding="utf-8").replace("!include:networks", f"!include:{default.parent}/networks")
    text = text.replace("scenes:", "share: 0.5\nscenes:", 1)
    file = tmp_path / "unified.yaml"
    file.write_text(text.replace("    rooms: 0 ", "    rooms: !ref <share> ", 1))
    assert "!ref <share>" in file.read_text() and Experiment(file).settings["scenes"]["rooms"] == 0.5
