"""Nobody is trained on and tested, unless that is asked for."""

import numpy as np
import pytest
import soundfile
import soxr

from tests.corpus import make_corpus, voice
from unified_sess.data.parts import build_datasets
from unified_sess.utils.errors import UserError

PARTS = (("dev", 2), ("test", 2))


@pytest.fixture
def settings(tmp_path):
    """A corpus for validation and test, and a folder of others who train."""
    make_corpus(tmp_path / "corpus", PARTS, seconds=2)
    generator = np.random.default_rng(5)
    for speaker in range(3):
        path = tmp_path / "speech" / f"person{speaker}" / "a.wav"
        path.parent.mkdir(parents=True)
        soundfile.write(path, voice(generator, 20000, 8000, 100 + 30 * speaker), 8000)
    return {
        "save_folder": str(tmp_path / "save"),
        "sample_rate": 8000,
        "num_spks": 2,
        "seed": 1,
        "data_folder": str(tmp_path / "corpus"),
        "speech_folder": str(tmp_path / "speech"),
    }


def build(settings, **changes):
    settings = settings | changes
    return build_datasets(settings, settings["data_folder"])


def rename_mixtures(corpus, split, name):
    for path in (corpus / "wav8k" / "min" / split).rglob("u0.wav"):
        path.rename(path.with_name(name))


def test_a_speaker_of_the_test_part_is_refused_by_name(settings, tmp_path):
    """Regression: `--data_folder` with `--speech_folder` trained on speakers of the test part."""
    rename_mixtures(tmp_path / "corpus", "test", "61-70970-0000_8555-284447-0001.wav")
    folder = tmp_path / "speech" / "8555" / "1"
    folder.mkdir(parents=True)
    (tmp_path / "speech" / "person0" / "a.wav").rename(folder / "8555-1-0007.wav")
    with pytest.raises(UserError, match=r"speakers of the test part, such as 8555 .*8555-1-0007.*--allow_overlap True"):
        build(settings)
    assert len(build(settings, allow_overlap=True)["train"])


@pytest.mark.parametrize("gain, rate, extension", [(1, 8000, "wav"), (0.1, 16000, "flac"), (-0.5, 44100, "wav")])
def test_a_recording_of_the_test_part_is_refused_by_its_sound(settings, tmp_path, gain, rate, extension):
    signal, _ = soundfile.read(tmp_path / "corpus" / "wav8k" / "min" / "test" / "s2" / "u1.wav")
    copy = tmp_path / "speech" / "somebody" / f"renamed.{extension}"
    copy.parent.mkdir()
    soundfile.write(copy, gain * soxr.resample(signal, 8000, rate), rate)
    with pytest.raises(UserError, match=r"speech of the test part \(.*renamed.* is in .*s2.u1\.wav\)") as caught:
        build(settings)
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError):  # from the record that was kept
        build(settings)
    copy.unlink()
    build(settings)


def test_a_noise_of_the_test_part_is_refused(settings, tmp_path):
    generator = np.random.default_rng(6)
    (tmp_path / "noise").mkdir()
    soundfile.write(tmp_path / "noise" / "other.wav", 0.1 * generator.standard_normal(20000), 8000)
    build(settings, noise_folder=str(tmp_path / "noise"))
    signal, _ = soundfile.read(tmp_path / "corpus" / "wav8k" / "min" / "dev" / "noise" / "u0.wav")
    soundfile.write(tmp_path / "noise" / "same.wav", 2 * signal, 8000)
    with pytest.raises(UserError, match=r"noise of the valid part \(.*same\.wav"):
        build(settings, noise_folder=str(tmp_path / "noise"))


def test_speakers_that_names_do_not_tell_are_noted(settings, caplog):
    build(settings)
    assert "names do not tell whether people of the valid and test parts" in caplog.text


def test_the_same_beginning_of_silence_is_no_finding(settings, tmp_path):
    for path in [*(tmp_path / "speech").rglob("*.wav"), *(tmp_path / "corpus").rglob("*.wav")]:
        signal, rate = soundfile.read(path)
        signal[:2000] = 0
        soundfile.write(path, signal, rate)
    build(settings)
