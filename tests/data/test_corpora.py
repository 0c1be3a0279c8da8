"""Detection of layouts and manifests of corpora."""

import shutil

import numpy as np
import pandas as pd
import pytest
import soundfile

from tests.corpus import make_corpus
from unified_sess.data.corpora import find_corpus, prepare_manifests, rate_there
from unified_sess.data.dataset import MixtureDataset
from unified_sess.data.manifest import read_manifest
from unified_sess.utils.errors import UserError


@pytest.fixture
def libri2mix(tmp_path):
    return make_corpus(tmp_path / "Libri2Mix", splits=(("train-100", 3), ("dev", 2), ("test", 2)))


def as_wham(libri, folder, reverb=False):
    """The same mixtures in WHAM!'s folders; in WHAMR!'s each source of a mixture also has an echo."""
    for ours, theirs in (("train-100", "tr"), ("dev", "cv"), ("test", "tt")):
        part = folder / "wav8k/min" / theirs
        shutil.copytree(libri / "wav8k/min" / ours, part)
        for path in sorted((part / "noise").iterdir()) if reverb else ():
            noise, rate = soundfile.read(path, dtype="float32")
            dry = [soundfile.read(part / name / path.name, dtype="float32")[0] for name in ("s1", "s2")]
            wet = [s + 0.7 * np.pad(s, (300, 0))[: len(s)] for s in dry]
            signals = {f"s{k + 1}_anechoic": s for k, s in enumerate(dry)}
            signals |= {f"s{k + 1}_reverb": s for k, s in enumerate(wet)}
            signals |= {"mix_clean_anechoic": sum(dry), "mix_clean_reverb": sum(wet)}
            signals |= {"mix_both_anechoic": sum(dry) + noise, "mix_both_reverb": sum(wet) + noise}
            for name, signal in signals.items():
                (part / name).mkdir(exist_ok=True)
                soundfile.write(part / name / path.name, signal, rate, subtype="FLOAT")
        for name in ("s1", "s2", "mix_clean", "mix_both") if reverb else ():
            shutil.rmtree(part / name)
    return folder


@pytest.mark.parametrize("below", ["", "wav8k", "wav8k/min", ".."])
def test_the_corpus_is_found_from_any_folder_around_it(libri2mix, below):
    corpus = find_corpus(libri2mix / below)
    assert corpus.root.resolve() == (libri2mix / "wav8k/min").resolve()
    assert (corpus.kind, corpus.num_spks) == ("LibriMix", 2)
    assert corpus.splits == {"train": "train-100", "valid": "dev", "test": "test"}


@pytest.mark.parametrize("kind", ["WHAM", "WHAMR"])
def test_wham_names_are_known(libri2mix, tmp_path, kind):
    folder = as_wham(libri2mix, tmp_path / "wham", reverb=kind == "WHAMR")
    corpus = find_corpus(folder, num_spks=2)
    assert corpus.splits == {"train": "tr", "valid": "cv", "test": "tt"}
    manifests = prepare_manifests(corpus, tmp_path / "save", progress=False)
    assert len(read_manifest(manifests["train"], corpus.root)) == 3
    assert corpus.kind == kind


def test_speed_perturbation_keeps_the_reverberation(libri2mix, tmp_path):
    corpus = find_corpus(as_wham(libri2mix, tmp_path / "wham", reverb=True))
    manifests = prepare_manifests(corpus, tmp_path / "save", progress=False)
    data = MixtureDataset(read_manifest(manifests["train"], corpus.root), 8000, 0, [0.8])
    item = data[(1, 0, 6000)]
    echoed = item["sources"].sum(1)
    echoed[375:] += 0.7 * echoed[:-375].copy()  # the echo comes later when slowed down
    error = (item["clean"] - echoed)[1000:-100]  # what comes before the crop echoes into its beginning
    assert np.square(error).mean() < 1e-3 * np.square(item["clean"]).mean()
    for name in ("noise", "mix_clean_reverb"):  # what is missing is computed from the sources as the mixture holds them
        shutil.rmtree(corpus.root / "tr" / name)
    manifests = prepare_manifests(corpus, tmp_path / "save", progress=False)
    manifest = read_manifest(manifests["train"], corpus.root)
    for factors in ([0.8], None):
        whole = MixtureDataset(read_manifest(manifests["train"], corpus.root), 8000, 0, factors)[(1, 0, 6000)]
        if factors:
            np.testing.assert_allclose(whole["mixture"], item["mixture"], atol=1e-6)
    signal, _ = soundfile.read(manifest[0].mixture)
    assert np.abs(whole["mixture"] - whole["clean"]).max() < 0.3 * np.abs(signal).max()


