"""Recordings of phones and meetings, through PyAV."""

import numpy as np
import pytest

from unified_sess.inference.files.recordings import Recording
from unified_sess.utils.audio import audio_info, decoding, media, read_blocks
from unified_sess.utils.errors import UserError

av = pytest.importorskip("av")
RATES = {"libopus": 48000, "libopencore_amrnb": 8000}


def tone(pitch, rate):
    return (0.3 * np.sin(2 * np.pi * pitch * np.arange(rate) / rate)).astype("f4")


def write(path, codec, pitches=(300,), options=None):
    """A container with one audio stream of a second a pitch."""
    rate = RATES.get(codec, 16000)
    with av.open(str(path), "w", options=options or {}) as container:
        streams = [container.add_stream(codec, rate=rate, layout="mono") for _ in pitches]
        for stream, pitch in zip(streams, pitches):
            frame = av.AudioFrame.from_ndarray(tone(pitch, rate)[None], format="fltp", layout="mono")
            frame.rate, frame.pts = rate, 0
            resampler = av.AudioResampler(stream.codec_context.format.name, "mono", rate)
            fifo = av.AudioFifo()
            for piece in resampler.resample(frame):
                fifo.write(piece)
            size = stream.codec_context.frame_size or 1024
            while (piece := fifo.read(min(size, fifo.samples or 1), partial=True)) is not None:
                container.mux(stream.encode(piece))
            container.mux(stream.encode(None))


def pitch_of(path, stream=None):
    signal = np.concatenate(list(read_blocks(path, stream)))[:, 0]
    rate = audio_info(path, stream).sample_rate
    assert len(signal) == audio_info(path, stream).frames == pytest.approx(rate, abs=0.2 * rate)
    return np.abs(np.fft.rfft(signal * np.hanning(len(signal)))).argmax() * rate / len(signal)


@pytest.mark.parametrize(
    "name, codec, depth",
    [
        ("a.m4a", "aac", "AAC"), ("a.mp4", "aac", "AAC"), ("a.aac", "aac", "AAC"), ("a.mov", "pcm_s16le", "PCM_16"),
        ("a.webm", "libopus", "OPUS"), ("a.mkv", "flac", None), ("a.M4A", "alac", None),
        ("a.amr", "libopencore_amrnb", "AMRNB"), ("a.3gp", "libopencore_amrnb", "AMRNB"),
    ],
)  # fmt: skip
def test_phones_and_meetings(tmp_path, name, codec, depth):
    path = tmp_path / name
    try:
        write(path, codec)
    except av.codec.codec.UnknownCodecError:
        pytest.skip(f"this PyAV has no {codec}")
    assert pitch_of(path) == pytest.approx(300, abs=2)
    if depth:
        assert audio_info(path).subtype.startswith(depth)
    rate = audio_info(path).sample_rate
    assert sum(map(len, Recording(path).blocks(rate))) == audio_info(path).frames


def test_another_stream(tmp_path):
    write(tmp_path / "a.mp4", "aac", (300, 700))
    assert [round(pitch_of(tmp_path / "a.mp4", n), -1) for n in (None, 1, 2)] == [300, 300, 700]
    for number, words in ((3, "has 2 audio streams: --stream 3 is out of range"), (0, "counted from 1")):
        with pytest.raises(UserError, match=words):
            Recording(tmp_path / "a.mp4", stream=number)


def test_a_film_without_sound_is_one_line(tmp_path):
    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width = stream.height = 64
        for _ in range(3):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8), format="rgb24")))
        container.mux(stream.encode(None))
    with pytest.raises(UserError, match=r"a\.mp4 has no audio stream"):
        Recording(tmp_path / "a.mp4")


def test_a_protected_file_is_one_line(tmp_path):
    key = {"encryption_scheme": "cenc-aes-ctr", "encryption_key": "0" * 32, "encryption_kid": "1" * 32}
    write(tmp_path / "a.mp4", "aac", options=key)
    with pytest.raises(UserError, match=r"a\.mp4 is protected"):
        list(Recording(tmp_path / "a.mp4").blocks(8000))


def test_without_the_extra_one_line_names_it(tmp_path, monkeypatch):
    write(tmp_path / "a.m4a", "aac")
    for module in (media, decoding):
        monkeypatch.setattr(module, "media_available", lambda: False)
    with pytest.raises(UserError, match=r"a\.m4a .*pip install av.*`media`") as error:
        Recording(tmp_path / "a.m4a")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["a.mp4", "a.m4a", "a.wav"])
def test_a_playlist_opens_no_other_file(tmp_path, name):
    write(tmp_path / "other.m4a", "aac")
    (tmp_path / name).write_text(f"#EXTM3U\n#EXTINF:1,\n{tmp_path / 'other.m4a'}\n", encoding="utf-8")
    with pytest.raises(UserError, match="cannot read"):
        Recording(tmp_path / name)


def test_the_name_does_not_tell_the_kind(tmp_path):
    write(tmp_path / "a.m4a", "aac")
    (tmp_path / "a.m4a").rename(tmp_path / "a.wav")
    assert pitch_of(tmp_path / "a.wav") == pytest.approx(300, abs=2)
