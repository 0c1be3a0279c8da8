"""recipes/Mini: the listed utterances become both sets with one command."""

import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import soundfile

from tests.corpus import voice

SPLITS = {"train-100": "train-clean-100", "dev": "dev-clean", "test": "test-clean"}


@pytest.fixture(scope="module")
def listed(repository):
    lines = (repository / "recipes" / "Mini" / "split.txt").read_text(encoding="utf-8").splitlines()
    return [line.split() for line in lines if line and not line.startswith("#")]


@pytest.fixture(scope="module")
def folders(listed, tmp_path_factory):
    """A LibriSpeech with all utterances in train-clean-100, as people have it, and noise in WHAM!'s layout."""
    root = tmp_path_factory.mktemp("corpora")
    random = np.random.default_rng(0)
    speech = voice(random, 52000, 16000, 120)
    for number, (_, utterance) in enumerate(listed):
        speaker, chapter, _ = utterance.split("-")
        path = root / "LibriSpeech" / "train-clean-100" / speaker / chapter / f"{utterance}.flac"
        path.parent.mkdir(parents=True)
        soundfile.write(path, np.roll(speech, 500 * number), 16000)
    (root / "LibriSpeech" / "SPEAKERS.TXT").write_text("19 | F | train-clean-100 | 25.0 | Name\n", encoding="utf-8")
    for split in ("tr", "cv", "tt"):
        (root / "wham_noise" / split).mkdir(parents=True)
        for number in range(3):
            soundfile.write(root / "wham_noise" / split / f"{number}.wav", 0.05 * random.standard_normal(64000), 16000)
    return root


def run(repository, folders, output, *options):
    command = [
        sys.executable,
        repository / "recipes" / "Mini" / "make_mini.py",
        "--librispeech",
        folders / "LibriSpeech",
    ]
    command += ["--wham-noise", folders / "wham_noise", "--workers", "1", "--output", output, *options]
    return subprocess.run(command, check=False, capture_output=True, text=True)


@pytest.mark.slow
def test_both_sets_with_one_command(repository, folders, tmp_path):
    ended = run(repository, folders, tmp_path, "--counts", "6", "3", "2", "--scenes")
    assert ended.returncode == 0, ended.stderr
    for n_src in (2, 3):
        place = tmp_path / f"Libri{n_src}Mix"
        speakers = {}
        for (split, name), count in zip(SPLITS.items(), (6, 3, 2)):
            table = pd.read_csv(place / "wav8k/min/metadata" / f"mixture_{split}_mix_both.csv")
            assert len(table) == count and f"source_{n_src}_path" in table.columns
            rows = pd.read_csv(place / "metadata" / f"libri{n_src}mix_{name}.csv")
            paths = [path for k in range(n_src) for path in rows[f"source_{k + 1}_path"]]
            speakers[split] = {path.split("/")[1] for path in paths}
        assert not speakers["train-100"] & speakers["dev"] | speakers["dev"] & speakers["test"]
        assert not speakers["train-100"] & speakers["test"]
        assert (place / "SPEAKERS.TXT").read_text(encoding="utf-8").startswith("19 | F")


def test_missing_utterances_are_one_error_with_the_count(repository, folders, tmp_path):
    (tmp_path / "LibriSpeech").mkdir()
    ended = run(repository, tmp_path, tmp_path / "out")
    assert ended.returncode == 1 and len(ended.stderr.splitlines()) == 1
    assert "251 of 251 utterances are missing" in ended.stderr


def test_the_list_has_every_speaker_once(listed):
    assert len(listed) == 251 == len({utterance.split("-")[0] for _, utterance in listed})
    assert {split for split, _ in listed} == set(SPLITS.values())
