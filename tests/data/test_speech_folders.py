"""Indexing folders of speech."""

import pytest

from tests.data.folders import make_folders
from unified_sess.data import speech_folders
from unified_sess.errors import UserError


def test_speakers_of_paths():
    assert speech_folders.speaker_of("train/19/198/19-198-0001.flac") == "19"
    assert speech_folders.speaker_of("anna/deep/x.wav") == "anna"
    assert speech_folders.speaker_of("x.wav", {"x.wav": "bert"}) == "bert"
    with pytest.raises(UserError, match="no speaker folder"):
        speech_folders.speaker_of("x.wav")


def test_measured_once(tmp_path, monkeypatch):
    speech, _ = make_folders(tmp_path)
    (speech / "train-clean-100" / "10" / "1" / "broken.wav").write_bytes(b"no audio")
    first = speech_folders.index_folder(speech, tmp_path / "index.jsonl")
    assert len(first) == 8 and {r.speaker for r in first} == {"10", "11", "12", "13"}
    monkeypatch.setattr(speech_folders, "parallel_map", None)  # would fail if anything were measured again
    again = speech_folders.index_folder(speech, tmp_path / "index.jsonl")
    assert [str(r) for r in again] == [str(r) for r in first]
