"""A network of the user's choice tells voices apart, and every file that holds none is one line."""

import sys

import numpy as np
import pytest
import soundfile
import torch
import torchaudio

from tests.inference.stub import GainModel
from tests.inference.voices.speaker_file import buzz, speaker_file
from unified_sess.cli import main
from unified_sess.inference.files.separate_files import Options, separate_files
from unified_sess.inference.voices import turns
from unified_sess.inference.voices.encoder import FRAMES, UNIT
from unified_sess.inference.voices.evidence import CHUNK, Listener, voices_digest
from unified_sess.inference.voices.speakers import BANDS, EVERY, SpeakerNetwork
from unified_sess.model_io.model_folder import SHIPPED
from unified_sess.utils.errors import UserError

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
pytest.importorskip("kaldi_native_fbank")
RATE = 16000


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    return SpeakerNetwork.load(speaker_file(tmp_path_factory.mktemp("speakers") / "variance.onnx"))


def refused(source, why):
    with pytest.raises(UserError, match=why) as error:
        SpeakerNetwork.load(source)
    assert "\n" not in str(error.value) and str(source) in str(error.value)


def test_features_are_those_of_kaldi(network):
    """As torchaudio computes them."""
    signal = np.random.default_rng(0).standard_normal(RATE).astype(np.float32) * 0.1
    expected = torchaudio.compliance.kaldi.fbank(torch.from_numpy(signal)[None], num_mel_bins=BANDS, dither=0.0)
    np.testing.assert_allclose(network._features(signal, len(expected)), expected, atol=1e-3)


@pytest.mark.parametrize("rate", [8000, 16000, 44100])
def test_voices_are_told_apart_where_they_are(network, rate):
    """From 16 to 32 units another voice: embeddings say so, at any rate, and `EVERY` units share one."""
    unit = FRAMES * round(UNIT / FRAMES * rate)
    low, high = (buzz(*band, 16 * unit / rate, rate) for band in ((300, 900), (1500, 3000)))
    signal = np.concatenate((low, high, low)) + 1e-3 * np.random.default_rng(0).standard_normal(48 * unit)
    found = network.embeddings(signal.astype(np.float32)[None], rate, unit, 4, 40)[0]
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, rtol=1e-5)
    np.testing.assert_array_equal(found[::EVERY], found[1::EVERY])
    another = found @ found[20] > found @ found[0]
    assert another[14:26].all() and not another[:8].any() and not another[32:].any()
    assert abs(4 + np.flatnonzero(another).mean() - 23.5) <= 1


@pytest.mark.parametrize(
    ("gives", "why"),
    [("zeros", "gives no direction"), ("NaN", "gives no direction"), ("one direction", "one direction for all")],
)
def test_networks_that_tell_nothing_apart_are_refused(tmp_path, gives, why):
    """They were taken, and two people became one without a word."""
    refused(speaker_file(tmp_path / "a.onnx", gives=gives), why)


@pytest.mark.parametrize("count", [1, 3, 10, 21])
def test_a_fixed_number_of_spans_at_a_time(network, tmp_path, count):
    """A network of four spans at a time passed the trial and failed in use."""
    fixed = SpeakerNetwork.load(speaker_file(tmp_path / "four.onnx", (("x", (4, "frames", BANDS)),)))
    signal = buzz(300, 900, 8, RATE)[None]
    np.testing.assert_allclose(
        fixed.embeddings(signal, RATE, 4096, 0, count), network.embeddings(signal, RATE, 4096, 0, count), atol=1e-5
    )


def test_half_precision_is_made_single(network, tmp_path):
    half = SpeakerNetwork.load(speaker_file(tmp_path / "half.onnx", gives="half precision"))
    signal = buzz(300, 900, 8, RATE)[None]
    found, expected = (each.embeddings(signal, RATE, 4096, 0, 20) for each in (half, network))
    assert found.dtype == expected.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=2e-3)


