"""Results are of this recording, this model and these options, whole or absent."""

import os
import subprocess
import sys

import numpy as np
import pytest
import soundfile

from tests.inference.stub import GainModel
from unified_sess.inference.files.marks import OLD_PREFIX, read_mark
from unified_sess.inference.files.results import NewFiles
from unified_sess.inference.files.separate_files import Options, separate_files
from unified_sess.inference.windows import Windows
from unified_sess.utils.errors import UserError


@pytest.fixture
def recording(tmp_path):
    """Forty seconds of noise, so that its middle is far from both ends."""
    path = tmp_path / "a.wav"
    soundfile.write(path, 0.1 * np.random.default_rng(0).standard_normal(40 * 8000), 8000)
    return path


def separated(recording, model=GainModel(0.6, 0.3), **options):
    separate_files(model, [recording], recording.parent / "out", Options(**options))


def stamps(folder):
    return {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}


def change_the_middle(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


CHANGES = {
    "the middle of the recording": (change_the_middle, {}, {}),
    "the model": (None, {"model": GainModel(0.5, 0.4)}, {}),
    "the level that the model knows": (None, {"model": GainModel(0.6, 0.3, threshold=-30.0)}, {}),
    "the rate": (None, {}, {"model_rate": True}),
    "the windows": (None, {}, {"windows": Windows(8.0, 2.0)}),
    "the order": (None, {}, {"fixed_order": True}),
    "the depth": (None, {}, {"subtype": "PCM_24"}),
    "the loudness": (None, {}, {"normalize": -23.0}),
    "the number of people": (None, {}, {"num_spks": 2}),
    "the channel": (None, {}, {"channel": 1}),
    "the passes": (None, {}, {"passes": 2}),
}


@pytest.mark.parametrize("what", CHANGES)
def test_results_of_something_else_are_named_and_kept_until_overwrite(recording, capsys, what):
    """Results were kept in silence when the input changed in its middle, with another model and with other options."""
    separated(recording)
    before = stamps(recording.parent / "out")
    change, model, options = CHANGES[what]
    if change is not None:
        change(recording)
    with pytest.raises(UserError, match="1 of 1"):
        separated(recording, **model, **options)
    assert "a_s1.wav is of another recording, another model or other options" in capsys.readouterr().err
    assert stamps(recording.parent / "out") == before
    separated(recording, **model, **options, overwrite=True)
    separated(recording, **model, **options)  # and those are known again
    assert "1 skipped" in capsys.readouterr().out


@pytest.mark.parametrize("options", [{"windows": Windows(batch=1)}, {}])
def test_options_that_change_no_sample_do_not_count(recording, capsys, options):
    separated(recording)
    before = stamps(recording.parent / "out")
    os.rename(recording, recording.parent / "moved.wav")
    os.rename(recording.parent / "moved.wav", recording)
    separate_files(GainModel(0.6, 0.3), [recording], recording.parent / "out", Options(**options), jobs=2)
    assert stamps(recording.parent / "out") == before and "1 skipped" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("comment", "words"), [(OLD_PREFIX + "0123456789abcdef", "older version"), (None, "no result of this program")]
)
def test_results_of_the_old_kind_and_files_of_others_are_named(recording, capsys, comment, words):
    (recording.parent / "out").mkdir()
    for k in (1, 2):
        with soundfile.SoundFile(recording.parent / f"out/a_s{k}.wav", "w", 8000, 1) as file:
            if comment is not None:
                file.comment = comment
            file.write(np.zeros(80))
    before = stamps(recording.parent / "out")
    with pytest.raises(UserError):
        separated(recording)
    assert words in capsys.readouterr().err and stamps(recording.parent / "out") == before
    separated(recording, overwrite=True)
    assert read_mark(recording.parent / "out/a_s1.wav").kinds == ("s1", "s2")


