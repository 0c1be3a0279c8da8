"""Indexing folders of speech: every format, odd names, speakers, what is broken, what changed."""

import logging
import os

import numpy as np
import pytest
import soundfile

from tests.corpus import voice
from tests.data.folders import make_folders
from unified_sess.data import mixing
from unified_sess.data.own_folders import speech_folders
from unified_sess.utils.errors import UserError


def write_voice(path, seconds=2.0, rate=16000, pitch=120, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    signal = voice(np.random.default_rng(0), int(seconds * rate), rate, pitch)
    soundfile.write(path, signal, rate, **options)
    return signal


def same(first, second):
    return [str(r) for r in first] == [str(r) for r in second]


@pytest.mark.parametrize(
    "name, rate, options",
    [
        ("a.wav", 16000, {}),
        ("a.WAV", 44100, {"subtype": "PCM_24"}),
        ("8 bit.wav", 16000, {"subtype": "PCM_U8"}),
        ("double.wav", 8000, {"subtype": "DOUBLE"}),
        ("ü.flac", 44100, {}),
        ("a.ogg", 44100, {}),
        ("a.mp3", 44100, {}),
    ],
)
def test_every_format_is_measured_alike(tmp_path, name, rate, options):
    signal = write_voice(tmp_path / "speech" / "x" / name, rate=rate, **options)
    (found,) = speech_folders.index_folder(tmp_path / "speech", tmp_path / "index.jsonl")
    assert (found.path, found.speaker, found.sample_rate) == (f"x/{name}", "x", rate)
    assert found.frames == pytest.approx(len(signal), abs=2400)  # MP3 pads
    assert found.loudness == pytest.approx(mixing.measure_loudness(signal, rate), abs=0.2)


def test_links_are_followed_and_hidden_files_are_not_taken(tmp_path):
    write_voice(tmp_path / "elsewhere" / "anna" / "a.wav")
    speech = tmp_path / "speech"
    write_voice(speech / "bert" / "deep" / "er" / "b.wav")
    (speech / "bert" / "._b.wav").write_bytes(b"what a file manager leaves")
    os.symlink(tmp_path / "elsewhere" / "anna", speech / "anna")
    os.symlink("..", speech / "bert" / "loop")
    assert speech_folders.list_audio(speech) == ["anna/a.wav", "bert/deep/er/b.wav"]


def test_what_is_broken_or_silent_is_left_out_and_counted(tmp_path, caplog):
    speech, _ = make_folders(tmp_path)
    folder = speech / "train-clean-100" / "10" / "1"
    whole = (folder / "10-1-0000.flac").read_bytes()
    (folder / "broken.wav").write_bytes(b"no audio")
    (folder / "half.flac").write_bytes(whole[: len(whole) // 2])
    soundfile.write(folder / "silent.wav", np.zeros(16000), 16000)
    soundfile.write(folder / "empty.wav", np.zeros(0), 16000)
    soundfile.write(folder / "nan.wav", np.full(16000, np.nan), 16000, subtype="FLOAT")
    os.symlink("nowhere.wav", folder / "link.wav")
    with caplog.at_level(logging.WARNING):
        found = speech_folders.index_folder(speech, tmp_path / "index.jsonl")
    assert len(found) == 9 and {r.speaker for r in found} >= {"10", "11", "12", "13"}
    assert "5 of 14 files are unreadable or silent" in caplog.text and "half.flac (" in caplog.text


def test_a_folder_with_nothing_usable_is_one_line(tmp_path):
    (tmp_path / "a").mkdir()
    with pytest.raises(UserError, match="holds no audio"):
        speech_folders.index_folder(tmp_path, tmp_path / "index.jsonl")
    soundfile.write(tmp_path / "a" / "silent.wav", np.zeros(16000), 16000)
    with pytest.raises(UserError, match="no usable recording: all 1"):
        speech_folders.index_folder(tmp_path, tmp_path / "index.jsonl")


def test_a_file_is_measured_once_and_again_when_it_changed(tmp_path, monkeypatch):
    speech, _ = make_folders(tmp_path)
    index = tmp_path / "index.jsonl"
    first = speech_folders.index_folder(speech, index)
    measured = []

    def watch(function, items, workers, description):
        measured.extend(items)
        return map(function, items)

    monkeypatch.setattr(speech_folders, "parallel_map", watch)
    assert same(speech_folders.index_folder(speech, index), first) and not measured
    write_voice(speech / first[0].path, seconds=1.0)
    os.remove(speech / first[1].path)
    changed = speech_folders.index_folder(speech, index)
    assert measured == [first[0].path]
    assert changed[0].frames == 16000 and same(changed[1:], first[2:])


def test_a_killed_indexing_goes_on(tmp_path, monkeypatch):
    speech, _ = make_folders(tmp_path)
    index = tmp_path / "index.jsonl"
    whole = speech_folders.index_folder(speech, index)
    lines = index.read_bytes().splitlines(keepends=True)
    index.write_bytes(b"".join(lines[:5]) + lines[5][:30])  # the sixth was being written
    measured = []
    monkeypatch.setattr(
        speech_folders, "parallel_map", lambda f, items, *_: [measured.append(i) or f(i) for i in items]
    )
    assert same(speech_folders.index_folder(speech, index), whole)
    assert measured == [r.path for r in whole[5:]]
    measured.clear()
    assert same(speech_folders.index_folder(speech, index), whole) and not measured


def test_a_long_recording_is_measured_in_blocks(tmp_path, monkeypatch):
    random = np.random.default_rng(0)
    voices = [0.2 * voice(random, 16000, 8000, 100), voice(random, 24000, 8000, 150)]
    signal = np.concatenate([voices[0], np.zeros(40000), voices[1], np.zeros(4321)])
    soundfile.write(tmp_path / "a.wav", signal, 8000, subtype="FLOAT")
    whole = speech_folders.measure(tmp_path, "a.wav")
    monkeypatch.setattr(speech_folders, "BLOCK", 2)
    blocks = speech_folders.measure(tmp_path, "a.wav")
    assert blocks[0] == whole[0] == len(signal) and blocks[3] == whole[3]
    assert blocks[2] == pytest.approx(whole[2], abs=1.0)


def test_neither_a_constant_offset_nor_breath_is_voice(tmp_path):
    random = np.random.default_rng(0)
    breath, tone = 0.003 * random.standard_normal(8000), np.sin(np.arange(8000) / 4)
    signal = 0.05 + np.concatenate([np.zeros(8000), breath, 0.2 * tone, np.zeros(8123)])
    soundfile.write(tmp_path / "a.wav", signal, 8000)
    assert speech_folders.measure(tmp_path, "a.wav")[3] == [20, 30]


def test_pauses_are_no_voice():
    signal = np.concatenate([np.zeros(8000), np.ones(4000), np.zeros(12000), 0.5 * np.ones(2400)])
    power = np.square(signal.reshape(-1, 800)).mean(1)
    assert speech_folders.voiced_segments(power).tolist() == [10, 15, 30, 33]


def test_an_index_with_measures_of_another_version_is_measured_again(tmp_path, monkeypatch):
    random = np.random.default_rng(0)
    (tmp_path / "speech" / "a").mkdir(parents=True)
    soundfile.write(tmp_path / "speech" / "a" / "u.wav", 0.1 * random.standard_normal(16000), 8000)
    index = tmp_path / "index.jsonl"
    first = speech_folders.index_folder(tmp_path / "speech", index)
    lines = index.read_text(encoding="utf-8")
    assert speech_folders.index_folder(tmp_path / "speech", index)[0].loudness == first[0].loudness
    assert index.read_text(encoding="utf-8") == lines
    monkeypatch.setattr(speech_folders, "VERSION", 1000)
    speech_folders.index_folder(tmp_path / "speech", index)
    assert len(index.read_text(encoding="utf-8")) > len(lines)


@pytest.mark.parametrize("side", [0, 1])
def test_a_voice_in_one_channel_is_what_trains_whichever_it_is(tmp_path, side):
    """The first channel was taken: of a voice on the right, its hiss."""
    random = np.random.default_rng(0)
    speech = voice(random, 16000, 8000, 120)
    hiss = 1e-3 * random.standard_normal(16000)
    signal = np.stack([speech + 0.1, hiss] if side == 0 else [hiss, speech + 0.1], 1)
    (tmp_path / "speech" / "anna").mkdir(parents=True)
    soundfile.write(tmp_path / "speech" / "anna" / "a.wav", signal, 8000, subtype="FLOAT")
    (found,) = speech_folders.index_folder(tmp_path / "speech", tmp_path / "index.jsonl")
    assert found.channel == side and found.offset == pytest.approx(0.1, abs=1e-2)
    read = speech_folders.read_recording(found, 1000, 9000)
    np.testing.assert_allclose(read, speech[1000:9000] + 0.1 - found.offset, atol=1e-6)


def test_opposite_channels_train(tmp_path):
    """Their mean is silence, so that they were left out as silent."""
    speech = voice(np.random.default_rng(0), 16000, 8000, 120)
    (tmp_path / "anna").mkdir()
    soundfile.write(tmp_path / "anna" / "a.wav", np.stack([speech, -speech], 1), 8000)
    (found,) = speech_folders.index_folder(tmp_path, tmp_path / "index.jsonl")
    assert found.channel == 0


def test_joined_and_unclosed_files_are_measured_to_their_end(tmp_path, caplog):
    speech = voice(np.random.default_rng(0), 16000, 16000, 120)
    (tmp_path / "anna").mkdir()
    for name in ("a.mp3", "a.ogg", "a.flac", "a.wav"):
        path = tmp_path / "anna" / name
        soundfile.write(path, speech, 16000)
        data = path.read_bytes()
        path.write_bytes(2 * data if name != "a.wav" else data[:40] + b"\0\0\0\0" + 2 * data[44:])
    with caplog.at_level(logging.WARNING):
        found = speech_folders.index_folder(tmp_path, tmp_path / "index.jsonl")
    assert [r.frames for r in found] == [32000] * 4 and not caplog.text
    for recording in found:
        again = speech_folders.read_recording(recording, 16000, 32000)
        first = speech_folders.read_recording(recording, 0, 16000)
        assert len(again) == 16000 and np.dot(again, first) > 0.9 * np.dot(first, first)
