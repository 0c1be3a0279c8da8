"""Headers that lie: what pipes, recorders that died, and joined files leave is read to its true end."""

import struct

import numpy as np
import pytest
import soundfile

from tests.corpus import voice
from unified_sess.data.check import check_data
from unified_sess.data.own_folders.speech_folders import measure
from unified_sess.inference.files.recordings import Recording
from unified_sess.utils.audio import audio_info, probing, read_audio, read_blocks
from unified_sess.utils.audio.mp3 import frame_of
from unified_sess.utils.errors import UserError

RATE = 16000
VOICE = 3 * voice(np.random.default_rng(0), RATE, RATE, 130).astype("f4")
PLACEHOLDERS = [0xFFFFFFFF, 0x7FFFFFFF, 0x80000000, 0, 0x7FFFF000, 0xFFFFFFFF - 36]


def decoded(path):
    """All samples `[time]`, as every reader must see them: their lengths agree."""
    signal = np.concatenate(list(read_blocks(path)))[:, 0]
    assert audio_info(path).frames == len(signal) == len(read_audio(path)[0])
    assert sum(map(len, Recording(path).blocks(RATE))) == len(signal)
    assert measure(path.parent, path.name)[0] == len(signal)
    found = check_data(path.parent, workers=1)
    assert not found["unreadable"] and not found["truncated"]
    return signal


def written(path, signal=VOICE, **options):
    soundfile.write(path, signal, RATE, **options)
    return path.read_bytes()


@pytest.mark.parametrize("size", [*PLACEHOLDERS, "44 more", "44 less", "half"])
@pytest.mark.parametrize("form", ["WAV", "WAVEX", "RIFX", "RF64"])
def test_a_wav_with_a_placeholder_for_its_size_is_read_whole(tmp_path, form, size):
    path, order = tmp_path / "a.wav", ">" if form == "RIFX" else "<"
    options = {"format": "WAV", "endian": "BIG"} if form == "RIFX" else {"format": form}
    data = bytearray(written(path, subtype="PCM_16", **options))
    size = {"44 more": 2 * RATE + 44, "44 less": 2 * RATE - 44, "half": RATE}.get(size, size)
    place = data.find(b"data") + 4
    if form == "RF64":
        place = data.find(b"ds64") + 16
        data[place : place + 8] = struct.pack("<Q", size)
    else:
        data[place : place + 4] = struct.pack(order + "I", size)
        data[4:8] = struct.pack(order + "I", min(size + 36, 0xFFFFFFFF))
    path.write_bytes(data)
    np.testing.assert_allclose(decoded(path), VOICE, atol=1e-4)
    np.testing.assert_allclose(read_audio(path, RATE - 100, RATE)[0], VOICE[-100:], atol=1e-4)


@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_24", "FLOAT", "ULAW", "IMA_ADPCM"])
def test_an_unclosed_wav_of_every_encoding(tmp_path, subtype):
    path = tmp_path / "a.wav"
    data = bytearray(written(path, subtype=subtype))
    whole = soundfile.read(path, dtype="float32")[0]
    place = data.find(b"data") + 4
    data[place : place + 4] = bytes(4)
    path.write_bytes(data)
    np.testing.assert_array_equal(decoded(path), whole)


def test_chunks_and_tags_behind_the_samples_are_no_sound(tmp_path):
    data = written(tmp_path / "a.wav")
    chunk = b"LIST" + struct.pack("<I", 18) + b"INFOISFT" + struct.pack("<I", 6) + b"abcdef"
    for end in (chunk, b"TAG" + bytes(125), chunk + chunk):
        (tmp_path / "a.wav").write_bytes(data + end)
        assert len(decoded(tmp_path / "a.wav")) == RATE


def without_count(data):
    """An MP3 without its first frame, which holds the count of frames."""
    return data[frame_of(data[:4]).size :]


def test_an_mp3_of_variable_rate_without_a_count_is_read_whole(tmp_path):
    path = tmp_path / "a.mp3"
    signal = np.concatenate([np.zeros(2 * RATE, "f4"), VOICE, VOICE])
    path.write_bytes(without_count(written(path, signal, bitrate_mode="VARIABLE", compression_level=0.2)))
    assert abs(soundfile.info(path).frames - len(signal)) > RATE  # what its first frames promise
    found = decoded(path)
    delay = len(found) - len(signal)
    assert 0 < delay < 2400  # of the encoder, which only the first frame tells
    lag = int(np.argmax(np.correlate(found[2 * RATE : 3 * RATE], VOICE[: RATE - 2000], "valid")))
    found = found[2 * RATE + lag :][:RATE]
    assert found @ VOICE > 0.99 * np.linalg.norm(found) * np.linalg.norm(VOICE)


