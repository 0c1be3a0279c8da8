"""Every command of the recipes' tables trains two steps and tests, with its own kind of network in its small size."""

import re
import shlex
from pathlib import Path

import pytest
from hyperpyyaml import load_hyperpyyaml

from tests.corpus import make_corpus
from tests.data.folders import make_folders
from unified_sess.data.parts import choose_data_folder
from unified_sess.network import MODULE_NAMES, NoEnhancer, count_speakers
from unified_sess.training.command_line import parse_command_line
from unified_sess.training.experiment import Experiment
from unified_sess.utils.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
RECIPES = sorted(ROOT.glob("recipes/*/unified.yaml"))
EXPERIMENTS = [ROOT / "hparams" / "unified.yaml", *RECIPES]
COMMANDS = [
    command
    for readme in sorted(ROOT.glob("recipes/*/README.md"))
    for command in re.findall(r"^\|[^|]*\| `python (train\.py [^`]*)` \|", readme.read_text(encoding="utf-8"), re.M)
]


NAMES = [re.sub(r"\S*recipes/(\w+)/unified.yaml|train.py|--\w*(folder|until_epoch)\s\S+", r"\1", c) for c in COMMANDS]
NAMES = [re.sub(r"\W+", "-", f"{k} {name}").strip("-") for k, name in enumerate(NAMES)]


def names(paths):
    return [str(path.relative_to(ROOT)) for path in paths]


def parse(command):
    """Experiment file, SpeechBrain's run options and overrides of a command as it stands in a table."""
    return parse_command_line(shlex.split(command)[1:])


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Folders that stand for those of the tables: `{name in a command: folder}`."""
    root = tmp_path_factory.mktemp("folders")
    splits = (("train-360", 2), ("dev", 1), ("test", 1))
    two, three = (make_corpus(root / f"Libri{n}Mix", splits, num_spks=n, seconds=0.5) for n in (2, 3))
    speech, noise = make_folders(root, speakers=2, utterances=1, seconds=0.5, noises=1)
    noise = noise / "tr"
    return {
        "DIR/Libri2Mix": two,
        "DIR/Libri3Mix": three,
        "data/mini/Libri2Mix": two,
        "DIR": two,
        "WSJ0/si_tr_s": speech,
        "data/mini/speech/train-clean-100": speech,
        "DIR/wav8k/min/tr/noise": noise,
        "wham_noise/tr": noise,
        "recipes/Mini/separator": ROOT / "recipes" / "Mini" / "separator",
    }


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS, ids=NAMES)
def test_a_command_of_the_tables_trains_two_steps_and_tests(command, folders, tmp_path, monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(ROOT))
    from train import main

    path, _, overrides = parse(command)
    arguments = [str(folders.get(word, word)) for word in shlex.split(command)[1:]]
    arguments[0] = str(ROOT / path)
    if path != "recipes/Mini/unified.yaml":  # the published networks are too large for a test
        kind = re.sub("-[tsbm]$", "", overrides.get("network", "sepformer"))
        arguments += ["--network", f"{kind}-small"]
    # Later options win, so the command's own ones are all read.
    small = {"num_workers": 0, "audio_examples": 0, "number_of_epochs": 1, "batch_size": 1}
    small |= {"mixtures_per_epoch": 8} if "speech_folder" in overrides else {}
    arguments += [part for name, value in small.items() for part in (f"--{name}", str(value))]
    arguments += ["--training_signal_len", "0.5", "--precision", "fp32"]  # bf16 is slow on most CPUs
    arguments += ["--output_folder", str(tmp_path), "--debug", "--debug_epochs", "1", "--noprogressbar"]
    main(arguments)
    assert "SI-SNR" in capsys.readouterr().out
    assert (tmp_path / "test_results.csv").exists()


def test_every_recipe_has_a_table_of_commands():
    assert {parse(command)[0] for command in COMMANDS} | {"recipes/Recordings/unified.yaml"} == set(names(RECIPES))


@pytest.mark.parametrize("command", COMMANDS, ids=NAMES)
def test_a_command_of_the_tables_is_what_its_options_say(command):
    path, _, overrides = parse(command)
    experiment = Experiment(ROOT / path, overrides)
    network = overrides.get("network", "tfdprnn-small" if "Mini" in path else "sepformer")
    kind = "separation" if "enhancer" in overrides else overrides.get("gradient_modulation", "gm")
    kind = "cascade" if overrides.get("enhancement_weight") == 0 else kind
    assert Path(experiment.settings["output_folder"]).parts[-2:] == (f"{network}-{kind}", "1234")
    assert (experiment.settings["enhancement_weight"] == 0) == (kind in ("separation", "cascade"))
    assert ("NoEnhancer" in experiment.text) == (kind == "separation")


@pytest.mark.slow
def test_no_two_commands_of_a_table_write_into_one_folder():
    folders = [
        (Experiment(ROOT / path, overrides).settings["output_folder"], "speech_folder" in overrides)
        for path, _, overrides in map(parse, COMMANDS)
    ]
    assert len(set(folders)) == len(COMMANDS)


@pytest.mark.parametrize("path", EXPERIMENTS, ids=names(EXPERIMENTS))
def test_loads_with_plain_hyperpyyaml(path, tmp_path):
    with open(path, encoding="utf-8") as file:
        hparams = load_hyperpyyaml(file, {"data_folder": "somewhere", "output_folder": str(tmp_path)})
    assert set(hparams["modules"]) == set(MODULE_NAMES)
    assert hparams["gradient_modulation"] == "gm"
    of_the_paper = "Recordings" not in str(path)
    default = Path(path).parent.name == "hparams"
    assert hparams["enhancement_weight"] == (1.0 if default else 0.1 if of_the_paper else 0.3)
    assert count_speakers(hparams["modules"]) == 2


@pytest.mark.parametrize("path", EXPERIMENTS, ids=names(EXPERIMENTS))
def test_without_an_enhancer_it_is_the_separator_alone(path, tmp_path):
    network = {} if "Mini" in str(path) else {"network": "dprnn-small"}
    experiment = Experiment(path, {"enhancer": "none", "output_folder": str(tmp_path), **network})
    hparams = experiment.build()
    assert isinstance(hparams["modules"]["enhancer"], NoEnhancer)
    assert hparams["enhancement_weight"] == 0
    assert hparams["checkpointer"].recoverables["enhancer"] is hparams["modules"]["enhancer"]


@pytest.mark.parametrize("path", RECIPES, ids=names(RECIPES))
def test_recipes_have_every_setting_of_the_default(path):
    def keys(file):
        return {line.split(":")[0] for line in file.read_text(encoding="utf-8").splitlines() if line[:1].isalpha()}

    assert keys(ROOT / "hparams" / "unified.yaml") <= keys(path)


@pytest.mark.parametrize("path", EXPERIMENTS, ids=names(EXPERIMENTS))
def test_every_option_has_a_comment(path):
    lines = path.read_text(encoding="utf-8").splitlines()
    scalars = [s for s in lines if s and s[0].isalpha() and ":" in s and "!new" not in s and not s.endswith(":")]
    assert len(scalars) > 20
    assert [line for line in scalars if "#" not in line and "!name" not in line] == []


def test_a_recipe_without_data_says_what_to_give(tmp_path):
    settings = Experiment(RECIPES[0], {"output_folder": str(tmp_path)}).settings
    with pytest.raises(UserError, match="give --data_folder DIR"):
        choose_data_folder(settings)
