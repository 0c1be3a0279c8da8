"""Datasets from settings: corpora, own folders with held-out speakers, contradictions."""

import numpy as np
import pytest
import soundfile

from tests.corpus import make_corpus, voice
from unified_sess.data.own_folders.held_out import in_part
from unified_sess.data.parts import build_datasets, choose_data_folder
from unified_sess.utils.errors import UserError


@pytest.fixture
def settings(tmp_path):
    generator = np.random.default_rng(0)
    for speaker in range(9):
        folder = tmp_path / "speech" / f"speaker{speaker}"
        folder.mkdir(parents=True)
        soundfile.write(folder / "a.wav", voice(generator, 12000, 8000, 90 + 20 * speaker), 8000)
    (tmp_path / "noise").mkdir()
    for number in range(4):
        soundfile.write(tmp_path / "noise" / f"n{number}.wav", 0.05 * generator.standard_normal(40000), 8000)
    return {
        "save_folder": str(tmp_path / "save"),
        "sample_rate": 8000,
        "num_spks": 2,
        "seed": 3,
        "speed_perturb": [0.95, 1.0],
        "training_signal_len": 1.0,
        "mixtures_per_epoch": 40,
        "speech_folder": str(tmp_path / "speech"),
        "noise_folder": str(tmp_path / "noise"),
    }


def test_own_folders_hold_out_speakers_and_noises(settings):
    datasets = build_datasets(settings, choose_data_folder(settings))
    train = datasets["train"]
    assert len(train) == 40 and len(datasets["valid"]) == len(datasets["test"]) == 60
    names = [f"speaker{k}" for k in range(9)]
    parts = [in_part(names, part, 2) for part in ("train", "dev", "test")]
    assert set().union(*parts) == set(names) and sum(map(len, parts)) == 9
    assert {r.speaker for r in train.speech.recordings} == parts[0]
    item = train[(1, 0, None)]
    assert item["mixture"].shape == (8000,)
    assert np.abs(item["mixture"] - item["clean"]).max() > 1e-3  # there is noise
    row = next(iter(datasets["test"].manifest))
    assert soundfile.info(row.mixture).frames == row.frames


def test_dataset_0_is_a_mixture(settings):
    train = build_datasets(settings, choose_data_folder(settings))["train"]
    assert np.array_equal(train[0]["mixture"], train[(0, 0, None)]["mixture"])
    assert train[len(train) - 1]["id"] == train[-1]["id"]


def test_held_out_mixtures_are_made_once(settings):
    folder = choose_data_folder(settings)
    times = {p: p.stat().st_mtime_ns for p in folder.rglob("*.wav")}
    assert choose_data_folder(settings) == folder
    assert {p: p.stat().st_mtime_ns for p in folder.rglob("*.wav")} == times


def test_with_a_corpus_for_validation_all_speakers_train(settings, tmp_path):
    corpus = make_corpus(tmp_path / "corpus", splits=(("dev", 2), ("test", 1)))
    datasets = build_datasets(settings | {"data_folder": corpus}, corpus)
    assert len({r.speaker for r in datasets["train"].speech.recordings}) == 9
    assert len(datasets["valid"]) == 2


@pytest.mark.parametrize(
    "change, says",
    [
        ({"speech_folder": None}, "give --speech_folder too"),
        ({"speech_folder": "no/such"}, "no/such"),
        ({"num_spks": 4}, "too few"),
    ],
)
def test_mistakes_are_one_line(settings, change, says):
    with pytest.raises(UserError, match=says) as caught:
        choose_data_folder(settings | change)
    assert "\n" not in str(caught.value)


def test_held_out_mixtures_of_other_recordings_are_refused(settings, tmp_path):
    choose_data_folder(settings)
    random = np.random.default_rng(1)
    for speaker in range(9, 12):
        folder = tmp_path / "speech" / f"speaker{speaker}"
        folder.mkdir()
        soundfile.write(folder / "a.wav", voice(random, 12000, 8000, 300), 8000)
    with pytest.raises(UserError, match="made from other recordings"):
        choose_data_folder(settings)
    folder = choose_data_folder(settings | {"save_folder": str(tmp_path / "other")})
    assert len(list(folder.rglob("mix_both/*.wav"))) == 120


def test_killed_making_of_held_out_mixtures_leaves_no_half(settings, tmp_path, monkeypatch):
    calls = []

    def full(path, *args, **kwargs):
        calls.append(path)
        if len(calls) == 30:
            raise soundfile.LibsndfileError(0, prefix="no space left on device")
        write(path, *args, **kwargs)

    write = soundfile.write
    monkeypatch.setattr(soundfile, "write", full)
    with pytest.raises(UserError, match="is the disk full"):
        choose_data_folder(settings)
    assert not list((tmp_path / "save").rglob("*.wav"))
    monkeypatch.setattr(soundfile, "write", write)
    assert len(list(choose_data_folder(settings).rglob("mix_both/*.wav"))) == 120


def test_held_out_speech_keeps_its_speed(settings):
    settings["speed_perturb"] = [0.5]
    folder = choose_data_folder(settings)
    for path in folder.rglob("s1/*.wav"):
        signal, _ = soundfile.read(path)
        assert not signal[12000:].any()  # recordings are 12000 samples: at half the speed they would be longer


def test_silent_people_want_a_loss_that_knows_silence(settings, tmp_path, caplog):
    corpus = make_corpus(tmp_path / "corpus", splits=(("dev", 2), ("test", 1)))
    settings |= {"data_folder": corpus, "scenes": {"active": [0, 0.5, 0.5]}}
    build_datasets(settings, corpus)
    assert "--separation_loss si_snr_level goes on" in caplog.text
    caplog.clear()
    train = build_datasets(settings | {"separation_loss": "si_snr_level"}, corpus)["train"]
    assert "goes on" not in caplog.text
    assert {int(train[0, k, None]["sources"].any(0).sum()) for k in range(20)} == {1, 2}
