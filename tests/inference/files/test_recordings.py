"""Recordings of every kind as streams of mono samples."""

import os

import numpy as np
import pytest
import soundfile
import soxr

from tests.corpus import voice
from unified_sess.inference.files.recordings import Recording
from unified_sess.utils.errors import UserError

KINDS = {  # subtype: extension, lowest ratio of signal to coding noise in dB
    "PCM_U8": ("wav", 15), "PCM_16": ("wav", 60), "PCM_24": ("wav", 60), "PCM_32": ("wav", 60), "FLOAT": ("wav", 60),
    "DOUBLE": ("wav", 60), "PCM_S8": ("flac", 15), "VORBIS": ("ogg", 15), "MPEG_LAYER_III": ("mp3", 15),
}  # fmt: skip


def read(path, rate):
    """The whole recording `[time]` at a rate."""
    return np.concatenate(list(Recording(path).blocks(rate)))


@pytest.mark.parametrize("rate", [8000, 16000, 44100, 48000, 96000])
@pytest.mark.parametrize("subtype", KINDS)
def test_every_format_rate_and_channel_count(tmp_path, subtype, rate):
    extension, ratio = KINDS[subtype]
    if extension == "mp3" and rate > 48000:
        pytest.skip("MP3 has no such rate")
    signal = 3 * voice(np.random.default_rng(0), rate // 2, rate, 150)
    expected = soxr.resample(signal, rate, 8000) if rate != 8000 else signal
    for channels in (1, 2, 6):
        if extension == "mp3" and channels > 2:
            continue
        weights = np.linspace(0.5, 1.5, channels) if channels > 1 else np.ones(1)  # of mean 1
        path = tmp_path / f"{channels}.{extension}"
        soundfile.write(path, signal[:, None] * weights, rate, subtype=subtype)
        found = read(path, 8000)
        assert abs(len(found) - 4000) <= 1
        error = found[:3999] - expected[:3999]
        assert np.mean(expected**2) > 10 ** (ratio / 10) * np.mean(error**2), channels


@pytest.mark.parametrize("rate", [8000, 44100, 768000])
@pytest.mark.parametrize("frames", [1, 2, 50])
def test_the_shortest_recordings_have_a_sample(tmp_path, frames, rate):
    soundfile.write(tmp_path / "a.wav", np.full(frames, 0.5), rate)
    found = read(tmp_path / "a.wav", 8000)
    assert len(found) == max(1, round(frames * 8000 / rate))


def test_a_long_recording_comes_in_blocks(tmp_path):
    signal = np.random.default_rng(0).standard_normal(int(25.0 * 8000)).astype("f4")
    soundfile.write(tmp_path / "a.wav", signal, 8000, subtype="FLOAT")
    told = []
    blocks = list(Recording(tmp_path / "a.wav").blocks(8000, told.append))
    assert len(blocks) == 3 and sum(told) == pytest.approx(25.0)
    np.testing.assert_array_equal(np.concatenate(blocks), signal)


@pytest.mark.parametrize(
    "name", ["a b.wav", 'it\'s "so".wav', "日本語.wav", "-dash.wav", "..wav", "a\nb.wav", b"\xff.wav"]
)
def test_names(tmp_path, name):
    path = tmp_path / os.fsdecode(name)
    soundfile.write(tmp_path / "plain", np.zeros(9), 8000, format="WAV")
    os.rename(tmp_path / "plain", path)
    assert len(read(path, 8000)) == 9


def damaged(folder, name):
    """Write a damaged recording and return its path."""
    signal = 0.1 * np.random.default_rng(0).standard_normal(16000).astype("f4")
    path = folder / name
    kind = name.split(".")[0]
    changed = {"nan": np.nan, "inf": np.inf, "huge": 1e38}
    if kind in changed:
        signal[-5] = changed[kind]
        soundfile.write(path, signal, 8000, subtype="FLOAT")
    elif kind.startswith("rate"):
        soundfile.write(path, signal[:50], int(kind[4:]))
    elif kind in ("empty", "text"):
        path.write_bytes(b"" if kind == "empty" else b"hello world\n" * 50)
    elif kind == "zero":
        soundfile.write(path, signal[:0], 8000)
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind != "missing":
        soundfile.write(path, signal, 8000)
        data = path.read_bytes()
        path.write_bytes(data[: 30 if kind == "header" else len(data) // 2])
    return path


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("missing.wav", "does not exist"), ("empty.wav", "Format not recognised"), ("empty.mp3", "cannot read"),
        ("text.wav", "Format not recognised"), ("text.mp3", "Format not recognised"), ("text.flac", "cannot read"),
        ("zero.wav", "no samples"), ("header.wav", "cannot read"), ("nan.wav", "not finite"), ("inf.wav", "not finite"), ("huge.wav", r"1e\+38"),
        ("rate1.wav", "1 Hz"), ("rate2000000.wav", "2000000 Hz"), ("pipe.wav", "pipe"), ("folder.wav", "folder"),
    ],
)  # fmt: skip
def test_bad_recordings_are_one_line(tmp_path, name, words):
    path = damaged(tmp_path, name)
    with pytest.raises(UserError, match=words) as error:
        read(path, 8000)
    assert str(path) in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("extension", ["wav", "flac", "mp3"])
def test_what_is_missing_is_said_and_the_rest_is_read(tmp_path, extension):
    recording = Recording(damaged(tmp_path, f"half.{extension}"))
    found = sum(len(block) for block in recording.blocks(8000))
    assert 4000 < found < 12000 and recording.shortfall == pytest.approx(2 - found / 8000, abs=0.1)
    assert any("lacks" in note for note in recording.notes())


def test_a_hundred_channels(tmp_path):
    signal = np.random.default_rng(0).uniform(-0.5, 0.5, (2000, 100))
    soundfile.write(tmp_path / "a.wav", signal, 8000, subtype="FLOAT")
    found = np.concatenate(list(Recording(tmp_path / "a.wav", "mean").blocks(8000)))
    np.testing.assert_allclose(found, signal.mean(1), atol=1e-6)


def test_the_tap_gives_the_channel_with_its_offset(tmp_path):
    signal = 0.25 + 0.1 * np.random.default_rng(0).standard_normal(44100).astype("f4")
    soundfile.write(tmp_path / "a.wav", signal, 44100, subtype="FLOAT")
    tapped = []
    found = np.concatenate(list(Recording(tmp_path / "a.wav").blocks(8000, tap=tapped.append)))
    np.testing.assert_array_equal(np.concatenate(tapped), signal)
    assert abs(found.mean()) < 1e-3
