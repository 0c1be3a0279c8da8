"""Turns: everybody speaks, nobody over themselves; overlap and pauses are as asked; cuts are in pauses."""

import numpy as np
import pytest

from unified_sess.data.own_folders.speech_folders import IndexedRecording
from unified_sess.data.scenes.options import SceneOptions
from unified_sess.data.scenes.turns import MARGIN, cut_at_pauses, draw_turns


def talker(name):
    activity = np.array([[0.2, 1.1], [1.3, 2.9], [3.2, 3.3], [3.6, 6.0], [6.4, 9.5]], np.float32)
    return lambda: IndexedRecording(name, name, 160000, 16000, -30.0, activity)


def draw(seed, people=2, seconds=30.0, **options):
    options = SceneOptions(turns=1, **options)
    talkers = [talker(str(k)) for k in range(people)]
    return draw_turns(np.random.default_rng(seed), talkers, seconds, options, [1.0] * people)


def activity(pieces, people, seconds):
    """Who speaks in frames of 10 ms, `[people, frames]`."""
    active = np.zeros((people, round(seconds * 100)), int)
    for piece in pieces:
        active[piece.person, max(0, round(piece.at * 100)) : max(0, round(piece.until * 100))] += 1
    return active


@pytest.mark.parametrize("people", [1, 2, 3])
@pytest.mark.parametrize("seconds", [2.0, 30.0])
def test_everybody_speaks_and_nobody_over_themselves(people, seconds):
    for seed in range(20):
        active = activity(draw(seed, people, seconds, backchannels=0.5), people, seconds)
        assert active.max() == 1 and active.sum(1).min() >= 20


def test_overlap_and_pauses():
    def share(low, high, pause=0.4):
        counts = [activity(draw(seed, overlap=(low, high), pause=pause), 2, 30.0).sum(0) for seed in range(20)]
        return np.mean([(c > 1).sum() / (c > 0).sum() for c in counts]), np.mean([(c == 0).mean() for c in counts])

    none, some, whole = share(0, 0), share(0, 1), share(1, 1)
    assert none[0] == 0 and 0.1 < some[0] < 0.5 and whole[0] > 0.6
    assert share(0, 0, pause=1.5)[1] > none[1] > 0.02


def test_backchannels_are_short_and_come_into_turns():
    without, added = draw(0, overlap=(0, 0)), draw(0, overlap=(0, 0), backchannels=1.0)
    short = [piece for piece in added if piece.until - piece.at < 1.3]
    assert len(short) > len(without) / 2
    assert (activity(added, 2, 30.0).sum(0) > 1).any()


def test_turns_are_cut_at_pauses():
    for seed in range(50):
        recording = talker("a")()
        wanted = np.random.default_rng(seed).uniform(0.5, 4)
        begin, end = cut_at_pauses(np.random.default_rng(seed), recording, wanted)
        assert 0 <= begin < end <= 10 and end - begin <= 1.5 * wanted + 2 * MARGIN + 1e-6
        assert np.isclose(recording.activity[:, 0], begin + MARGIN).any()
        assert np.isclose(recording.activity[:, 1], end - MARGIN).any() or end - begin == pytest.approx(
            wanted + 2 * MARGIN
        )