def test_an_rttm_of_somebody_else_is_not_overwritten(recording, capsys):
    (recording.parent / "out").mkdir()
    (recording.parent / "out/a.rttm").write_text("SPEAKER a 1 0 1 <NA> <NA> reference <NA> <NA>\n")
    with pytest.raises(UserError):
        separated(recording, rttm=True)
    assert "a.rttm is there and is no result" in capsys.readouterr().err
    assert "reference" in (recording.parent / "out/a.rttm").read_text()


def test_more_kinds_are_added_to_results(recording, capsys):
    separated(recording)
    separated(recording, noise=True, rttm=True)
    assert sorted(stamps(recording.parent / "out")) == ["a.rttm", "a_noise.wav", "a_s1.wav", "a_s2.wav"]
    before = stamps(recording.parent / "out")
    separated(recording)
    separated(recording, rttm=True)
    assert stamps(recording.parent / "out") == before
    (recording.parent / "out/a.rttm").unlink()
    separated(recording)
    separated(recording, rttm=True)
    assert (recording.parent / "out/a.rttm").exists()


def test_kinds_that_are_added_later_have_the_level_of_all(recording, capsys):
    """Of a recording that is turned down, the noise of an earlier run stayed at another level than the people."""
    soundfile.write(recording, 2.0 * np.random.default_rng(0).standard_normal(8000), 8000, subtype="FLOAT")
    model, options = GainModel(0.9, 0.3), {"subtype": "PCM_24"}
    separated(recording, model, noise=True, **options)
    separated(recording, model, enhanced=True, **options)
    sounds = {path.stem[2:]: soundfile.read(path)[0] for path in (recording.parent / "out").iterdir()}
    assert sorted(sounds) == ["enhanced", "noise", "s1", "s2"]
    total = sounds["s1"] + sounds["s2"] + sounds["noise"]
    original = soundfile.read(recording)[0]
    gain = total @ original / (original @ original)
    np.testing.assert_allclose(total, gain * original, atol=1e-5)
    before = stamps(recording.parent / "out")
    separated(recording, model, noise=True, enhanced=True, **options)
    assert stamps(recording.parent / "out") == before and gain < 0.9


def test_nothing_of_something_else_stays_beside_new_results(recording, capsys):
    """After --overwrite, noise and turns of another recording lay beside the new people."""
    extras = {"noise": True, "rttm": True, "enhanced": True}
    separated(recording, **extras)
    change_the_middle(recording)
    with pytest.raises(UserError):
        separated(recording)
    separated(recording, overwrite=True)
    assert sorted(stamps(recording.parent / "out")) == ["a_s1.wav", "a_s2.wav"]
    separated(recording, **extras)
    separated(recording, model=GainModel(1e-6, 1e-7, threshold=-40.0), overwrite=True)  # nobody
    assert not stamps(recording.parent / "out")


def test_files_of_others_stay_beside_results_that_do_not_want_their_names(recording):
    (recording.parent / "out").mkdir()
    for name in ("a_noise.wav", "a.rttm"):
        (recording.parent / "out" / name).write_bytes(b"reference")
    separated(recording)
    separated(recording, model=GainModel(0.5, 0.4), overwrite=True)
    for name in ("a_noise.wav", "a.rttm"):
        assert (recording.parent / "out" / name).read_bytes() == b"reference"


def test_both_formats_share_an_rttm_file(recording, capsys):
    """The file was refused as no result of this program."""
    separated(recording, rttm=True)
    separated(recording, rttm=True, extension="flac")
    assert len(stamps(recording.parent / "out")) == 5
    before = stamps(recording.parent / "out")
    for extension in ("wav", "flac"):
        separated(recording, rttm=True, extension=extension)
    assert stamps(recording.parent / "out") == before


