"""One rule for channels and offsets."""

import numpy as np
import pytest
import soundfile

from tests.corpus import voice
from unified_sess.inference.files.recordings import Recording
from unified_sess.utils.audio import read_audio
from unified_sess.utils.audio.channels import Levels, choose_channel
from unified_sess.utils.errors import UserError

VOICE = voice(np.random.default_rng(0), 8000, 8000, 120).astype("f4")


def choice(signal, channel=None):
    levels = Levels(signal.shape[1])
    for block in np.array_split(signal, 7):
        levels.add(block)
    return choose_channel(levels, channel)


@pytest.mark.parametrize(
    "weights, taken",
    [
        ([1], None), ([1, 1], None), ([1, 0.5], None), ([1, 0], 0), ([0, 1], 1), ([1, -1], 0), ([-0.98, 1], 1),
        ([0, 0, 1, 0, 0, 0], 2), ([1, 1, 0], None),
    ],
)  # fmt: skip
def test_the_channel_that_is_heard(weights, taken):
    found = choice(VOICE[:, None] * np.array(weights))
    assert found.channel == taken and ("channel" in found.note) == (taken is not None)


def test_a_channel_by_a_number_of_any_kind():
    """A NumPy integer took the mean in silence, and so did any text."""
    signal = VOICE[:, None] * np.array([1.0, 0.5])
    assert [choice(signal, channel).channel for channel in (2, np.int64(2), np.uint8(1), "mean")] == [1, 1, 0, None]
    for channel in ("2", "left", 1.0, b"mean"):
        with pytest.raises(UserError, match="there is no channel"):
            choice(signal, channel)


def test_two_people_in_two_channels_stay_together():
    assert choice(np.stack([VOICE, np.roll(VOICE, 3000)], 1)).channel is None


def test_an_offset_is_no_power():
    """A silent channel with an offset is not the loudest."""
    found = choice(np.stack([VOICE, np.full_like(VOICE, 0.9)], 1))
    assert found.channel == 0 and found.offset == 0


@pytest.mark.parametrize("offset", [0.1, -0.4])
def test_a_constant_offset_is_taken_out_before_the_network(tmp_path, offset):
    soundfile.write(tmp_path / "a.wav", VOICE + offset, 8000, subtype="FLOAT")
    recording = Recording(tmp_path / "a.wav")
    found = np.concatenate(list(recording.blocks(8000)))
    np.testing.assert_allclose(found, VOICE - VOICE.mean(), atol=1e-5)
    assert any("offset" in note for note in recording.notes())


def test_a_recording_without_offset_is_left_as_it_is(tmp_path):
    soundfile.write(tmp_path / "a.wav", VOICE, 8000, subtype="FLOAT")
    recording = Recording(tmp_path / "a.wav")
    np.testing.assert_array_equal(np.concatenate(list(recording.blocks(8000))), VOICE)
    assert recording.notes() == []


def test_the_mean_of_a_few_samples_is_no_offset(tmp_path):
    """A recording of one sample came back as silence."""
    soundfile.write(tmp_path / "a.wav", [0.5], 8000, subtype="FLOAT")
    assert next(Recording(tmp_path / "a.wav").blocks(8000)).tolist() == [0.5]


@pytest.mark.parametrize("channel, weight", [(1, 1.0), (2, -1.0), ("mean", 0.0), (None, 1.0)])
def test_a_channel_by_number(tmp_path, channel, weight):
    soundfile.write(tmp_path / "a.wav", np.stack([VOICE, -VOICE], 1), 8000, subtype="FLOAT")
    found = np.concatenate(list(Recording(tmp_path / "a.wav", channel).blocks(8000)))
    np.testing.assert_allclose(found, weight * VOICE, atol=1e-6)
    if channel is not None:
        np.testing.assert_allclose(read_audio(tmp_path / "a.wav", channel=channel)[0], found, atol=1e-6)


@pytest.mark.parametrize("channel", [0, 3, -1])
def test_a_channel_that_is_not_there_is_one_line(tmp_path, channel):
    soundfile.write(tmp_path / "a.wav", np.stack([VOICE, VOICE], 1), 8000)
    with pytest.raises(UserError, match=f"a.wav has 2 channels: --channel {channel} is out of range"):
        Recording(tmp_path / "a.wav", channel)