def test_networks_that_take_one_span_at_a_time(network, tmp_path):
    single = SpeakerNetwork.load(speaker_file(tmp_path / "a.onnx", (("feats", (1, "frames", BANDS)),)))
    signal = buzz(300, 900, 4, RATE)[None]
    found = [each.embeddings(signal, RATE, 4096, 4, 8) for each in (network, single)]
    np.testing.assert_allclose(*found, atol=1e-6)


def test_what_is_no_number_is_no_voice(network, monkeypatch):
    """As of networks that divide by the deviation of silence."""
    monkeypatch.setattr(network, "_run", lambda features: np.full((len(features), BANDS), np.nan, np.float32))
    assert (network.embeddings(np.zeros((1, 4 * RATE), np.float32), RATE, 4096, 4, 8) == 0).all()


def test_evidence_holds_both_networks(network):
    tracks = np.stack([buzz(300, 900, 5, RATE), buzz(1500, 3000, 5, RATE)], axis=1)
    found = []
    for speakers in (None, network):
        listener = Listener(2, RATE, speakers)
        listener.add(tracks)
        found.append(listener.finish())
    alone, both = found
    np.testing.assert_array_equal(both.shipped, alone.embeddings)
    assert alone.shipped is None and both.embeddings.shape == (3, 20, BANDS)
    for one, other in zip(alone[1:5], both[1:5], strict=True):
        np.testing.assert_array_equal(one, other)


def test_chunks_leave_no_seam_and_silence_has_no_voice(network):
    unit = Listener(2, RATE).encoder.unit
    tracks = np.zeros((unit * 2 * CHUNK, 2), np.float32)
    tracks[:, 0] = np.tile(buzz(300, 900, 10 * unit / RATE, RATE), CHUNK // 5)
    listener = Listener(2, RATE, network)
    for piece in np.array_split(tracks, 7):
        listener.add(piece)
    found = listener.finish().embeddings
    np.testing.assert_allclose(found[0, CHUNK - 6 : CHUNK + 4], found[0, CHUNK - 16 : CHUNK - 6], atol=2e-2)
    assert (found[1] == 0).all() and (np.abs(found[0]).max(1) > 0).all()


def test_the_digest_knows_the_network(network, tmp_path):
    other = SpeakerNetwork.load(speaker_file(tmp_path / "a.onnx", (("other", ("batch", "frames", BANDS)),)))
    assert len({voices_digest(), voices_digest(network), voices_digest(other)}) == 3


def test_files_that_hold_no_such_network(tmp_path):
    (tmp_path / "text.onnx").write_text("no network")
    refused(tmp_path / "text.onnx", "is no ONNX file")
    refused(tmp_path / "missing.onnx", "cannot read .*No such file")
    refused(tmp_path, "cannot read .*Is a directory")
    refused(SHIPPED / "model.onnx", r"does not take features \[batch, frames, 80\]")
    titanet = (("audio_signal", ("batch", BANDS, "frames")), ("length", ("batch",)))
    refused(speaker_file(tmp_path / "titanet.onnx", titanet), "does not take features")
    refused(speaker_file(tmp_path / "b.onnx", (("x", ("batch", "frames", 64)),)), "does not take features")
    refused(speaker_file(tmp_path / "d.onnx", (("x", (1, 400, BANDS)),)), "does not run on features")


@pytest.mark.parametrize("gives, why", [
    ("features", r"gives float32 \[\d+, \d+, 80\] where embeddings are numbers \[batch, size\]"),
    ("sequence", r"gives float32 \[.*\] where embeddings are"),
    ("integers", r"gives int64 \[\d+, 80\] where embeddings are"),
    ("nothing", "gives nothing"),
])  # fmt: skip
def test_networks_that_give_no_embeddings(gives, why, tmp_path):
    refused(speaker_file(tmp_path / "a.onnx", gives=gives), why)


@pytest.mark.parametrize("package", ["onnxruntime", "kaldi_native_fbank"])
def test_packages_that_are_missing(package, tmp_path, monkeypatch):
    path = speaker_file(tmp_path / "a.onnx")
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UserError, match=f"pip install {package.replace('_', '-')}"):
        SpeakerNetwork.load(path)


