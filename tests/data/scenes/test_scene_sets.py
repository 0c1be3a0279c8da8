"""Sets of scenes on disk: a corpus that evaluation finds, conversations whose parts add up, rooms of no other part."""

import csv

import numpy as np
import pytest
import soundfile

from unified_sess.data.corpora import find_corpus
from unified_sess.data.scenes import scene_sets
from unified_sess.data.scenes.scene_sets import ScenePart, make_conversations, make_rooms
from unified_sess.utils.errors import UserError


@pytest.fixture
def parts(folders, monkeypatch):
    speech, noise, _ = folders
    monkeypatch.setattr(scene_sets, "ROOM_COUNT", 3)
    monkeypatch.setattr(scene_sets, "ROOM_SECONDS", (1.0, 1.5))

    def parts(*counts):
        return {"dev": ScenePart(speech, noise, 1, counts), "test": ScenePart(speech, noise, 2, counts)}

    return parts


def read_table(path):
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_rooms_are_a_corpus_in_librimix_layout(parts, folders, tmp_path):
    root = make_rooms(tmp_path / "Rooms", parts(3), [8000, 16000], folders[2], workers=1)
    for rate in (8000, 16000):
        corpus = find_corpus(root, rate, num_spks=2, parts=("valid", "test"))
        assert corpus.splits == {"valid": "dev", "test": "test"}
    rooms = {part: read_table(root / "wav8k/min" / part / "rooms.csv") for part in ("dev", "test")}
    assert not {row["rt60"] for row in rooms["dev"]} & {row["rt60"] for row in rooms["test"]}
    for row in rooms["test"]:
        folder = root / "wav8k/min/test"
        clean, first, second = (soundfile.read(folder / k / f"{row['id']}.wav")[0] for k in ("mix_clean", "s1", "s2"))
        np.testing.assert_allclose(clean, first + second, atol=1e-4)
    made = {path: path.stat().st_mtime_ns for path in root.rglob("*.wav")}
    make_rooms(tmp_path / "Rooms", parts(3), [8000, 16000], folders[2], workers=1)
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*.wav")} == made
    with pytest.raises(UserError, match="made from other recordings or settings"):
        make_rooms(tmp_path / "Rooms", parts(2), [8000, 16000], folders[2], workers=1)


def test_the_parts_of_a_conversation_add_up(parts, folders, tmp_path):
    test = {"test": parts(2, 2)["test"]}
    root = make_conversations(tmp_path / "Conversations", test, [8000], folders[2], workers=1, seconds=12)
    folder = root / "wav8k" / "test"
    rows = read_table(folder / "conversations.csv")
    assert [(row["people"], row["room"]) for row in rows] == [("2", "dry"), ("2", "room"), ("3", "dry"), ("3", "room")]
    for row in rows:
        people = int(row["people"])
        assert len({row[f"speaker_{k}"] for k in range(1, 4)} - {""}) == people
        signal, rate = soundfile.read(folder / "mix_both" / f"{row['id']}.wav")
        assert len(signal) == 12 * 8000 == 12 * rate
        place = folder / "reverberant" if row["room"] == "room" else folder
        images = [soundfile.read(place / f"s{k + 1}" / f"{row['id']}.wav")[0] for k in range(people)]
        noise, _ = soundfile.read(folder / "noise" / f"{row['id']}.wav")
        np.testing.assert_allclose(signal, sum(images) + noise, atol=2e-4)
        assert 4 < float(row["snr"]) < 21 and all(np.abs(image).max() > 0.01 for image in images)


def test_a_full_disk_leaves_no_half_set(parts, folders, tmp_path, monkeypatch):
    def full(*args, **kwargs):
        raise UserError("cannot write a.wav: is the disk full?")

    monkeypatch.setattr(scene_sets, "write_audio", full)
    with pytest.raises(UserError, match="is the disk full"):
        make_rooms(tmp_path / "Rooms", parts(1), [8000], folders[2], workers=1)
    assert not list(tmp_path.rglob("*.wav")) and not (tmp_path / "Rooms").exists()
