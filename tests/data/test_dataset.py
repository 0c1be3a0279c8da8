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


@pytest.mark.parametrize("factors", [None, (0.95, 1.05)])
def test_remixing_pairs_people_and_noise_anew_each_epoch(manifest, factors):
    dataset = MixtureDataset(manifest, 8000, speed_factors=factors, remix=True)
    items = [dataset[(epoch, 0, 2000)] for epoch in range(8)]
    for item in items:
        assert np.array_equal(item["clean"], item["sources"].sum(1))
        assert len(item["mixture"]) == 2000 and np.abs(item["mixture"] - item["clean"]).max() > 0
    assert np.array_equal(dataset[(3, 0, 2000)]["mixture"], items[3]["mixture"])
    assert len({item["sources"][:, 1].tobytes() for item in items}) > len(items) // 2


def test_remixing_keeps_the_first_person_and_takes_the_others_from_the_corpus(manifest):
    there = [MixtureDataset(manifest, 8000)[k] for k in range(len(manifest))]
    partners = set()
    for epoch in range(12):
        item = MixtureDataset(manifest, 8000, remix=True)[(epoch, 2, 400)]
        first = [k for k, t in enumerate(there) if _holds(t["sources"][:, 0], item["sources"][:, 0])]
        partners.update(k for k, t in enumerate(there) if _holds(t["sources"][:, 1], item["sources"][:, 1]))
        assert first == [2]
        noise = item["mixture"] - item["clean"]
        assert any(_holds(t["mixture"] - t["clean"], noise) for t in there)
    assert len(partners) > 1


def _holds(whole, piece):
    """Whether a signal holds a piece of it, up to rounding."""
    windows = np.lib.stride_tricks.sliding_window_view(whole, len(piece))
    near = np.flatnonzero(np.abs(windows[:, :4] - piece[:4]).max(1) < 1e-4)
    return any(np.abs(windows[k] - piece).max() < 1e-4 for k in near)
