"""The demo corpus: layout, parts that share nothing, exact mixtures, levels, whole or absent."""

import csv
import subprocess
import sys

import numpy as np
import pytest
import soundfile

from unified_sess.data.corpora import find_corpus, prepare_manifests
from unified_sess.data.demo import corpus as demo_corpus
from unified_sess.data.demo.corpus import make_demo_corpus
from unified_sess.data.demo.speech import VOICES, read_speech, read_voices
from unified_sess.data.manifest import read_manifest
from unified_sess.data.mixing import NOISE_LOUDNESS, SPEECH_LOUDNESS, measure_loudness
from unified_sess.evaluation.speakers import mixture_genders, mixture_speakers

SMALL_CORPUS = {"train-100": 3, "dev": 2, "test": 4}
MOST_MEGABYTES = 8


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return make_demo_corpus(tmp_path_factory.mktemp("data") / "demo", parts=SMALL_CORPUS, progress=False)


@pytest.fixture(scope="module")
def table():
    with (VOICES / "table.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def base_voices(row):
    return {term.split("*")[1] for name in ("timbre", "prosody") for term in row[name].split("+")}


def test_layout_and_sums(corpus, tmp_path):
    found = find_corpus(corpus, num_spks=2)
    manifests = prepare_manifests(found, tmp_path, progress=False)
    for part, count in (("train", 3), ("valid", 2), ("test", 4)):
        rows = list(read_manifest(manifests[part], found.root))
        assert len(rows) == count
        for row in rows:
            mixture, clean, noise, *sources = (
                soundfile.read(p)[0] for p in (row.mixture, row.clean, row.noise, *row.sources)
            )
            step = 2 / 32768  # files are rounded to 16 bits
            assert np.abs(sum(sources) - clean).max() < 2 * step
            assert np.abs(clean + noise - mixture).max() < 2 * step
            assert np.abs(mixture).max() <= 0.91
            # Loudness is that of whole sentences and tracks, of which a mixture has a piece.
            assert SPEECH_LOUDNESS[0] - 4 < measure_loudness(sources[0], 8000) < SPEECH_LOUDNESS[1] + 4
            assert measure_loudness(noise, 8000) < NOISE_LOUDNESS[1] + 12 and np.abs(noise).max() > 0


def test_two_voices_speak_and_their_sexes_are_known(corpus):
    mixtures = sorted((corpus / "wav8k/min/test/mix_both").glob("*.wav"))
    names = [path.stem for path in mixtures]
    assert all(len(people) == 2 for people in mixture_speakers(names))
    assert set(mixture_genders(names, corpus / "wav8k/min").values()) <= {"FF", "FM", "MM"}
    assert len(mixture_genders(names, corpus / "wav8k/min")) == len(names)


def test_parts_share_no_voice_no_base_voice_and_no_sentence(table):
    parts = {part: [row for row in table if row["part"] == part] for part in ("train", "dev", "test")}
    for column in (lambda row: {row["voice"]}, lambda row: {row["text"]}, base_voices):
        train, dev, test = (set().union(*map(column, rows)) for rows in parts.values())
        assert not (train & dev or train & test or dev & test)
    for rows in parts.values():
        assert {row["sex"] for row in rows} == {"f", "m"}
    assert len({row["text"] for row in table}) == len(table)


def test_there_are_enough_voices_in_few_megabytes(table):
    assert sum(map(len, read_voices().values())) >= 100
    files = {path.relative_to(VOICES).as_posix() for path in VOICES.rglob("*.ogg")}
    assert files == {row["file"] for row in table}
    assert sum(path.stat().st_size for path in VOICES.rglob("*") if path.is_file()) < MOST_MEGABYTES * 1e6


@pytest.mark.parametrize("part", ["train", "dev", "test"])
def test_a_sentence_is_speech_without_silence_at_its_ends(part):
    for voice in read_voices()[part][::10]:
        signal = read_speech(voice.files[0], 8000)
        assert 2 < len(signal) / 8000 < 12
        power = np.square(signal[: len(signal) // 80 * 80]).reshape(-1, 80).mean(1)  # of 10 ms
        loud = np.flatnonzero(power > 1e-4 * power.max())
        assert loud[0] < 20 and loud[-1] >= len(power) - 20
        assert 0.2 < np.abs(signal).max() < 1


def test_voices_sound_different():
    def envelope(voice):
        power = np.abs(np.fft.rfft(read_speech(voice.files[0], 8000), 131072)) ** 2
        bands = np.log(power[:65536].reshape(64, -1).mean(1) + 1e-9)
        return bands - bands.mean()

    envelopes = np.stack([envelope(voice) for voice in read_voices()["test"]])
    distances = np.abs(envelopes[:, None] - envelopes[None]).mean(-1)[~np.eye(len(envelopes), dtype=bool)]
    assert distances.min() > 0.1  # nepers; 0 would be one recording under two names


def test_who_babbles_does_not_speak(corpus, monkeypatch):
    babbling = []
    monkeypatch.setattr(
        demo_corpus, "draw_noise", lambda length, rate, random, voices: babbling.append(voices) or np.ones(length, "f4")
    )
    tracks = []
    original = demo_corpus._noise_track
    monkeypatch.setattr(demo_corpus, "_noise_track", lambda *a: tracks.append(original(*a)) or tracks[-1])
    monkeypatch.setattr(demo_corpus, "FEWEST_TRACKS", 1)
    folder = make_demo_corpus(corpus.with_name("silent"), parts={"dev": 6}, progress=False)
    numbers = [voice.number for voice in read_voices()["dev"]]
    babblers = {numbers[k] for k in tracks[0].babblers}
    names = [path.stem for path in (folder / "wav8k/min/dev/mix_both").glob("*.wav")]
    speakers = {int(number) for people in mixture_speakers(names) for number in people}
    assert len(babbling) == 1 and len(babblers) == demo_corpus.MOST_BABBLERS
    assert not babblers & speakers


@pytest.mark.slow
def test_the_same_seed_makes_the_same_corpus_in_a_fresh_process(tmp_path):
    script = """if True:
        import sys
        from unified_sess.data.demo.corpus import make_demo_corpus
        make_demo_corpus(sys.argv[1], seed=int(sys.argv[2]), parts={"train-100": 2}, progress=False)
    """

    def contents(name, seed):
        folder = tmp_path / name
        subprocess.run([sys.executable, "-c", script, str(folder), str(seed)], check=True)
        return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*.wav"))}

    first = contents("first", 0)
    assert len(first) == 10
    assert contents("again", 0) == first
    assert contents("other", 1) != first


@pytest.mark.slow
def test_killed_while_it_is_made_leaves_nothing_of_its_name(tmp_path, monkeypatch):
    original, calls = demo_corpus.soundfile.write, []

    def dies(*args, **kwargs):
        calls.append(args)
        if len(calls) == 7:
            raise KeyboardInterrupt
        return original(*args, **kwargs)

    monkeypatch.setattr(demo_corpus.soundfile, "write", dies)
    with pytest.raises(KeyboardInterrupt):
        make_demo_corpus(tmp_path / "demo", parts=SMALL_CORPUS, progress=False)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / ".demo.1.tmp").mkdir()  # what a SIGKILL leaves
    make_demo_corpus(tmp_path / "demo", parts=SMALL_CORPUS, progress=False)
    assert [p.name for p in tmp_path.iterdir()] == ["demo"]


def test_it_is_made_once(corpus):
    before = {p: p.stat().st_mtime_ns for p in corpus.rglob("*")}
    assert make_demo_corpus(corpus, parts=SMALL_CORPUS) == corpus
    assert {p: p.stat().st_mtime_ns for p in corpus.rglob("*")} == before
