"""check-data finds each fault."""

import numpy as np
import pytest
import soundfile

from tests.corpus import make_corpus
from unified_sess.data import check
from unified_sess.data.check import check_data, leaking_speakers, run_check

GOOD = 0.1 * np.random.default_rng(0).standard_normal(8000)


def write(path, signal=GOOD, rate=8000, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, signal, rate, **options)


def faults(folder):
    return {name: found for name, found in check_data(folder, workers=1).items() if found}


def test_each_fault_is_found(tmp_path, capsys):
    clipped = GOOD.copy()
    clipped[:9] = 1
    for name, signal, rate in [
        ("train/1-1-1.wav", GOOD, 8000),
        ("train/2-1-1.wav", GOOD, 8000),
        ("test/2-1-2.wav", GOOD, 8000),
        ("train/silent.wav", 0 * GOOD + 0.01, 8000),  # a constant offset is no sound
        ("train/clipped.wav", clipped, 8000),
        ("train/rate.wav", np.tile(GOOD, 2), 16000),
        ("train/short.wav", GOOD[:800], 8000),
    ]:
        write(tmp_path / name, signal, rate)
    (tmp_path / "train" / "broken.wav").write_bytes(b"no audio")
    assert faults(tmp_path) == {
        "unreadable": ["train/broken.wav"],
        "silent": ["train/silent.wav"],
        "clipped": ["train/clipped.wav"],
        "mis-rated": ["train/rate.wav (16000 Hz)"],
        "too short": ["train/short.wav"],
        "leaking speakers": ["2 (test, train)"],
    }
    assert run_check(tmp_path, workers=1) == 1
    assert "1 silent: train/silent.wav" in capsys.readouterr().out


@pytest.mark.parametrize("extension", ["wav", "flac", "mp3"])
def test_a_truncated_file_is_named(tmp_path, extension):
    write(tmp_path / "a.wav")
    path = tmp_path / f"half.{extension}"
    write(path, np.tile(GOOD, 10))
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    assert faults(tmp_path) == {"truncated": [path.name]}


def test_nan_is_unreadable(tmp_path):
    write(tmp_path / "nan.wav", np.append(GOOD, np.nan), subtype="FLOAT")
    assert faults(tmp_path) == {"unreadable": ["nan.wav"]}


@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_16", "PCM_24", "FLOAT"])
@pytest.mark.parametrize("level", [1.0, -1.0])
def test_clipping_at_any_depth_and_across_blocks(tmp_path, subtype, level, monkeypatch):
    monkeypatch.setattr(check, "BLOCK", 1000)
    signal = GOOD.copy()
    signal[1998:2002] = level
    write(tmp_path / "clipped.wav", signal, subtype=subtype)
    signal[2001] = 0  # three samples are a peak
    write(tmp_path / "good.wav", signal, subtype=subtype)
    assert faults(tmp_path) == {"clipped": ["clipped.wav"]}


def test_a_whole_corpus_has_status_0_and_a_damaged_one_has_not(tmp_path, capsys):
    folder = make_corpus(tmp_path / "Libri2Mix", splits=(("train-100", 3), ("test", 2)))
    assert run_check(folder, workers=2) == 0
    assert "no faults found" in capsys.readouterr().out
    part = folder / "wav8k/min/train-100"
    signal, rate = soundfile.read(part / "s2" / "u1.wav")
    write(part / "s2" / "u1.wav", signal[:-5], rate)
    (part / "noise" / "u2.wav").unlink()
    signal, _ = soundfile.read(folder / "wav8k/min/test/s1/u0.wav")
    write(folder / "wav8k/min/test/s1/u0.wav", signal, 16000)
    found = faults(folder)
    (unequal,), (incomplete,), (rate,) = found["unequal"], found["incomplete"], found["mis-rated"]
    assert unequal.startswith("wav8k/min/train-100/u1 (") and "s2 8035" in unequal and "s1 8040" in unequal
    assert incomplete == "wav8k/min/train-100/u2 (no noise)"
    assert rate == "wav8k/min/test/s1/u0.wav (16000 Hz)"
    assert run_check(folder, workers=1) == 1


@pytest.mark.parametrize(
    "files, leak",
    [
        (["train-360/mix_both/1-2-3_4-5-6.wav", "dev/mix_both/7-8-9_4-1-1.wav"], ["4 (dev, train)"]),
        (["train-100/s1/1-2-3_4-5-6_17.wav", "dev/s1/7-8-9_4-1-1_3.wav"], ["4 (dev, train)"]),  # numbered by --count
        (["Rooms/train-100/s1/1-2-3_17.wav", "Rooms/dev/s1/1-2-4_3.wav"], ["1 (dev, train)"]),
        (["train-clean-100/1/2/1-2-3.flac", "test-clean/1/2/1-2-4.flac"], ["1 (test, train)"]),
        (["mine/training/anna/a.wav", "mine/Test/anna/deep/b.wav"], ["anna (test, train)"]),
        (["mine/train/anna/a.wav", "mine/test/bert/b.wav", "other/dev/anna/c.wav"], []),
        (["tr/mix_both/a.wav", "cv/mix_both/b.wav", "tr/s1/a.wav", "cv/s1/b.wav"], []),
        (["noise/train/cafe/a.wav", "noise/test/cafe/b.wav", "wham_noise/tr/x.wav", "wham_noise/tt/x.wav"], []),
        (["anna/a.wav", "bert/a.wav"], []),
    ],
)
def test_speakers_in_two_splits(files, leak):
    assert leaking_speakers(files) == leak


def test_names_that_are_not_utf8_are_printed(tmp_path, capsys):
    (tmp_path / "a").mkdir()
    with open(bytes(tmp_path / "a") + b"/\xff.wav", "wb") as file:
        file.write(b"no audio")
    assert run_check(tmp_path, workers=1) == 1
    assert "1 unreadable: a/?.wav" in capsys.readouterr().out