def test_an_rttm_file_of_other_options_is_not_taken_for_ones_own(recording, capsys):
    """Results in another format with other options had replaced the turns, and the first results passed for whole."""
    separated(recording, rttm=True)
    turns = (recording.parent / "out/a.rttm").read_text()
    with pytest.raises(UserError):
        separated(recording, rttm=True, extension="flac", num_spks=1)
    assert "a.rttm is of another recording, another model or other options" in capsys.readouterr().err
    assert (recording.parent / "out/a.rttm").read_text() == turns
    assert not list((recording.parent / "out").glob("*.flac"))
    separated(recording, rttm=True, extension="flac", num_spks=1, overwrite=True)
    with pytest.raises(UserError):
        separated(recording, rttm=True)
    separated(recording, rttm=True, overwrite=True)
    assert (recording.parent / "out/a.rttm").read_text() == turns


def test_an_rttm_file_that_an_old_mark_names_may_have_been_changed(recording):
    """Older marks name an RTTM file without its content: one edited by hand was written over, unasked."""
    separated(recording, rttm=True)
    out = recording.parent / "out"
    for path in out.glob("*.wav"):  # as older versions left them
        signal, rate = soundfile.read(path, dtype="int16")
        mark = read_mark(path)
        with soundfile.SoundFile(path, "w", rate, 1, "PCM_16") as file:
            file.comment = mark._replace(rttm="").comment()
            file.write(signal)
    turns = (out / "a.rttm").read_text()
    separated(recording, rttm=True)  # kept
    (out / "a.rttm").write_text("edited")
    separated(recording, noise=True)
    assert (out / "a.rttm").read_text() == "edited" and "rttm" not in read_mark(out / "a_noise.wav").kinds
    separated(recording, passes=2, overwrite=True)
    assert (out / "a.rttm").read_text() == "edited"
    separated(recording, rttm=True, overwrite=True)
    assert (out / "a.rttm").read_text() == turns


def test_people_of_another_model_do_not_stay_beside_the_new_ones(recording):
    separated(recording, model=GainModel(0.5, 0.3, 0.2))
    (recording.parent / "out/a_s4.wav").write_bytes(recording.read_bytes())  # not ours
    separated(recording, overwrite=True)
    assert sorted(stamps(recording.parent / "out")) == ["a_s1.wav", "a_s2.wav", "a_s4.wav"]


@pytest.mark.parametrize("nameless", [True, False])
@pytest.mark.parametrize("there", [True, False])
def test_new_files_appear_whole_or_not_at_all(tmp_path, monkeypatch, nameless, there):
    if not nameless:
        monkeypatch.setattr("unified_sess.inference.files.results._nameless", lambda folder: None)
    if there:
        (tmp_path / "a.txt").write_text("before")
    with pytest.raises(KeyboardInterrupt), NewFiles() as files:
        files.open(tmp_path / "a.txt").write(b"half")
        raise KeyboardInterrupt
    assert [path.read_text() for path in tmp_path.iterdir()] == ["before"] * there
    with NewFiles() as files:
        files.open(tmp_path / "a.txt").write(b"whole")
        files.keep()
    assert [path.read_text() for path in tmp_path.iterdir()] == ["whole"]
    mode = (tmp_path / "a.txt").stat().st_mode & 0o777
    (tmp_path / "other").touch()
    assert mode == (tmp_path / "other").stat().st_mode & 0o777  # others may read it as any new file


def test_a_killed_run_leaves_no_hidden_file(tmp_path):
    """What was killed while it wrote left `.a_s1.<digest>.<pid>.tmp.wav` behind."""
    if not hasattr(os, "O_TMPFILE"):
        pytest.skip("this system has no files without a name")
    code = """
import os, sys
from pathlib import Path
from unified_sess.inference.files.results import NewFiles
files = NewFiles().__enter__()
files.open(Path(sys.argv[1]) / "a.wav").write(bytes(10**6))
os.kill(os.getpid(), 9)
"""
    subprocess.run([sys.executable, "-c", code, tmp_path], check=False)
    assert list(tmp_path.iterdir()) == []
