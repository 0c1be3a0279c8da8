"""check-data finds each fault."""

import numpy as np
import soundfile

from unified_sess.data.check import check_data, run_check


def test_each_fault_is_found(tmp_path, capsys):
    good = 0.1 * np.random.default_rng(0).standard_normal(8000)
    clipped = good.copy()
    clipped[:9] = 1
    for name, signal, rate in [
        ("train/1-1-1.wav", good, 8000),
        ("train/2-1-1.wav", good, 8000),
        ("test/2-1-2.wav", good, 8000),
        ("train/silent.wav", 0 * good, 8000),
        ("train/clipped.wav", clipped, 8000),
        ("train/rate.wav", np.tile(good, 2), 16000),
        ("train/short.wav", good[:800], 8000),
    ]:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        soundfile.write(tmp_path / name, signal, rate)
    (tmp_path / "train" / "broken.wav").write_bytes(b"no audio")
    report = check_data(tmp_path, workers=1)
    assert report == {
        "unreadable": ["train/broken.wav"],
        "silent": ["train/silent.wav"],
        "clipped": ["train/clipped.wav"],
        "mis-rated": ["train/rate.wav (16000 Hz)"],
        "too short": ["train/short.wav"],
        "unequal": [],
        "incomplete": [],
        "leaking speakers": ["2 (test, train)"],
    }
    assert run_check(tmp_path, workers=1) == 1
    assert "1 silent: train/silent.wav" in capsys.readouterr().out


def test_a_good_folder_has_status_0(tmp_path):
    soundfile.write(tmp_path / "a.wav", 0.1 * np.random.default_rng(0).standard_normal(8000), 8000)
    assert run_check(tmp_path, workers=1) == 0
