"""From a recording to tracks: a network that puts everybody on every track, and the voices that are told apart."""

import numpy as np
import pytest
import soundfile
import soxr

from tests.inference.stub import GainModel
from unified_sess.data.demo.speech import read_voices
from unified_sess.inference.files.recordings import Recording
from unified_sess.inference.files.tracks import TrackOptions, separate_to_tracks

TURN = 3.0  # s


def conversation(path, people, rate=8000):
    """Writes turns of `TURN` s by turns; returns how many."""
    said = []
    for person in people:
        parts = [soundfile.read(file, dtype="float32") for file in person.files]
        signal = np.concatenate([soxr.resample(part, own, rate) for part, own in parts])
        said.append(np.split(signal, range(int(TURN * rate), len(signal), int(TURN * rate)))[:-1])
    turns = [turn for both in zip(*(2 * list(each) for each in said), strict=False) for turn in both]
    signal = np.concatenate([0.05 * turn / np.sqrt(np.square(turn).mean()) for turn in turns])
    soundfile.write(path, signal + 1e-4 * np.random.default_rng(0).standard_normal(len(signal)), rate)
    return len(turns)


def levels(tracks, turns, rate=8000):
    """Energy of every turn, without half a second at its ends, on each track `[turns, tracks]`."""
    parts = np.split(tracks[: turns * int(TURN * rate)], turns)
    return np.array([np.square(part[rate // 2 : -rate // 2]).sum(0) for part in parts])


@pytest.fixture
def pair():
    """A woman and a man."""
    people = [person for person in read_voices()["train"] if len(person.files) >= 2]
    return [next(person for person in people if person.sex == sex) for sex in "FM"]


def test_every_turn_is_on_the_track_of_its_speaker(tmp_path, pair):
    turns = conversation(tmp_path / "a.wav", pair)
    assert turns >= 8
    model = GainModel(0.6, 0.4, threshold=-40.0)
    found = levels(model.separate_file(tmp_path / "a.wav")[0].numpy(), turns)
    own = found.argmax(1)
    assert len(set(own[::2])) == len(set(own[1::2])) == 1 and own[0] != own[1]
    assert (found.min(1) < 1e-3 * found.max(1)).mean() >= 0.8


@pytest.mark.parametrize("threshold, options", [(-40.0, TrackOptions(fixed_order=True)), (None, TrackOptions())])
def test_the_networks_tracks_stay(tmp_path, pair, threshold, options):
    """On request, and where sources are free in level, so that they do not add up to their voice."""
    turns = conversation(tmp_path / "a.wav", pair)
    with (tmp_path / "tracks").open("w+b") as file:
        tracks = separate_to_tracks(
            GainModel(0.6, 0.4, threshold=threshold), Recording(tmp_path / "a.wav"), file, 8000, options
        )
        found = levels(np.concatenate(list(tracks.blocks())), turns)
    np.testing.assert_allclose(found[:, 1] / found[:, 0], (0.4 / 0.6) ** 2, rtol=1e-3)


def test_one_person_is_not_torn_apart(tmp_path, pair):
    turns = conversation(tmp_path / "a.wav", [pair[0], pair[0]])
    found = levels(GainModel(0.6, 0.4, threshold=-40.0).separate_file(tmp_path / "a.wav")[0].numpy(), turns)
    assert len(set(found.argmax(1))) == 1


def test_a_few_seconds_of_one_person_are_on_one_track(tmp_path, pair):
    """As the network has them where several people are known to talk."""
    conversation(tmp_path / "long.wav", [pair[0], pair[0]])
    signal, rate = soundfile.read(tmp_path / "long.wav", dtype="float32")
    soundfile.write(tmp_path / "a.wav", signal[: 4 * rate], rate)
    found = {}
    for several in (False, True):
        with (tmp_path / "tracks").open("w+b") as file:
            options = TrackOptions(several=several)
            tracks = separate_to_tracks(
                GainModel(0.6, 0.4, threshold=-40.0), Recording(tmp_path / "a.wav"), file, rate, options
            )
            found[several] = np.concatenate(list(tracks.blocks()))
    np.testing.assert_allclose(found[False][:, 0], signal[: 4 * rate], atol=1e-4)
    assert not found[False][:, 1].any()
    np.testing.assert_allclose(found[True][:, 1], 0.4 * signal[: 4 * rate], atol=1e-4)


def test_what_is_written_adds_up(tmp_path, pair):
    """Moving a voice between tracks leaves the sum of people and noise what it was."""
    conversation(tmp_path / "a.wav", pair)
    with (tmp_path / "tracks").open("w+b") as file:
        options = TrackOptions(enhanced=True, recorded=True, loudness=True)
        model = GainModel(0.6, 0.4, threshold=-40.0)
        tracks = separate_to_tracks(model, Recording(tmp_path / "a.wav"), file, 8000, options, folder=tmp_path)
        first, second, enhanced, recorded = np.concatenate(list(tracks.blocks())).T
    assert not np.allclose(first, 0.6 * recorded, atol=1e-3)
    np.testing.assert_allclose(first + second, enhanced, atol=1e-5)
    np.testing.assert_allclose(recorded, soundfile.read(tmp_path / "a.wav")[0], atol=1e-4)
    assert not list(tmp_path.glob("tmp*"))
