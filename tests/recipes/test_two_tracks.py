"""The command lines of the recipes whose networks hear two tracks: of the course, and of one person or two."""

import runpy
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from tests.data.folders import make_folders
from tests.inference.stub import GainModel
from unified_sess.inference.separating import Separator

SCENES = {"train_counter": 50, "train_course": 10}  # the fewest that a recipe takes


def run(repository, recipe, arguments, monkeypatch):
    script = repository / "recipes" / "Recordings" / f"{recipe}.py"
    monkeypatch.syspath_prepend(str(script.parent))
    monkeypatch.setattr(sys, "argv", [str(script), *map(str, arguments)])
    runpy.run_path(str(script), run_name="__main__")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("recipe", "name", "size"), [("train_counter", "linear.bias", 1), ("train_course", "last.bias", 4)]
)
def test_from_folders_to_weights(repository, tmp_path, monkeypatch, recipe, name, size):
    speech, noise = make_folders(tmp_path / "train", speakers=4, utterances=3, seconds=8, noises=2)
    output = tmp_path / "weights.npz"
    arguments = ["--speech", speech, "--noise", noise / "tr", "--cache", tmp_path / "cache", "--output", output]
    run(repository, recipe, [*arguments, "--scenes", SCENES[recipe], "--steps", 20], monkeypatch)
    with np.load(output) as file:
        assert file[name].shape == (size,) and all(np.isfinite(file[key]).all() for key in file)


@pytest.mark.parametrize("recipe", SCENES)
@pytest.mark.parametrize(
    ("options", "said"),
    [(["--scenes", 3], "at least {} --scenes"), (["--steps", 1], "20 --steps"), ([], "has 3 outputs")],
)
def test_what_cannot_be_learnt_from_is_one_line(repository, tmp_path, monkeypatch, capsys, recipe, options, said):
    monkeypatch.setattr(Separator, "load", lambda source: GainModel(0.4, 0.3, 0.3))
    output = tmp_path / "weights.npz"
    arguments = ["--speech", tmp_path, "--noise", tmp_path, "--cache", tmp_path, "--output", output]
    with pytest.raises(SystemExit) as stop:
        run(repository, recipe, [*arguments, *options], monkeypatch)
    assert stop.value.code != 0 and not output.exists()
    error = capsys.readouterr().err
    assert said.format(SCENES[recipe]) in error and error.count("\n") == 1


@pytest.mark.parametrize("recipe", SCENES)
def test_an_output_that_is_a_folder_is_one_line_before_the_work(repository, tmp_path, monkeypatch, capsys, recipe):
    """It was a traceback after hours, with the weights lost."""
    monkeypatch.setattr(Separator, "load", lambda source: pytest.fail("it has begun"))
    arguments = ["--speech", tmp_path, "--noise", tmp_path, "--cache", tmp_path, "--output", tmp_path]
    with pytest.raises(SystemExit):
        run(repository, recipe, arguments, monkeypatch)
    assert "is a folder" in capsys.readouterr().err


def test_a_table_says_who_speaks_in_a_folder(repository, tmp_path, monkeypatch):
    speech, noise = make_folders(tmp_path / "train", speakers=3, utterances=2, noises=1)
    files = sorted(speech.rglob("*.flac"))
    table = tmp_path / "people.csv"
    table.write_text(
        "path,speaker\n" + "".join(f"{path.relative_to(speech)},p{k % 2}\n" for k, path in enumerate(files))
    )
    monkeypatch.syspath_prepend(str(repository / "recipes" / "Recordings"))
    from two_tracks import dataset

    for tables, people in ((None, 3), (["null"], 3), ([str(table)], 2)):
        options = SimpleNamespace(
            speech=[speech], noise=[noise], cache=tmp_path / "cache", speakers=tables, shares=None, noise_shares=None
        )
        made = dataset(options, 8000, 1.0, 0, {"rooms": 0.0})
        assert len(made.speech.by_speaker) == people
