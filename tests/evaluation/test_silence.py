"""The silence threshold is chosen where most scenes have as many loud outputs as people."""

import json
import shutil

import numpy as np
import pytest
import torch

from unified_sess.evaluation.silence import choose_silence_threshold, keep_silence_threshold, measure_outputs
from unified_sess.inference.separating import Separator
from unified_sess.utils.errors import UserError


class TwoOutputs(Separator):
    """Gives the mixture up to its last half second, and all of it 20 dB lower."""

    def __init__(self, last=4000):
        self.sample_rate, self.num_spks, self.last = 8000, 2, last

    def separate_batch(self, mixtures):
        loud = mixtures.clone()
        loud[:, mixtures.shape[1] - self.last :] = 0
        return torch.stack((mixtures * 10 ** (-20 / 20), loud), dim=2)


def test_levels_are_relative_to_the_mixture_and_people_are_counted():
    speech = torch.randn(16000).sign()
    scenes = [
        {"mixture": speech, "sources": torch.stack((speech, 0 * speech), dim=1)},
        {"mixture": speech, "sources": torch.stack((speech, 0.1 * speech), dim=1)},
    ]
    levels, people = measure_outputs(TwoOutputs(), scenes)
    np.testing.assert_allclose(levels, [[0, -20]] * 2, atol=1e-3)
    assert people.tolist() == [1, 2]
    levels, _ = measure_outputs(TwoOutputs(last=0), scenes[:1])
    np.testing.assert_allclose(levels, [[0, -np.inf]], atol=1e-3)  # an echo is nobody at any threshold


def test_the_threshold_lies_between_voices_and_silence_whatever_their_order():
    random = np.random.default_rng(0)
    people = random.integers(0, 4, 50)
    voices, silence = random.uniform(-20, 0, (50, 3)), random.uniform(-50, -30, (50, 3))
    levels = np.sort(np.where(np.arange(3) < people[:, None], voices, silence), axis=1)[:, ::-1]
    threshold, right = choose_silence_threshold(levels, people)
    assert -30 < threshold < -20
    assert right == 1.0


def test_of_people_and_silence_that_overlap_the_most_are_right():
    levels = np.array([[0.0, -20.0], [0.0, -22.0], [0.0, -21.0]])
    threshold, right = choose_silence_threshold(levels, np.array([2, 1, 1]))
    assert (-21 < threshold <= -20) and right == 1.0
    assert choose_silence_threshold(levels, np.array([1, 2, 2]))[1] == pytest.approx(2 / 3)


def test_nothing_but_the_threshold_changes_in_a_model_folder(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"sample_rate": 8000, "num_spks": 2}))
    keep_silence_threshold(tmp_path, -32.5)
    assert json.loads((tmp_path / "config.json").read_text()) == {
        "sample_rate": 8000,
        "num_spks": 2,
        "silence_threshold": -32.5,
    }
    with pytest.raises(UserError, match="cannot be read"):
        keep_silence_threshold(tmp_path / "none", -30.0)


def test_what_the_enhanced_mixture_is_made_of_is_kept_beside_the_threshold(tmp_path):
    (tmp_path / "config.json").write_text('{"num_spks": 2}', encoding="utf-8")
    keep_silence_threshold(tmp_path, -30.0, "sources")
    assert json.loads((tmp_path / "config.json").read_text()) == {
        "num_spks": 2,
        "silence_threshold": -30.0,
        "enhanced_from": "sources",
    }


def test_no_file_of_a_model_keeps_the_old_threshold(random_model, tmp_path):
    """Its ONNX file and what SpeechBrain reads went on with the old one."""
    folder = tmp_path / "model"
    shutil.copytree(random_model, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"silence_threshold": -40.0}))
    (folder / "hyperparams.yaml").write_text("num_spks: 2\nsilence_threshold: -40.0\nenhanced_from: enhancer\n")
    (folder / "model.onnx").touch()
    keep_silence_threshold(folder, -33.0, "sources")
    assert (
        folder / "hyperparams.yaml"
    ).read_text() == "num_spks: 2\nsilence_threshold: -33.0\nenhanced_from: sources\n"
    assert not (folder / "model.onnx").exists()
    assert json.loads((folder / "config.json").read_text())["silence_threshold"] == -33.0