def test_three_speakers_and_the_larger_training_part(tmp_path):
    folder = make_corpus(tmp_path, splits=(("train-100", 1), ("train-360", 2), ("dev", 1), ("test", 1)), num_spks=3)
    assert find_corpus(folder).splits["train"] == "train-360"
    assert find_corpus(folder, train_split="train-100").splits["train"] == "train-100"
    assert find_corpus(folder).num_spks == 3


def test_a_manifest_has_true_durations_and_moves_with_its_folder(libri2mix, tmp_path):
    corpus = find_corpus(libri2mix)
    manifests = prepare_manifests(corpus, tmp_path / "save", progress=False)
    table = pd.read_csv(manifests["train"])
    for _, row in table.iterrows():
        info = soundfile.info(row["mix_wav"].replace("$data_root", str(corpus.root)))
        assert row["duration"] == pytest.approx(info.frames / info.samplerate)
    assert table.filter(like="_wav").map(lambda p: p.startswith("$data_root/")).all().all()
    moved = tmp_path / "elsewhere"
    shutil.move(libri2mix, moved)
    written = manifests["train"].stat().st_mtime_ns
    manifests = prepare_manifests(find_corpus(moved), tmp_path / "save", progress=False)
    assert manifests["train"].stat().st_mtime_ns == written  # not indexed again
    row = read_manifest(manifests["train"], moved / "wav8k/min")[0]
    assert soundfile.info(row.mixture).frames == row.frames


def test_a_changed_file_is_indexed_again(libri2mix, tmp_path):
    manifests = prepare_manifests(find_corpus(libri2mix), tmp_path / "save", progress=False)
    before = pd.read_csv(manifests["train"])["frames"].tolist()
    for path in (libri2mix / "wav8k/min/train-100").glob("*/u0.wav"):
        signal, rate = soundfile.read(path)
        soundfile.write(path, signal[:4000], rate, subtype="FLOAT")
    prepare_manifests(find_corpus(libri2mix), tmp_path / "save", progress=False)
    assert pd.read_csv(manifests["train"])["frames"].tolist() == [4000, *before[1:]]


@pytest.mark.parametrize("name", ["mix_clean", "noise"])
def test_a_missing_clean_mixture_or_noise_is_computed(libri2mix, tmp_path, name):
    corpus = find_corpus(libri2mix)

    def items():
        manifests = prepare_manifests(corpus, tmp_path / "save", progress=False)
        manifest = read_manifest(manifests["train"], corpus.root)
        return [MixtureDataset(manifest, 8000, 0, factors)[(1, 0, 3000)] for factors in (None, [0.95, 1.05])]

    whole = items()
    shutil.rmtree(libri2mix / "wav8k/min/train-100" / name)
    for with_it, without in zip(whole, items()):
        for key in ("mixture", "clean", "sources"):
            assert abs(with_it[key] - without[key]).max() < 1e-6


@pytest.mark.parametrize(
    "wanted, says",
    [
        ({"num_spks": 3}, "holds mixtures of 2 speakers but num_spks is 3"),
        ({"sample_rate": 16000}, "8000 Hz but sample_rate is 16000"),
        ({"mode": "max"}, "no max folder"),
        ({"mode": "mid"}, "mode must be min or max"),
        ({"train_split": "train-360"}, "no train-360"),
    ],
)
def test_a_contradiction_is_one_line(libri2mix, wanted, says):
    with pytest.raises(UserError, match=says) as caught:
        find_corpus(libri2mix, **wanted)
    assert "\n" not in str(caught.value)


def test_a_part_without_mixtures_is_named(libri2mix):
    shutil.rmtree(libri2mix / "wav8k/min/dev")
    with pytest.raises(UserError, match="valid part is missing"):
        find_corpus(libri2mix)


def test_a_source_of_another_length_is_named(libri2mix, tmp_path):
    path = libri2mix / "wav8k/min/dev/s2/u1.wav"
    signal, rate = soundfile.read(path)
    soundfile.write(path, signal[:-5], rate, subtype="FLOAT")
    with pytest.raises(UserError, match=r"s2/u1\.wav has \d+ samples"):
        prepare_manifests(find_corpus(libri2mix), tmp_path / "save", progress=False)
    assert not (tmp_path / "save" / "valid.csv").exists()


@pytest.mark.parametrize(
    ("names", "asked", "found"),
    [
        (["wav8k", "wav16k"], 8000, 8000),
        (["wav8k"], 16000, 8000),
        (["Libri2Mix/wav8k", "Libri2Mix/wav16k"], 44100, 16000),
        (["train"], 16000, 16000),
    ],
)
def test_the_rate_of_a_data_folder_is_the_wanted_one_or_the_highest_there(tmp_path, names, asked, found):
    for name in names:
        (tmp_path / name).mkdir(parents=True)
    assert rate_there(tmp_path, asked) == found
    assert all(rate_there(tmp_path / name / "min", 16000) == 8000 for name in names if name == "wav8k")
