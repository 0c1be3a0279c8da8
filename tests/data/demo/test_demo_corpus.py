"""The demo corpus: layout, disjoint speakers that sound different, exact mixtures, whole or absent."""

import subprocess
import sys

import numpy as np
import pytest
import soundfile

from unified_sess.data.corpora import find_corpus, prepare_manifests
from unified_sess.data.demo import corpus as demo_corpus
from unified_sess.data.demo.corpus import PARTS, CorpusSize, make_demo_corpus
from unified_sess.data.demo.speech import make_sentence, make_voices, speak
from unified_sess.data.manifest import read_manifest

pytest.importorskip("espeakng_loader")

SMALL_CORPUS = {"train-100": CorpusSize(3, 2, 2, 3), "dev": CorpusSize(2, 1, 2, 2), "test": CorpusSize(2, 1, 2, 2)}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return make_demo_corpus(tmp_path_factory.mktemp("data") / "demo", parts=SMALL_CORPUS, progress=False)


def test_layout_and_sums(corpus, tmp_path):
    found = find_corpus(corpus, num_spks=2)
    manifests = prepare_manifests(found, tmp_path, progress=False)
    for part, count in (("train", 3), ("valid", 2), ("test", 2)):
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
            for signal in (*sources, noise):
                assert np.sqrt(np.mean(signal**2)) > 1e-3


def test_the_same_seed_makes_the_same_corpus_in_a_fresh_process(tmp_path):
    script = """if True:
        import sys
        from unified_sess.data.demo.corpus import CorpusSize, make_demo_corpus
        parts = {"train-100": CorpusSize(2, 1, 1, 2)}
        make_demo_corpus(sys.argv[1], seed=int(sys.argv[2]), parts=parts, progress=False)
    """

    def contents(name, seed):
        folder = tmp_path / name
        subprocess.run([sys.executable, "-c", script, str(folder), str(seed)], check=True)
        return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*.wav"))}

    first = contents("first", 0)
    assert len(first) == 10
    assert contents("again", 0) == first
    assert contents("other", 1) != first


def test_there_are_enough_voices_and_no_two_are_one():
    count = sum(p.speakers + p.babblers for p in PARTS.values())
    voices = make_voices(count)
    assert len({v.name for v in voices}) == count
    assert sum(p.speakers for p in PARTS.values()) >= 24


def test_voices_sound_different():
    text = "the old captain watched the river"

    def envelope(voice):
        signal = speak(voice, text, 8000)
        power = np.abs(np.fft.rfft(signal, 65536)) ** 2
        bands = np.log(power[:32768].reshape(64, -1).mean(1) + 1e-9)
        return bands - bands.mean()

    envelopes = np.stack([envelope(v) for v in make_voices(12)])
    distances = np.abs(envelopes[:, None] - envelopes[None]).mean(-1)[~np.eye(12, dtype=bool)]
    assert distances.min() > 0.1  # nepers; 0 would be one voice under two names


def test_sentences_differ():
    random = np.random.default_rng(0)
    assert len({make_sentence(random) for _ in range(200)}) > 195


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