def test_files_of_the_hub(tmp_path, monkeypatch):
    import huggingface_hub

    asked = []

    def download(repository, name):
        asked.append((repository, name))
        return str(speaker_file(tmp_path / "fetched.onnx"))

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    assert SpeakerNetwork.load("somebody/speakers/folder/net.onnx").size == BANDS
    assert asked == [("somebody/speakers", "folder/net.onnx")]
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", lambda *_: 1 / 0)
    refused("somebody/speakers/net.onnx", "none of that name came from the hub")


@pytest.fixture(scope="module")
def recording(tmp_path_factory):
    """Turns of 3 s of two voices."""
    path = tmp_path_factory.mktemp("recording") / "talk.wav"
    said = [buzz(*band, 3, RATE, seed) for seed in range(4) for band in ((300, 900), (1500, 3000))]
    noise = 1e-3 * np.random.default_rng(0).standard_normal(24 * RATE)
    soundfile.write(path, np.concatenate(said) + noise, RATE, subtype="FLOAT")
    return path


def test_files_are_separated_by_it(network, recording, tmp_path, capsys, monkeypatch):
    """Every turn is on the track of its voice, in the command as in Python, and the mark knows which network it was."""
    monkeypatch.setattr(turns, "is_one_person", lambda *_: False)  # to the network that ships, noise is nobody's voice
    model = GainModel(0.6, 0.4, threshold=-40.0, sample_rate=RATE)
    options = Options(voices=network)
    separate_files(model, [recording], tmp_path, options)
    tracks = np.stack([soundfile.read(tmp_path / f"talk_s{k}.wav")[0] for k in (1, 2)], axis=1)
    powers = np.square(tracks).reshape(8, 3 * RATE, 2)[:, RATE // 2 : -RATE // 2].sum(1)
    own = powers.argmax(1)
    assert own[0] != own[1] and (own == np.tile(own[:2], 4)).all() and (powers.min(1) < 1e-3 * powers.max(1)).all()
    np.testing.assert_allclose(model.separate_file(recording, voices=network)[0], tracks, atol=1e-6)
    capsys.readouterr()
    separate_files(model, [recording], tmp_path, options)
    assert "1 skipped" in capsys.readouterr().out
    with pytest.raises(UserError):
        separate_files(model, [recording], tmp_path)
    assert "other options" in capsys.readouterr().err


@pytest.mark.parametrize("threshold, options, why", [
    (-40.0, {"fixed_order": True}, "--fixed-order keeps voices as they are"),
    (None, {}, "tracks of the stub are not placed by voice"),
])  # fmt: skip
def test_where_voices_decide_nothing_it_is_refused(network, recording, tmp_path, threshold, options, why):
    with pytest.raises(UserError, match=why):
        separate_files(
            GainModel(0.6, 0.4, threshold=threshold), [recording], tmp_path / "out", Options(voices=network, **options)
        )
    assert not (tmp_path / "out").exists()


def test_where_voices_decide_nothing_python_refuses_it_as_well(network, recording):
    with pytest.raises(UserError, match="tracks of the stub are not placed by voice"):
        GainModel(0.6, 0.4, sample_rate=RATE).separate_file(recording, voices=network)


def test_the_command_loads_it(recording, tmp_path, capsys):
    """Nothing is written where the file holds no network."""
    with pytest.raises(SystemExit) as ended:
        main(["separate", str(recording), "--output-dir", str(tmp_path / "out"), "--voices", str(recording)])
    error = capsys.readouterr().err
    assert ended.value.code == 1 and error.count("\n") == 1 and "talk.wav is no ONNX file" in error
    assert not (tmp_path / "out").exists()
