"""Where people are in real recordings, by an RTTM file."""

import runpy
import sys

import numpy as np
import pytest
import soundfile

RTTM = """SPEAKER call 1 0.0 2.0 <NA> <NA> ann <NA> <NA>
SPEAKER call 1 3.0 2.0 <NA> <NA> bob <NA> <NA>
SPEAKER call 1 4.5 1.5 <NA> <NA> cid <NA> <NA>
SPEAKER other 1 0.0 9.0 <NA> <NA> ann <NA> <NA>
"""


@pytest.fixture
def judge(repository, tmp_path, monkeypatch, capsys):
    """Runs the script on tracks `[time, tracks]` and gives what it printed."""
    script = repository / "recipes" / "Recordings" / "single_talk.py"
    (tmp_path / "call.rttm").write_text(RTTM, encoding="utf-8")

    def run(tracks, name="call", rttm="call.rttm"):
        paths = [tmp_path / f"{name}_s{k + 1}.wav" for k in range(np.shape(tracks)[1])]
        for path, track in zip(paths, np.asarray(tracks).T, strict=True):
            soundfile.write(path, track, 1000)
        monkeypatch.setattr(sys, "argv", [str(script), str(tmp_path / rttm), *map(str, paths)])
        runpy.run_path(str(script), run_name="__main__")
        return capsys.readouterr().out

    return run


def tracks(ann, bob):
    """Noise on the tracks that Ann (0 to 2 s) and Bob (3 to 5 s) are given, in dB."""
    signal = 1e-4 * np.random.default_rng(0).standard_normal((6000, 2))
    for start, levels in ((0, ann), (3000, bob)):
        signal[start : start + 2000] += 10 ** (np.array(levels) / 20) * 0.1 * np.ones((2000, 1))
    return signal


def test_everybody_on_a_track_of_their_own(judge):
    assert (
        judge(tracks((0, -20), (-20, 0))) == "call: 100.0 % right, 0.0 % wrong of 3.5 s\n"
    )  # Cid cuts Bob's last half second
    assert "100.0 % right" in judge(tracks((-20, 0), (0, -20)))  # whichever that is


def test_both_on_one_track(judge):
    assert judge(tracks((0, -20), (0, -20))) == "call: 57.1 % right, 42.9 % wrong of 3.5 s\n"  # Ann's 2 s of 3.5

    both = tracks((0, -20), (0, -20))[:, :1]
    assert judge(both) == "call: 57.1 % right, 42.9 % wrong of 3.5 s\n"  # the only one that was written
    with pytest.raises(SystemExit):
        judge(np.repeat(both, 3, axis=1))


def test_split_over_both_tracks_is_neither(judge):
    assert "57.1 % right, 0.0 % wrong" in judge(tracks((0, -20), (-3, 0)))


@pytest.mark.parametrize(
    ("name", "rttm", "message"), [("nobody", "call.rttm", "0 people"), ("call", "none.rttm", "cannot be read")]
)
def test_what_cannot_be_judged_is_one_line(judge, capsys, name, rttm, message):
    with pytest.raises(SystemExit) as stop:
        judge(np.ones((6000, 2)) * 0.1, name, rttm)
    assert stop.value.code != 0
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
