"""Generation: names, seeds, resuming, errors."""

import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import soundfile

from tests.data.folders import make_folders
from unified_sess.data.librimix_drawing import group_speakers
from unified_sess.data.librimix_generation import generate_split, read_metadata
from unified_sess.data.speech_folders import Recording
from unified_sess.errors import UserError


@pytest.fixture(scope="module")
def made(tmp_path_factory, repository):
    root = tmp_path_factory.mktemp("generation")
    speech, noise = make_folders(root)
    command = [sys.executable, repository / "data_prep" / "make_librimix.py", "--librispeech", speech]
    command += ["--wham-noise", noise, "--workers", "1", "--augment-noise", "--count", "train-clean-100=7"]
    subprocess.run([*command, "--output", root / "a"], check=True)
    return speech, noise, root / "a" / "Libri2Mix"


def test_folders_and_metadata(made):
    folder = made[2] / "wav8k" / "min"
    table = pd.read_csv(folder / "metadata" / "mixture_train-100_mix_both.csv")
    assert list(table.columns) == ["mixture_ID", "mixture_path", "source_1_path", "source_2_path", "noise_path", "length"]
    assert len(table) == 7
    for path, length in zip(table["mixture_path"], table["length"]):
        assert soundfile.info(path).frames == length
    assert (made[1] / "tr" / "n0sp08.wav").exists() and (made[1] / "tr" / "n0sp12.wav").exists()


def rows_and_generate(made, output, change=None):
    rows = read_metadata(made[2] / "metadata" / "libri2mix_train-clean-100.csv", 2)
    if change:
        change(rows)
    generate_split(rows, made[0], made[1], output, "train-100", 2, ["8k"], ["min"], ["mix_both"], 1)


def test_made_again_from_its_metadata_and_resumed(made, tmp_path):
    rows_and_generate(made, tmp_path)
    files = sorted((tmp_path / "wav8k/min/train-100").glob("*/*.wav"))
    for path in files:
        assert path.read_bytes() == (made[2] / path.relative_to(tmp_path)).read_bytes()
    files[0].unlink()
    times = [path.stat().st_mtime_ns for path in files[1:]]
    rows_and_generate(made, tmp_path)
    assert files[0].exists()
    assert sum(a != path.stat().st_mtime_ns for a, path in zip(times, files[1:])) < len(times) / 2  # the rest was kept


def test_errors_name_the_row_and_leave_nothing_half_written(made, tmp_path):
    def lose(rows):
        rows[0]["noise_path"] = "tr/lost_sp08.wav"

    with pytest.raises(UserError, match="1 speed-perturbed noises are missing.*--augment-noise"):
        rows_and_generate(made, tmp_path, lose)

    def late(rows):
        rows[2]["source_1_start"] = 10**9

    with pytest.raises(UserError, match="^row .*shorter than its start"):
        rows_and_generate(made, tmp_path, late)
    assert not list(tmp_path.rglob(".*.tmp*"))


def test_groups_end_and_have_distinct_speakers():
    speech = [Recording(str(k), "a" if k < 50 else str(k), 1, 1, 0, 0, []) for k in range(60)]
    groups = group_speakers(speech, 2, np.random.default_rng(0))
    used = [k for group in groups for k in group]
    assert len(used) == len(set(used)) and len(groups) >= 5
    assert all(speech[a].speaker != speech[b].speaker for a, b in groups)
