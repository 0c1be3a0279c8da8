"""Drawing: who speaks with whom, levels, seeds, and sets made again from their own metadata."""

import subprocess
import sys

import numpy as np
import pandas as pd
import pyloudnorm
import pytest
import soundfile

from tests.data.folders import make_folders
from unified_sess.data import mixing
from unified_sess.data.librimix.drawing import _draw_start, draw_rows, group_speakers
from unified_sess.data.librimix.noise_speed import make_all
from unified_sess.data.librimix.sources import read_row
from unified_sess.data.own_folders.speech_folders import IndexedRecording, index_folder
from unified_sess.utils.errors import UserError


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return make_folders(tmp_path_factory.mktemp("drawing"), speakers=6, utterances=3, seconds=3.5)


@pytest.fixture(scope="module")
def recordings(folders, tmp_path_factory):
    place = tmp_path_factory.mktemp("index")
    speech = index_folder(folders[0] / "train-clean-100", place / "speech.jsonl")
    noises = index_folder(folders[1] / "tr", place / "noise.jsonl", noise=True)
    return [r._replace(path=f"train-clean-100/{r.path}") for r in speech], [
        r._replace(path=f"tr/{r.path}") for r in noises
    ]


def draw(folders, recordings, n_src=2, count=None, seed=0):
    return draw_rows(*recordings, *folders, n_src, count, [seed], 1)


@pytest.mark.parametrize(("n_src", "count"), [(2, None), (2, 30), (3, 20)])
def test_loudness_and_peaks_of_what_will_be_mixed(folders, recordings, n_src, count):
    meter = pyloudnorm.Meter(16000)
    for row in draw(folders, recordings, n_src, count):
        signals = mixing.fit_lengths(read_row(row, *folders, n_src), "max")
        gains = [row[f"source_{k + 1}_gain"] for k in range(n_src)] + [row["noise_gain"]]
        scaled = [s.astype(float) * g for s, g in zip(signals, gains)]
        assert np.abs(sum(scaled)).max() <= 0.9 + 1e-6
        levels = [meter.integrated_loudness(s) for s in scaled]
        assert all(-33.01 < level < -24.99 for level in levels[:-1])  # quiet corpus: no mixture had to be lowered
        assert -38.01 < levels[-1] < -29.99


def test_loudness_is_that_of_the_whole_sources_and_of_the_noise_beside_them(folders, tmp_path):
    random = np.random.default_rng(0)
    levels = 0.003 * np.repeat([1.0, 20.0], 51200)  # what lies behind the shorter signal is 26 dB louder
    paths = [f"train-clean-100/{k}/1/{k}-1-0000.flac" for k in range(2)]
    for path, signal in zip(paths, (levels[:51200], levels)):
        (tmp_path / path).parent.mkdir(parents=True)
        soundfile.write(tmp_path / path, signal * random.standard_normal(len(signal)), 16000)
    (tmp_path / "tr").mkdir()
    noise = np.concatenate([levels, np.full(102400, 0.2)]) * random.standard_normal(204800)
    soundfile.write(tmp_path / "tr" / "n.wav", noise, 16000)
    frames = (51200, 102400, 204800)
    recordings = [
        IndexedRecording(path, speaker, n, 16000, -20.0, np.array([[0, 3]], "f4"))
        for path, speaker, n in zip([*paths, "tr/n.wav"], "ab-", frames)
    ]
    (row,) = draw((tmp_path, tmp_path), (recordings[:2], recordings[2:]))
    signals = [soundfile.read(tmp_path / row[name])[0] for name in ("source_1_path", "source_2_path", "noise_path")]
    signals[2] = signals[2][: max(map(len, signals[:2]))]
    gains = [row["source_1_gain"], row["source_2_gain"], row["noise_gain"]]
    reached = [pyloudnorm.Meter(16000).integrated_loudness(s * g) for s, g in zip(signals, gains)]
    assert all(-33.1 < level < -24.9 for level in reached[:2]) and -38.1 < reached[2] < -29.9


def test_levels_differ_between_rows(folders, recordings):
    rows = draw(folders, recordings, 2, 30)
    assert len({row["source_1_gain"] for row in rows}) == len({row["noise_gain"] for row in rows}) == 30


