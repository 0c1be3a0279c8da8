"""Items of a corpus on disk: aligned, reproducible, speed-perturbed with the noise added afterwards."""

import numpy as np
import pytest

from tests.corpus import make_corpus
from unified_sess.data.corpora import find_corpus, prepare_manifests
from unified_sess.data.dataset import MixtureDataset
from unified_sess.data.manifest import read_manifest


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    folder = make_corpus(tmp_path_factory.mktemp("corpus"))
    corpus = find_corpus(folder)
    return read_manifest(prepare_manifests(corpus, folder / "save", progress=False)["train"], corpus.root)


def test_mixture_sources_and_clean_mixture_are_cut_alike(manifest):
    dataset = MixtureDataset(manifest, 8000)
    whole, part = dataset[(1, 3, None)], dataset[(1, 3, 2000)]
    start = next(
        s
        for s in range(len(whole["mixture"]) - 1999)
        if np.array_equal(whole["mixture"][s : s + 2000], part["mixture"])
    )
    for key in ("clean", "sources"):
        assert np.array_equal(whole[key][start : start + 2000], part[key])
    assert np.abs(part["sources"].sum(1) - part["clean"]).max() < 1e-6


def test_dataset_0_is_the_first_whole_mixture(manifest):
    dataset = MixtureDataset(manifest, 8000)
    assert np.array_equal(dataset[0]["mixture"], dataset[(0, 0, None)]["mixture"])
    assert [item["id"] for item in dataset] == [row.id for row in manifest]


def test_an_item_depends_on_seed_epoch_and_index_alone(manifest):
    def item(seed, epoch, index, factors=(0.95, 1, 1.05)):
        return MixtureDataset(manifest, 8000, seed, factors)[(epoch, index, 3000)]["mixture"]

    first = item(1, 2, 0)
    dataset = MixtureDataset(manifest, 8000, 1, (0.95, 1, 1.05))
    dataset[(2, 4, 3000)]  # another item before it
    assert np.array_equal(dataset[(2, 0, 3000)]["mixture"], first)
    assert not np.array_equal(item(2, 2, 0), first)
    assert not np.array_equal(item(1, 3, 0), first)


def test_speed_perturbation_adds_the_noise_afterwards(manifest):
    dataset = MixtureDataset(manifest, 8000, 0, [0.95, 1.05])
    for index in range(len(dataset)):
        item = dataset[(1, index, None)]
        assert np.abs(item["sources"].sum(1) - item["clean"]).max() < 1e-6
        noise = item["mixture"] - item["clean"]
        row = manifest[index]
        original = MixtureDataset(manifest, 8000)[(1, index, None)]
        wanted = original["mixture"] - original["clean"]
        lags = range(len(wanted) - len(noise) + 1)
        assert min(np.abs(wanted[lag : lag + len(noise)] - noise).max() for lag in lags) < 1e-5
        assert len(item["mixture"]) <= row.frames


def test_speed_changes_the_pitch(manifest):
    slow = MixtureDataset(manifest, 8000, 0, [0.8])[(1, 0, 6000)]["sources"][:, 0]
    same = MixtureDataset(manifest, 8000, 0, [1.0])[(1, 0, 6000)]["sources"][:, 0]

    def centroid(x):
        power = np.abs(np.fft.rfft(x)) ** 2
        return (power * np.arange(len(power))).sum() / power.sum()

    assert centroid(slow) / centroid(same) == pytest.approx(0.8, abs=0.08)
