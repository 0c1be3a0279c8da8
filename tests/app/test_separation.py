"""The work on a recording of the page."""

import threading

import numpy as np
import pytest
import soundfile
import torch

from tests.inference.stub import GainModel
from unified_sess.app.pictures import draw_picture, measure_picture
from unified_sess.app.separation import separate_for_page
from unified_sess.app.tasks import Task
from unified_sess.utils.errors import UserError


@pytest.fixture
def model():
    """Two people and a model that has learnt levels; its separator does not work in steps."""
    stub = GainModel(0.5, 0.25, threshold=-40.0)
    stub.mods["masknet"] = stub.mods["encoder"]
    return stub


@pytest.fixture
def recording(tmp_path):
    """One and a half seconds, too short to tell people by, of two channels at a rate that is not the model's."""
    path = tmp_path / "a name with <b>.wav"
    soundfile.write(path, 0.1 * np.random.default_rng(0).standard_normal((33075, 2)), 22050, "FLOAT")
    return path


def test_people_and_noise_are_the_recording(model, recording, tmp_path):
    folder = tmp_path / "results"
    task = Task()
    separated = separate_for_page(model, recording, folder, task=task)
    sounds = {sound.kind: soundfile.read(sound.path)[0] for sound in separated.sounds}
    assert list(sounds) == ["recording", "enhanced", "s1", "s2", "noise"] and separated.people == 2
    mixture = soundfile.read(recording)[0].mean(axis=1)
    np.testing.assert_allclose(sounds["recording"], mixture, atol=1e-6)
    np.testing.assert_allclose(sounds["s1"] + sounds["s2"] + sounds["noise"], mixture, atol=1e-6)
    assert all(sound.picture.read_bytes().startswith(b"\x89PNG") for sound in separated.sounds)
    assert 0.9 < task.share <= 1


def test_as_many_people_as_asked_for(model, recording, tmp_path):
    separated = separate_for_page(model, recording, tmp_path / "results", num_spks=1)
    assert [sound.kind for sound in separated.sounds] == ["recording", "enhanced", "s1", "noise"]


@pytest.mark.parametrize("passes", [1, 3])
def test_passes_are_as_chosen(model, recording, tmp_path, monkeypatch, passes):
    heard = []
    run = type(model).separate_windows
    monkeypatch.setattr(
        type(model),
        "separate_windows",
        lambda self, x, enhanced=False: heard.append(x.shape[1]) or run(self, x, enhanced),
    )
    separated = separate_for_page(model, recording, tmp_path / "results", passes=passes)
    assert len(set(heard)) == len(heard) == passes and separated.people == 2
    with pytest.raises(UserError, match="passes must be"):
        separate_for_page(model, recording, tmp_path / "more", passes=6)


def test_another_network_of_voices_is_asked(recording, tmp_path):
    class Voices:
        name, digest, size, asked = "net.onnx", "0", 4, 0

        def embeddings(self, signals, sample_rate, unit, first, count):
            self.asked += count
            return np.ones((len(signals), count, self.size), np.float32)

    voices, model = Voices(), GainModel(0.6, 0.4, threshold=-40.0)
    model.mods["masknet"] = torch.nn.Identity()
    separate_for_page(model, recording, tmp_path / "results", voices=voices)
    assert voices.asked == 6  # units in one and a half seconds
    separate_for_page(model, recording, tmp_path / "more")
    assert voices.asked == 6


def test_silence_holds_nobody(model, tmp_path):
    path = tmp_path / "silence.wav"
    soundfile.write(path, np.zeros(8000), 8000)
    separated = separate_for_page(model, path, tmp_path / "results")
    assert separated.people == 0 and any("nobody" in note for note in separated.notes)
    assert [sound.kind for sound in separated.sounds] == ["recording", "enhanced", "noise"]


def test_a_cancelled_task_leaves_no_sound(model, recording, tmp_path):
    task = Task()
    task.stop = threading.Event()
    task.cancel()
    assert separate_for_page(model, recording, tmp_path / "results", task=task) is None
    assert not list((tmp_path / "results").iterdir())


def test_what_is_no_sound_is_one_line_that_names_it_without_its_folder(model, tmp_path):
    path = tmp_path / "letter.wav"
    path.write_text("dear reader")
    with pytest.raises(UserError, match="cannot read letter.wav as audio") as error:
        separate_for_page(model, path, tmp_path / "results")
    assert str(tmp_path) not in str(error.value)


@pytest.mark.parametrize("frames", [1, 7, 400, 8000, 1_000_003])
def test_a_picture_shows_where_and_how_loud_a_tone_is(tmp_path, frames):
    path = tmp_path / "tone.wav"
    tone = 0.5 * np.sin(2 * np.pi * 1000 * np.arange(frames) / 8000 + 1)
    tone[frames // 2 :] = 0
    soundfile.write(path, tone, 8000, "FLOAT")
    picture = measure_picture(path)
    assert len(picture.low) == len(picture.high) == picture.level.shape[1] <= 900
    assert picture.peak() == pytest.approx(np.abs(tone).max(), abs=1e-6)
    if frames >= 8000:
        columns = picture.level.shape[1]
        assert np.argmax(picture.level[:, columns // 4]) == round(1000 / 8000 * 256)
        assert picture.level[:, 3 * columns // 4].max() < -100  # the second half is silent
        assert np.abs(picture.high[3 * columns // 4 :]).max() == 0
    draw_picture(picture, tmp_path / "tone.png", picture)
    assert (tmp_path / "tone.png").read_bytes().startswith(b"\x89PNG")
