"""What is written: people who are there, the noise that they leave, who speaks when, loudness, summaries."""

import io
import json

import numpy as np
import pyloudnorm
import pytest
import soundfile
import torch

from tests.inference.stub import GainModel
from unified_sess.inference.activity import FRAME
from unified_sess.inference.files.separate_files import Options, separate_files
from unified_sess.inference.files.summaries import join_summaries
from unified_sess.inference.windows import Windows
from unified_sess.utils.errors import UserError


def record(path, rate=8000, seconds=3.0, offset=0.0, gain=0.1, channels=1, subtype="FLOAT"):
    """Write noise with pauses and return it `[time, channels]` as it is in the file."""
    generator = np.random.default_rng(0)
    signal = gain * generator.standard_normal((int(seconds * rate), channels))
    signal[int(rate) : int(1.5 * rate)] = 0
    soundfile.write(path, signal + offset, rate, subtype=subtype)
    return soundfile.read(path, dtype="float32", always_2d=True)[0]


def separated(tmp_path, model, **options):
    """Separate `a.wav` and return what was written `{kind: [time]}` and the summary."""
    lines = io.StringIO()
    separate_files(model, [tmp_path / "a.wav"], tmp_path / "out", Options(**options), summaries=lines)
    summary = json.loads(lines.getvalue())
    sounds = {k: soundfile.read(p, dtype="float32")[0] for k, p in summary["outputs"].items() if k != "rttm"}
    return sounds, summary


@pytest.mark.parametrize(("rate", "model_rate"), [(8000, False), (11025, False), (44100, False), (8000, True)])
@pytest.mark.parametrize("offset", [0.0, 0.1])
def test_people_and_noise_are_the_recording_sample_by_sample(tmp_path, rate, model_rate, offset):
    signal = record(tmp_path / "a.wav", rate, 5.0, offset)[:, 0]
    model = GainModel(0.6, -0.3, 1e-4)
    options = {"noise": True, "subtype": "FLOAT", "model_rate": model_rate, "windows": Windows(1.0, 0.25)}
    sounds, summary = separated(tmp_path, model, **options)
    assert list(sounds) == ["s1", "s2", "noise"]  # the silent output counts as noise
    total = sum(sound.astype(np.float64) for sound in sounds.values())
    np.testing.assert_allclose(total, signal, atol=1e-7)
    for kind, sound in sounds.items():
        level = 10 * np.log10(np.mean(np.square(sound, dtype=np.float64)))
        assert summary["levels"][kind] == pytest.approx(level, abs=0.01)


def test_people_and_noise_are_the_channel_that_was_separated(tmp_path):
    signal = record(tmp_path / "a.wav", channels=2)
    for channel, expected in ((2, signal[:, 1]), ("mean", signal.mean(1))):
        sounds, _ = separated(
            tmp_path, GainModel(0.5, 0.2), noise=True, subtype="FLOAT", channel=channel, overwrite=True
        )
        np.testing.assert_allclose(sum(sounds.values()), expected, atol=1e-6)


def test_noise_in_whole_numbers_is_turned_down_with_the_people(tmp_path):
    signal = record(tmp_path / "a.wav", gain=1.0)[:, 0]
    assert abs(signal).max() > 1
    sounds, summary = separated(tmp_path, GainModel(0.5, 0.2), noise=True, subtype="PCM_16")
    assert max(abs(sound).max() for sound in sounds.values()) < 1  # nothing was clipped
    gain = 10 ** (-float(summary["notes"][0].split("by ")[1].split()[0]) / 20)
    np.testing.assert_allclose(sum(sounds.values()), gain * signal, atol=0.01)


def test_silent_outputs_are_left_out_and_the_rest_is_numbered_without_gaps(tmp_path, capsys):
    record(tmp_path / "a.wav")
    model = GainModel(1e-4, 0.6, 1e-5, 0.2)
    sounds, summary = separated(tmp_path, model)
    assert list(sounds) == ["s1", "s2"] and summary["people"] == 2
    assert np.square(sounds["s1"]).mean() > np.square(sounds["s2"]).mean()  # the order of the tracks
    sources = model.separate_file(tmp_path / "a.wav")
    assert sources.shape == (1, 24000, 4) and model.active(sources).tolist() == [[False, True, False, True]]
    separated(tmp_path, model)
    assert "1 skipped" in capsys.readouterr().err  # two of four are all there is


