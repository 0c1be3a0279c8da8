"""Conversations: constructed tracks whose right answer is known by hand."""

import csv
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import soxr
import torch

from unified_sess.evaluation import conversation_set
from unified_sess.evaluation.conversation_set import conversation_lines, find_conversations, read_conversations
from unified_sess.evaluation.conversations import (
    alone_level,
    conversation_metrics,
    diarisation_error,
    quarter_powers,
    single_talker,
    track_of_voice,
)
from unified_sess.evaluation.evaluate import evaluate_command
from unified_sess.evaluation.signals import Undefined
from unified_sess.inference.activity import activity
from unified_sess.utils.errors import UserError

RATE = 1000  # Hz


def voice(seed, seconds):
    return np.random.default_rng(seed).standard_normal(seconds * RATE)


def turns(plan):
    """Voices `[time, people]`: a letter a second, `a`, `b`, `-` nobody, `+` both."""
    a, b = voice(1, len(plan)), voice(2, len(plan))
    speaks = np.repeat([[c in "a+", c in "b+"] for c in plan], RATE, axis=0)
    return np.stack([a, b], 1) * speaks


def measured(direct, tracks, images=None, noise=0.0):
    images = direct if images is None else images
    mixture = images.sum(1) + noise * voice(9, len(direct) // RATE)
    return conversation_metrics(mixture, direct, images, tracks, RATE)


def test_perfect_tracks_in_any_order_and_scale_are_perfect():
    direct = turns("aabb-ab+a")
    found = measured(direct, 0.1 * direct[:, ::-1], noise=0.3)
    assert (found["right_track"], found["wrong_track"], found["other_tracks"]) == (100, 0, -120)
    assert found["der"] < 0.5 and found["people_found"] == 2 and found["people_right"] == 100
    assert found["si_snr"] == pytest.approx(120, abs=0.1) and found["si_snri"] > 100
    assert found["alone_others"] is None and found["reasons"] == {"alone_others": "not a recording of one person"}


def test_swapped_halves_have_half_of_the_single_talk_on_the_wrong_track():
    direct = turns("aabbaabb")
    tracks = direct.copy()
    tracks[4 * RATE :] = tracks[4 * RATE :, ::-1]
    tracks[: 4 * RATE] *= 2  # so that the first half decides on the one order
    found = measured(direct, tracks)
    assert (found["right_track"], found["wrong_track"]) == (50, 50)
    assert found["der_confused"] == pytest.approx(50, abs=5) and found["der"] == pytest.approx(50, abs=5)


@pytest.mark.parametrize("leak, right", [(7.0, 100), (5.0, 0)])
def test_a_voice_is_on_its_track_by_6_dB(leak, right):
    direct = turns("abab")
    tracks = direct + 10 ** (-leak / 20) * direct[:, ::-1]
    found = measured(direct, tracks)
    assert found["right_track"] == right and found["wrong_track"] == 0
    assert found["other_tracks"] == pytest.approx(-leak, abs=0.01)


def test_who_talks_alone_by_hand():
    direct = turns("a-b+")
    assert single_talker(direct, direct, RATE).tolist() == [0] * 4 + [-1] * 4 + [1] * 4 + [-1] * 4
    images = direct.copy()
    images[RATE : 2 * RATE, 0] = 0.01 * voice(3, 1)  # the first voice reverberates at -40 dB into the pause
    images[2 * RATE : 3 * RATE, 0] = 0.01 * voice(4, 1)  # ... and into the second voice, which is then not alone
    assert single_talker(direct, images, RATE).tolist() == [0] * 4 + [-1] * 12
    images[:, 0] *= np.repeat([1, 0.1, 0.1, 1], RATE)  # at -60 dB it is
    assert single_talker(direct, images, RATE).tolist() == [0] * 4 + [-1] * 4 + [1] * 4 + [-1] * 4


def test_frames_of_a_quiet_direct_path_do_not_count_as_talk():
    direct = turns("ab")
    direct[: RATE // 2] *= 10 ** (-35 / 20)
    assert single_talker(direct, direct, RATE).tolist() == [-1, -1, 0, 0, 1, 1, 1, 1]


def test_the_last_frame_is_left_out_unless_it_is_whole():
    assert quarter_powers(np.ones((RATE + 100, 2)), RATE).tolist() == [[1, 1]] * 4


def test_a_third_output_is_another_track_and_scores_nobody():
    direct = turns("aabb")
    tracks = np.column_stack([0.5 * direct[:, 0], direct])  # a copy of one voice on an output of its own
    found = measured(direct, tracks)
    assert found["right_track"] == 100 and found["si_snr"] == pytest.approx(120, abs=0.1)
    assert found["people_found"] == 3 and found["people_right"] == 0
    assert found["der_false"] == pytest.approx(50, abs=2)  # the copy, which speaks as long as half of all


def test_fewer_outputs_than_people_have_no_ratio_but_a_diarisation_error():
    direct = np.column_stack([turns("ab--"), np.concatenate([np.zeros(2 * RATE), voice(5, 2)])])
    found = measured(direct, direct[:, :2])
    assert found["si_snr"] is None and found["reasons"]["si_snri"] == "3 people and 2 outputs"
    assert found["right_track"] == 50 and found["wrong_track"] == 0  # what is on no track is on no wrong one
    assert found["der_missed"] == pytest.approx(50, abs=2) and found["people_found"] == 2


def test_one_person_alone_has_the_level_of_everything_on_the_other_outputs():
    direct = voice(1, 4)[:, None]
    tracks = np.column_stack([0.01 * voice(2, 4), direct[:, 0], 0.01 * voice(3, 4)])
    assert alone_level(direct, tracks, [1]) == pytest.approx(-37, abs=0.3)
    found = measured(direct, tracks)
    assert found["alone_others"] == pytest.approx(-37, abs=0.3) and found["people_right"] == 100


def test_nobody_and_silent_tracks_are_undefined_with_a_reason():
    found = measured(np.zeros((2 * RATE, 1)), np.zeros((2 * RATE, 2)), noise=0.1)
    assert found["si_snr"] is None and found["der"] is None and found["right_track"] is None
    assert found["reasons"]["der"] == "nobody speaks" and found["people_right"] == 100
    silent = measured(turns("ab"), np.zeros((2 * RATE, 2)))
    assert (silent["right_track"], silent["wrong_track"]) == (0, 0) and silent["der_missed"] == 100
    assert silent["reasons"]["other_tracks"] == "the tracks are silent"


def test_the_diarisation_error_is_that_of_its_definition():
    random = np.random.default_rng(0)
    for _ in range(20):
        truth, found = random.random((50, 3)) < 0.4, random.random((50, 4)) < 0.4
        missed = false = confused = 0
        for said, heard in zip(truth, found):
            both = sum(s and h for s, h in zip(said, heard))
            missed += max(0, said.sum() - heard.sum())
            false += max(0, heard.sum() - said.sum())
            confused += min(said.sum(), heard.sum()) - both
        error = diarisation_error(truth, found)
        assert error.total * truth.sum() == pytest.approx(missed + false + confused)
        assert error.missed * truth.sum() == pytest.approx(missed)
    with pytest.raises(Undefined):
        diarisation_error(np.zeros((5, 2), bool), np.ones((5, 2), bool))


def test_single_talk_needs_somebody_alone():
    with pytest.raises(Undefined, match="alone"):
        track_of_voice(np.full(4, -1), turns("+"), [0, 1], RATE)


def test_activity_of_references_follows_the_turns():
    frames = activity(turns("a--b"), RATE, leak_db=-np.inf)
    assert abs(frames[:, 0].sum() - 100) < 15 and abs(frames[:, 1].sum() - 100) < 15


class Separation:
    """Gives the references of a set, swapped, as a model would."""

    sample_rate, num_spks, config = RATE, 2, None

    def separate_file(self, path, passes=1, voices=None):
        folder = path.parents[1]
        files = [folder / f"s{k}" / path.name for k in (2, 1)]
        tracks = [soundfile.read(f)[0] if f.exists() else np.zeros(soundfile.info(path).frames) for f in files]
        return torch.tensor(np.stack(tracks, 1), dtype=torch.float32)[None]


@pytest.fixture
def conversation_folder(tmp_path):
    """Two recordings of two, one of one person."""
    part = tmp_path / "Conversations" / "wav1k" / "test"
    rows = []
    for number, plan in enumerate(("aabb-+", "abab-+", "aa-a")):
        direct = 0.1 * turns(plan)
        people = 2 if "b" in plan else 1
        files = {"mix_both": direct.sum(1) + 0.001 * voice(8, len(plan))}
        files |= {f"s{k + 1}": direct[:, k] for k in range(people)}
        for name, signal in files.items():
            (part / name).mkdir(parents=True, exist_ok=True)
            soundfile.write(part / name / f"c{number}.wav", signal, RATE, subtype="FLOAT")
        rows.append([f"c{number}", people, "dry", "14", "19" if people == 2 else "", ""])
    with open(part / "conversations.csv", "w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([["id", "people", "room", "speaker_1", "speaker_2", "speaker_3"], *rows])
    return tmp_path / "Conversations"


def test_the_command_measures_a_set_of_conversations(conversation_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(
        "unified_sess.inference.separation.UnifiedSeparation.from_pretrained", lambda *_, **__: Separation()
    )
    monkeypatch.setattr("unified_sess.evaluation.conversation_set.write_report", lambda *_: None)
    with pytest.raises(UserError, match="passes must be from 1"):
        evaluate_command(conversation_folder, output=tmp_path / "none", progress=False, passes=6)
    assert not (tmp_path / "none").exists()
    results = evaluate_command(conversation_folder, output=tmp_path / "out", progress=False)
    assert [row["people"] for row in results.rows] == ["2 people", "2 people", "1 person"]
    means = results.means()
    assert means["right_track"] == 100 and means["people_right"] == 100 and means["alone_others"] == -120
    lines = conversation_lines(results)
    assert lines[0].startswith("all, 3 conversations: SI-SDRi") and lines[1].startswith(
        "1 person, dry, 1 conversation: "
    )
    table = list(csv.DictReader((tmp_path / "out" / "test_results.csv").open(encoding="utf-8")))
    assert table[0]["speakers"] == "14 19" and table[-1]["ID"] == "mean"


def test_a_model_of_another_rate_is_measured_at_the_rate_of_the_set(conversation_folder, tmp_path, monkeypatch):
    class AtTwiceTheRate(Separation):
        sample_rate = 2 * RATE

        def separate_file(self, path, passes=1, voices=None):
            return torch.from_numpy(soxr.resample(super().separate_file(path)[0].numpy(), 1, 2)).unsqueeze(0)

    monkeypatch.setattr(
        "unified_sess.inference.separation.UnifiedSeparation.from_pretrained", lambda *_, **__: AtTwiceTheRate()
    )
    monkeypatch.setattr("unified_sess.evaluation.conversation_set.write_report", lambda *_: None)
    results = evaluate_command(conversation_folder, output=tmp_path / "out", progress=False)
    assert results.means()["right_track"] > 99 and results.details["sample_rate"] == RATE


def test_who_tells_voices_apart_is_handed_on(conversation_folder, tmp_path, monkeypatch):
    """To every separation, and to the title of the report."""
    heard, titles, voices = [], [], SimpleNamespace(name="folder/net.onnx", digest="0")

    class Hearing(Separation):
        silence_threshold = -40.0

        def separate_file(self, path, passes=1, voices=None):
            heard.append(voices)
            return super().separate_file(path)

    monkeypatch.setattr(
        "unified_sess.inference.separation.UnifiedSeparation.from_pretrained", lambda *_, **__: Hearing()
    )
    monkeypatch.setattr("unified_sess.evaluation.conversation_set.write_report", lambda *said: titles.append(said[1]))
    evaluate_command(conversation_folder, output=tmp_path / "out", progress=False, voices=voices)
    assert heard == 3 * [voices] and titles == ["shipped model on Conversations, voices by net.onnx"]


def test_results_of_other_voices_are_not_gone_on_with(conversation_folder, monkeypatch):
    """Regression: a stopped evaluation went on with what another network of the voices had given."""
    separation, rows = torch.nn.Module(), read_conversations(conversation_folder / "wav1k" / "test")
    separation.mods = torch.nn.ModuleDict({"encoder": torch.nn.Linear(1, 1)})
    found = {conversation_set._fingerprint(separation, rows, 1, None)}
    monkeypatch.setattr(conversation_set, "voices_digest", lambda voices: "another")
    found.add(conversation_set._fingerprint(separation, rows, 1, None))
    assert len(found) == 2 and None not in found


def test_a_set_at_another_rate_or_without_its_table_is_named(conversation_folder):
    with pytest.raises(UserError, match="wav1k and the model takes 16000 Hz"):
        find_conversations(conversation_folder, 16000)
    with pytest.raises(UserError, match="no dev or valid part"):
        find_conversations(conversation_folder, RATE, "valid")
    part = find_conversations(conversation_folder, RATE)
    (part / "conversations.csv").write_text("name,people\na,2\n", encoding="utf-8")
    with pytest.raises(UserError, match="no table of conversations"):
        read_conversations(part)
    assert find_conversations(part / "mix_both", RATE) is None
