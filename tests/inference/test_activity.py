"""Who speaks when: properties of the detector that `--rttm` and the diarisation error share."""

import numpy as np
import pytest

from unified_sess.inference.activity import (
    FRAME,
    FramePowers,
    active_tracks,
    activity,
    frame_powers,
    segments,
)

RATE = 8000


def talk(seconds, seed=0, rate=RATE):
    """Noise with the syllables of speech, `[time]`."""
    generator = np.random.default_rng(seed)
    time = np.arange(int(seconds * rate)) / rate
    return (0.1 * generator.standard_normal(len(time)) * np.abs(np.sin(2 * np.pi * 2 * time))).astype("f4")


def turns(*spans, seconds=10.0):
    """Tracks `[time, speakers]` in which each speaker talks during one span `(start, end)` in s."""
    tracks = np.zeros((int(seconds * RATE), len(spans)), np.float32)
    for k, (start, end) in enumerate(spans):
        tracks[int(start * RATE) : int(end * RATE), k] = talk(end - start, k)
    return tracks


def truth(*spans, seconds=10.0):
    """The frames `[frames, speakers]` of `turns`."""
    times = (np.arange(round(seconds / FRAME)) + 0.5) * FRAME
    return np.stack([(times >= start) & (times < end) for start, end in spans], axis=1)


@pytest.mark.parametrize("spans", [[(1, 4), (5, 9)], [(0, 6), (4, 10)], [(2, 3), (2, 3)], [(1, 9), (3, 5), (8, 10)]])
def test_turns_and_overlaps_are_found(spans):
    wrong = activity(turns(*spans), RATE) != truth(*spans)
    assert wrong.mean() < 0.02 * len(spans)  # edges move by at most the smoothing


def test_what_leaks_from_one_track_into_another_is_not_speech():
    spans = [(1, 4), (5, 9)]
    tracks = turns(*spans)
    leaky = tracks + 0.15 * tracks[:, ::-1]  # -16 dB
    assert (activity(leaky, RATE) != truth(*spans)).mean() < 0.04
    everything = activity(leaky, RATE, leak_db=-np.inf)
    assert everything[:, 0].mean() > 0.6  # the option that references use


def test_noise_that_stays_in_a_track_is_not_speech():
    spans = [(1, 4), (5, 9)]
    noisy = turns(*spans) + 0.004 * np.random.default_rng(1).standard_normal((80000, 2)).astype("f4")
    assert (activity(noisy, RATE) != truth(*spans)).mean() < 0.04


def test_somebody_who_never_pauses_speaks_all_the_time():
    assert activity(turns((0, 10)), RATE).all()
    assert activity(0.1 * np.ones((4000, 1)), RATE).all()


@pytest.mark.parametrize("gain", [1e-4, 1.0, 1e3])
def test_level_and_order_of_the_tracks_do_not_matter(gain):
    tracks = turns((0, 6), (4, 10), (2, 3))
    expected = activity(tracks, RATE)
    np.testing.assert_array_equal(activity(np.float32(gain) * tracks, RATE), expected)
    np.testing.assert_array_equal(activity(tracks[:, ::-1], RATE)[:, ::-1], expected)


@pytest.mark.parametrize("rate", [100, 8000, 11025, 44100])
@pytest.mark.parametrize("length", [1, 79, 80, 81, 4410, 10001])
def test_a_stream_has_the_frames_of_the_whole(rate, length):
    signal = np.random.default_rng(0).standard_normal((length, 2))
    powers = FramePowers(rate)
    for block in np.array_split(signal, min(length, 7)):
        powers.add(block)
    whole = frame_powers(signal, rate)
    np.testing.assert_allclose(powers.finish(), whole, rtol=1e-6)
    assert len(whole) == pytest.approx(np.ceil(length / (FRAME * rate)), abs=1)
    if rate == 8000:  # each frame is the mean square of its 80 samples
        expected = [np.square(signal[k : k + 80]).mean(0) for k in range(0, length, 80)]
        np.testing.assert_allclose(whole, expected, rtol=1e-5)


def test_short_pauses_are_speech_and_short_clicks_are_not():
    tracks = turns((1, 4))
    tracks[int(2 * RATE) : int(2.25 * RATE)] = 0
    tracks[int(7 * RATE) : int(7 * RATE) + 20] = 0.01
    frames = activity(tracks, RATE)[:, 0]
    assert frames[110:390].all() and not frames[450:].any()


def test_silence_is_nobody():
    assert not activity(np.zeros((8000, 2)), RATE).any()
    assert activity(np.zeros((0, 2)), RATE).shape == (0, 2)
    assert not active_tracks(frame_powers(np.zeros((8000, 2)), RATE)).any()


def test_tracks_are_active_against_the_mixture():
    tracks = np.stack([talk(3), 1e-3 * talk(3, 1), 0.1 * talk(3, 2)], axis=1)
    powers = frame_powers(tracks, RATE)
    assert active_tracks(powers).tolist() == [True, False, True]
    assert active_tracks(powers, threshold_db=-10).tolist() == [True, False, False]
    loud = frame_powers(1e3 * tracks[:, :1], RATE)[:, 0]
    assert not active_tracks(powers, loud).any()  # nobody: all of it is noise


def test_what_is_quiet_and_never_has_a_turn_is_an_echo_for_networks_that_know_silence():
    alone = talk(10)
    echo = np.stack([alone, 0.25 * alone], axis=1)
    assert active_tracks(frame_powers(echo, RATE), threshold_db=-40).tolist() == [True, False]
    assert active_tracks(frame_powers(echo, RATE)).all()
    loud = np.stack([alone, 0.6 * alone], axis=1)  # 4 dB below: two who always speak at once?
    assert active_tracks(frame_powers(loud, RATE), threshold_db=-40).all()
    far = echo.copy()
    far[6 * RATE : 7 * RATE, 0] = 0  # somebody far away has the floor for a second
    assert active_tracks(frame_powers(far, RATE), threshold_db=-40).all()


def test_a_sentence_in_an_hour_is_somebody():
    powers = np.full((360000, 2), 1e-12, np.float32)
    powers[:, 0] = 1e-2
    powers[5000:5300, 1] = 1e-2  # -31 dB over the hour
    assert active_tracks(powers, threshold_db=-20).all()


def test_segments_are_the_frames():
    frames = np.random.default_rng(0).random((200, 3)) > 0.4
    again = np.zeros_like(frames)
    starts = []
    for speaker, start, duration in segments(frames):
        starts.append(start)
        again[round(start / FRAME) : round((start + duration) / FRAME), speaker] = True
    np.testing.assert_array_equal(again, frames)
    assert starts == sorted(starts)