@pytest.mark.parametrize(("count", "levels"), [(1, [0.6]), (2, [0.6, 0.2]), (3, [1e-2, 0.6, 0.2])])
def test_a_number_of_people_is_forced(tmp_path, count, levels):
    signal = record(tmp_path / "a.wav")[:, 0]
    model = GainModel(1e-2, 0.6, 1e-5, 0.2, threshold=-20.0)
    sounds, summary = separated(tmp_path, model, num_spks=count, subtype="FLOAT")
    assert summary["people"] == count
    for sound, level in zip(sounds.values(), levels, strict=True):
        np.testing.assert_allclose(sound, level * signal, atol=2e-4)


def test_nobody_is_one_line_and_no_failure(tmp_path, capsys):
    record(tmp_path / "a.wav")
    model = GainModel(1e-3, 1e-4, threshold=-30.0)
    sounds, summary = separated(tmp_path, model)
    assert not sounds and summary["people"] == 0 and summary["status"] == "separated"
    err = capsys.readouterr().err
    assert sum("holds nobody" in line for line in err.splitlines()) == 1
    assert not list((tmp_path / "out").iterdir())
    sounds, _ = separated(tmp_path, model, noise=True, rttm=True, subtype="FLOAT")
    np.testing.assert_array_equal(sounds["noise"], soundfile.read(tmp_path / "a.wav", dtype="float32")[0])
    assert (tmp_path / "out/a.rttm").read_text() == ""
    separated(tmp_path, model, rttm=True, subtype="FLOAT")
    assert "1 skipped" in capsys.readouterr().err


def test_the_threshold_is_the_models(tmp_path):
    record(tmp_path / "a.wav")
    for threshold, people in ((-10.0, 1), (-30.0, 2), (None, 2)):
        _, summary = separated(tmp_path, GainModel(0.6, 0.3, threshold=threshold), overwrite=True, fixed_order=True)
        assert summary["people"] == people


def test_a_model_that_has_learnt_the_level_keeps_it(tmp_path):
    """A least-squares fit would bring what is left of silence to the level of the mixture."""
    signal = record(tmp_path / "a.wav")[:, 0]
    sounds, _ = separated(tmp_path, GainModel(0.3, 0.05, threshold=-40.0), subtype="FLOAT", fixed_order=True)
    np.testing.assert_allclose(sounds["s1"], 0.3 * signal, atol=1e-6)
    fitted, _ = separated(tmp_path, GainModel(0.3, 0.05), subtype="FLOAT", overwrite=True)
    np.testing.assert_allclose(fitted["s1"] + fitted["s2"], signal, atol=1e-4)


def test_active_outputs_of_a_batch():
    model = GainModel(1.0, 1.0, threshold=-20.0)
    sources = torch.randn(2, 8000, 2) * torch.tensor([[[1.0, 0.01]], [[0.5, 1.0]]])
    assert model.active(sources).tolist() == [[True, False], [True, True]]
    assert model.active(sources, 100 * torch.randn(2, 8000)).tolist() == [[False, False], [False, False]]
    assert model.active(torch.zeros(1, 100, 2)).tolist() == [[False, False]]


def test_who_speaks_when(tmp_path):
    signal = record(tmp_path / "a.wav", seconds=4.0)[:, 0]
    assert not signal[8000:12000].any()
    _, summary = separated(tmp_path, GainModel(0.6, 0.4), rttm=True)
    lines = [line.split() for line in (tmp_path / "out/a.rttm").read_text().splitlines()]
    assert [line[7] for line in lines] == ["s1", "s2", "s1", "s2"]
    for line in lines:
        assert line[:3] == ["SPEAKER", "a", "1"] and len(line) == 10
    spans = [(float(line[3]), float(line[3]) + float(line[4])) for line in lines]
    np.testing.assert_allclose(spans[::2], [(0.0, 1.0), (1.5, 4.0)], atol=0.1)
    speech = sum(end - start for start, end in spans[::2])
    assert summary["speech"]["s1"] == pytest.approx(speech, abs=FRAME)