@pytest.mark.parametrize("extension", ["mp3", "ogg", "opus", "flac", "wav"])
def test_joined_files_are_read_one_after_the_other(tmp_path, extension):
    path = tmp_path / f"a.{extension}"
    options = {"format": "OGG", "subtype": "OPUS"} if extension == "opus" else {}
    first, second = (written(path, signal, **options) for signal in (VOICE, VOICE[::-1]))
    (tmp_path / "first").mkdir()
    (tmp_path / "first" / path.name).write_bytes(first)
    path.write_bytes(first + second)
    found = decoded(path)
    assert len(found) == 2 * RATE
    for half, expected in zip(np.split(found, 2), (VOICE, VOICE[::-1])):
        assert half @ expected > 0.9 * np.linalg.norm(half) * np.linalg.norm(expected)


def test_a_flac_of_a_pipe_does_not_know_its_length(tmp_path):
    data = bytearray(written(tmp_path / "a.flac"))
    data[21] &= 0xF0
    data[22:26] = bytes(4)
    (tmp_path / "a.flac").write_bytes(data)
    np.testing.assert_allclose(decoded(tmp_path / "a.flac"), VOICE, atol=1e-4)


@pytest.mark.parametrize("size", PLACEHOLDERS)
@pytest.mark.parametrize("form", ["AU", "AIFF"])
def test_an_au_or_aiff_with_a_placeholder_is_read_whole(tmp_path, form, size):
    path = tmp_path / f"a.{form.lower()}"
    data = bytearray(written(path, format=form, subtype="PCM_16"))
    places = [8] if form == "AU" else [4, data.find(b"COMM") + 10, data.find(b"SSND") + 4]
    for place in places:
        data[place : place + 4] = struct.pack(">I", size)
    path.write_bytes(data)
    np.testing.assert_allclose(decoded(path), VOICE, atol=1e-4)


@pytest.mark.parametrize("extension", ["wav", "flac", "mp3", "au", "aiff"])
def test_what_is_really_missing_is_said_alike(tmp_path, extension):
    path = tmp_path / f"a.{extension}"
    data = written(path)
    path.write_bytes(data[: len(data) // 2])
    info = audio_info(path)
    assert info.missing == pytest.approx((RATE - info.frames) / RATE, abs=0.08) and info.missing > 0.2
    assert any("lacks" in note for note in Recording(path).notes())
    assert measure(tmp_path, path.name)[6] == pytest.approx(info.missing)
    assert check_data(tmp_path, workers=1)["truncated"] == [path.name]
    with pytest.raises(UserError, match="truncated") as error:  # a part of a corpus has to be whole
        read_audio(path)
    assert "remove" not in str(error.value)


def test_damage_in_the_middle_costs_the_middle(tmp_path):
    signal = np.tile(VOICE, 4)
    data = bytearray(written(tmp_path / "a.flac", signal))
    data[len(data) // 2 : len(data) // 2 + 300] = bytes(300)
    (tmp_path / "a.flac").write_bytes(data)
    found = np.concatenate(list(read_blocks(tmp_path / "a.flac")))[:, 0]
    assert len(found) > 3.5 * RATE and np.abs(found[-RATE // 2 :] - signal[-RATE // 2 :]).max() < 1e-4


def test_a_file_is_decoded_once_and_again_when_it_changed(tmp_path, monkeypatch):
    path, opened = tmp_path / "a.ogg", []
    written(path)
    read = probing.read_blocks
    monkeypatch.setattr(probing, "read_blocks", lambda *a, **k: opened.append(1) or read(*a, **k))
    assert audio_info(path) == audio_info(path) and len(opened) == 1
    written(path, VOICE[:8000])
    assert audio_info(path).frames == 8000 and len(opened) == 2


def test_headers_of_wav_and_flac_are_believed_without_decoding(tmp_path, monkeypatch):
    monkeypatch.setattr(probing, "read_blocks", lambda *_: pytest.fail("decoded"))
    for extension in ("wav", "flac"):
        written(tmp_path / f"a.{extension}")
        assert audio_info(tmp_path / f"a.{extension}").frames == RATE