def test_mixtures_that_would_clip_are_lowered(folders, tmp_path):
    for k in range(2):
        place = tmp_path / "speech" / "train-clean-100" / str(k) / "1"
        place.mkdir(parents=True)
        clicks = np.zeros(64000)
        clicks[::8000] = 0.99  # soft for its peak: loudness alone would bring it far over 1
        soundfile.write(place / f"{k}-1-0000.flac", clicks, 16000)
    paths = [f"train-clean-100/{k}/1/{k}-1-0000.flac" for k in range(2)]
    speech = [
        IndexedRecording(path, str(k), 64000, 16000, -50.0, np.array([[0, 4]], "f4")) for k, path in enumerate(paths)
    ]
    noises = [IndexedRecording("tr/n2.wav", "", 64000, 16000, -30.0, np.array([[0, 4]], "f4"))]
    row = draw((tmp_path / "speech", folders[1]), (speech, noises))[0]
    signals = mixing.fit_lengths(read_row(row, tmp_path / "speech", folders[1], 2), "max")
    gains = [row["source_1_gain"], row["source_2_gain"], row["noise_gain"]]
    assert np.abs(sum(s * g for s, g in zip(signals, gains))).max() == pytest.approx(0.9, abs=1e-3)


@pytest.mark.parametrize("n_src", [2, 3])
def test_every_utterance_once_and_speakers_distinct(folders, recordings, n_src):
    rows = draw(folders, recordings, n_src)
    used = [row[f"source_{k + 1}_path"] for row in rows for k in range(n_src)]
    assert len(rows) == 18 // n_src and len(set(used)) == len(used)
    for row in rows:
        assert len({row[f"source_{k + 1}_path"].split("/")[1] for k in range(n_src)}) == n_src
    assert not any(name.endswith("_start") for name in rows[0])  # the public form, which others can read too


def test_count_brings_utterances_again_elsewhere(folders, recordings):
    rows = draw(folders, recordings, 2, 40)
    assert len(rows) == 40 == len({row["mixture_ID"] for row in rows})
    assert all(row["source_1_start"] == row["source_2_start"] == 0 for row in rows[:9])
    again = [row[f"source_{k}_start"] for row in rows[9:] for k in (1, 2)]
    assert len(set(again)) > 40 and max(again) <= (59200 - 48000) // 2
    assert len({row["noise_start"] for row in rows}) > 5
    uses = pd.Series([row[f"source_{k}_path"] for row in rows for k in (1, 2)]).value_counts()
    assert uses.max() - uses.min() <= 1  # evenly


def test_same_seed_same_rows_whatever_the_workers(folders, recordings):
    rows = draw(folders, recordings, 2, 12)
    assert draw_rows(*recordings, *folders, 2, 12, [0], 3) == rows
    assert draw(folders, recordings, 2, 12, seed=1) != rows


def test_perturbed_noises_serve_only_where_others_do_not_suffice(folders, recordings, tmp_path):
    noise = tmp_path / "tr"
    noise.mkdir()
    for path in (folders[1] / "tr").iterdir():
        (noise / path.name).symlink_to(path)
    make_all(noise, 1)
    noises = [r._replace(path=f"tr/{r.path}") for r in index_folder(noise, tmp_path / "n.jsonl", noise=True)]
    few, many = (draw((folders[0], tmp_path), (recordings[0], noises), count=count) for count in (3, 9))
    assert {row["noise_path"] for row in few} == {"tr/n0.wav", "tr/n1.wav", "tr/n2.wav"}
    assert len({row["noise_path"] for row in many}) == 9


def recording(name, speaker):
    return IndexedRecording(name, speaker, 64000, 16000, -25.0, np.array([[0, 4]], "f4"))


def test_groups_end_and_have_distinct_speakers():
    speech = [recording(str(k), "a" if k < 50 else str(k)) for k in range(60)]
    groups = group_speakers(speech, 2, np.random.default_rng(0))
    used = [k for group in groups for k in group]
    assert len(used) == len(set(used)) and len(groups) >= 5
    assert all(speech[a].speaker != speech[b].speaker for a, b in groups)