@pytest.mark.parametrize("rate", [8000, 44100])
def test_people_are_brought_to_a_loudness(tmp_path, rate):
    record(tmp_path / "a.wav", rate, 5.0)
    sounds, _ = separated(tmp_path, GainModel(0.6, 0.01), normalize=-30.0, subtype="FLOAT", enhanced=True)
    assert list(sounds) == ["s1", "s2", "enhanced"]
    for sound in sounds.values():
        assert pyloudnorm.Meter(rate).integrated_loudness(sound.astype(float)) == pytest.approx(-30, abs=0.05)


def test_too_short_for_a_loudness_keeps_its_level(tmp_path):
    record(tmp_path / "a.wav", seconds=0.2)
    sounds, _ = separated(tmp_path, GainModel(0.6, 0.4), normalize=-23.0, subtype="FLOAT")
    plain, _ = separated(tmp_path, GainModel(0.6, 0.4), subtype="FLOAT", overwrite=True)
    np.testing.assert_array_equal(sounds["s1"], plain["s1"])


def test_one_pass_over_the_tracks(tmp_path, monkeypatch):
    """The command read the results twice: for the peak, and for writing."""
    from unified_sess.inference.files.spool import Spool

    passes = []
    blocks = Spool.blocks
    monkeypatch.setattr(Spool, "blocks", lambda self, rate: passes.append(rate) or blocks(self, rate))
    record(tmp_path / "a.wav", 44100, gain=1.0)
    separated(tmp_path, GainModel(0.6, 0.4), enhanced=True, subtype="PCM_16")
    assert passes == [8000, 44100]  # what the network gave, then the results


@pytest.mark.parametrize("options", [{}, {"subtype": "PCM_24"}, {"extension": "flac", "subtype": "PCM_16"}])
def test_depth_of_the_results(tmp_path, options):
    record(tmp_path / "a.wav", subtype="PCM_24")
    separated(tmp_path, GainModel(0.6, 0.4), **options)
    info = soundfile.info(tmp_path / f"out/a_s1.{options.get('extension', 'wav')}")
    assert info.subtype == options.get("subtype", "PCM_24")


def test_a_name_that_leaves_no_room_for_the_results_is_one_line(tmp_path, capsys):
    record(tmp_path / ("x" * 250 + ".wav"))
    with pytest.raises(UserError):
        separate_files(GainModel(0.6, 0.4), [tmp_path / ("x" * 250 + ".wav")], tmp_path / "out")
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "error:" in line]
    assert line.endswith("rename it") and not list((tmp_path / "out").iterdir())


def test_summaries_are_joined_by_source(tmp_path):
    first = {"source": "a", "status": "separated", "duration": 3600.0, "people": 2, "levels": {"s1": -20.0}}
    second = {"source": "b", "status": "failed", "error": "b is bad"}
    (tmp_path / "1.jsonl").write_text(f"{json.dumps(first)}\n{json.dumps(second)}\n" + '{"source": "c", "sta')
    again = [first | {"status": "kept", "levels": {}}, second | {"status": "separated", "duration": 1800, "people": 1}]
    (tmp_path / "2.jsonl").write_text("".join(json.dumps(line) + "\n" for line in again))
    lines, failed = join_summaries([tmp_path / "1.jsonl"])
    assert failed == 1 and lines[-1] == "failed: b: b is bad"
    lines, failed = join_summaries([tmp_path / "1.jsonl", tmp_path / "2.jsonl"], tmp_path / "all.jsonl")
    assert failed == 0 and lines == ["2 recordings separated, 1.50 h of audio", "1 with 1 person", "1 with 2 people"]
    assert json.loads((tmp_path / "all.jsonl").read_text().splitlines()[0]) == first  # the one that tells more
    (tmp_path / "bad.jsonl").write_text("hello\n{}\n")
    with pytest.raises(UserError, match="line 1 of .*bad.jsonl is no summary"):
        join_summaries([tmp_path / "bad.jsonl"])
    for output in (tmp_path, tmp_path / "1.jsonl/all.jsonl"):
        with pytest.raises(UserError, match="give"):
            join_summaries([tmp_path / "1.jsonl"], output)
    join_summaries([tmp_path / "1.jsonl"], tmp_path / "new/all.jsonl")
    assert (tmp_path / "new/all.jsonl").exists()
