"""The recipe of the model for recordings: its scenes are made, and a training on them takes steps and is tested."""

import runpy
import sys

import pandas
import pytest
import soundfile

from tests.data.folders import make_folders
from unified_sess.inference.separating import Separator
from unified_sess.utils.yaml_files import read_yaml


def test_a_fine_tuned_model_separates_as_the_one_that_ships(repository):
    """Before, what a fine-tuning left was taken for free in level: no turn was moved and its outputs were scaled anew."""
    path = repository / "recipes" / "Recordings" / "unified.yaml"
    experiment = read_yaml(path.read_text(encoding="utf-8"), path)
    for name in ("silence_threshold", "enhanced_from"):
        assert experiment[name] == getattr(Separator.load(device="cpu").config, name), name


@pytest.mark.slow
def test_scenes_are_made_and_a_training_of_up_to_three_people_runs(repository, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(repository))
    from train import main

    speech, noise = make_folders(tmp_path / "train", speakers=4, utterances=1, seconds=2, noises=1)
    for part, kind in (("dev", "cv"), ("test", "tt")):
        voices, sounds = make_folders(tmp_path / part, speakers=4, utterances=1, seconds=2, noises=1)
        (tmp_path / "speech").mkdir(exist_ok=True)
        (tmp_path / "noise").mkdir(exist_ok=True)
        (tmp_path / "speech" / f"{part}-clean").symlink_to(voices)
        (tmp_path / "noise" / kind).symlink_to(sounds / "tr")
    scenes = tmp_path / "Scenes"
    script = repository / "recipes" / "Recordings" / "make_scenes.py"
    monkeypatch.setattr("unified_sess.data.own_folders.held_out.MIXTURES", {"dev": 3, "test": 2})
    folders = ["--speech", tmp_path / "speech", "--noise", tmp_path / "noise", "--output", scenes]
    monkeypatch.setattr(sys, "argv", [str(script), *map(str, folders), "--rooms", "2", "--num-spks", "3"])
    runpy.run_path(str(script), run_name="__main__")
    sources = sorted(scenes.glob("wav16k/min/dev/s3/*.wav"))
    assert len(sources) == 3 and soundfile.info(str(sources[0])).duration == 6

    options = {
        "device": "cpu",
        "data_folder": scenes,
        "speech_folder": speech,
        "noise_folder": noise / "tr",
        "output_folder": tmp_path / "run",
        "num_spks": 3,
        "scenes": "{room_count: 2, active: [0.02, 0.22, 0.56, 0.2]}",
        "number_of_epochs": 1,
        "mixtures_per_epoch": 2,
        "training_signal_len": 1.0,
        "audio_examples": 0,
        "allow_overlap": True,  # the folders of the test sound alike
    }
    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    main([str(repository / "recipes" / "Recordings" / "unified.yaml"), *words, "--noprogressbar"])
    assert len(pandas.read_csv(tmp_path / "run" / "test_results.csv")) == 3  # two scenes and their mean
    config = Separator.load(tmp_path / "run", "cpu").config
    assert (config.silence_threshold, config.enhanced_from) == (-40.5, "sources")