@pytest.mark.parametrize("counts", [(9,), (5, 1), ()])
def test_impossible_draws_are_one_line(folders, recordings, counts):
    speech = [recording(f"{speaker}-{k}", str(speaker)) for speaker, count in enumerate(counts) for k in range(count)]
    with pytest.raises(UserError, match=f"{len(counts)} speakers with 3 s or more where 3 are needed"):
        draw(folders, (speech, recordings[1]), 3, 1000)


def run(repository, folders, output, *options):
    command = [sys.executable, repository / "data_prep" / "make_librimix.py", "--librispeech", folders[0]]
    command += ["--wham-noise", folders[1], "--workers", "1", "--types", "mix_both", "--output", output, *options]
    return subprocess.run(command, check=False, capture_output=True, text=True)


@pytest.fixture(scope="module")
def made(folders, repository, tmp_path_factory):
    output = tmp_path_factory.mktemp("made")
    (folders[0] / "SPEAKERS.TXT").write_text("10 | F | train-clean-100 | 25.0 | Name\n", encoding="utf-8")
    ended = run(repository, folders, output, "--count", "train-clean-100=12", "--seed", "5")
    assert ended.returncode == 0, ended.stderr
    return output


def test_a_drawn_set_made_again_from_its_metadata_is_the_same_bit_for_bit(folders, repository, made, tmp_path):
    ended = run(repository, folders, tmp_path, "--metadata", made / "Libri2Mix" / "metadata")
    assert ended.returncode == 0, ended.stderr
    files = sorted(path.relative_to(made) for path in made.rglob("*.wav"))
    assert len(files) == 12 * 4 == len(list(tmp_path.rglob("*.wav")))
    assert all((made / path).read_bytes() == (tmp_path / path).read_bytes() for path in files)
    assert {path.name for path in (made / "Libri2Mix" / "metadata").iterdir()} == {"libri2mix_train-clean-100.csv"}


def test_genders_of_a_made_set_are_found(made):
    from unified_sess.evaluation.speakers import mixture_genders

    ids = [path.stem for path in sorted(made.rglob("mix_both/*.wav"))]
    assert set(mixture_genders([*ids, "10-1-0000_10-1-0001"], made / "Libri2Mix" / "wav8k" / "min").values()) == {"FF"}


def test_another_seed_or_count_is_not_silently_ignored(folders, repository, made):
    times = {path: path.stat().st_mtime_ns for path in made.rglob("*.wav")}
    for options, message in (
        (["--seed", "6"], "with --seed 5, not 6"),
        (["--count", "train-clean-100=9"], "12, not 9"),
    ):
        ended = run(repository, folders, made, *options)
        assert ended.returncode == 1 and message in ended.stderr and len(ended.stderr.splitlines()) == 1
    ended = run(repository, folders, made)  # goes on with what is there
    assert ended.returncode == 0 and times == {path: path.stat().st_mtime_ns for path in made.rglob("*.wav")}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--count", "train-clean-100=many"], "--count train-clean-100=many: write SPLIT=N"),
        (["--splits", "dev-clean"], "has no folder dev-clean"),
        (["--n-src", "3", "--seed", "-1"], "--seed -1: give 0 or more"),
        (["--metadata", "nowhere"], "nowhere has no libri2mix_<split>.csv"),
        (["--metadata", "nowhere", "--seed", "3"], "--count and --seed are for drawing"),
    ],
)
def test_wrong_options_are_one_line(folders, repository, tmp_path, options, message):
    ended = run(repository, folders, tmp_path, *options)
    assert ended.returncode == 1 and message in ended.stderr and len(ended.stderr.splitlines()) == 1
    assert not list(tmp_path.rglob("*.wav"))


def test_a_later_start_still_has_voice_behind_it():
    random = np.random.default_rng(0)
    early = IndexedRecording("a", "a", 320000, 16000, -25.0, np.array([[0, 1], [1.5, 2]], "f4"))
    starts = [_draw_start(early, random) for _ in range(200)]
    assert len(set(starts)) > 100 and max(starts) <= 1.5 * 16000
    short = recording("b", "b")._replace(activity=np.array([[0, 0.2]], "f4"))
    assert {_draw_start(short, random) for _ in range(20)} == {0}
