"""Dynamic mixing: repeatable, never silent, distinct speakers."""

import numpy as np
import pytest

from tests.data.folders import make_folders
from unified_sess.data.dynamic_mixing import DynamicMixingDataset
from unified_sess.errors import UserError


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("dynamic")
    return (*make_folders(root), root / "index")


def make(folders, **options):
    speech, noise, index = folders
    return DynamicMixingDataset(speech, noise, index, workers=1, mixtures_per_epoch=20, **options)


def test_keys_alone_decide_an_item(folders):
    first, second = make(folders, seed=3), make(folders, seed=3)
    for index in (4, 1):  # another order, another object: as another worker or a resumed run would
        first[0, 7, 8000]
        np.testing.assert_array_equal(first[2, index, 8000]["mixture"], second[2, index, 8000]["mixture"])
    assert not np.array_equal(first[2, 1, 8000]["mixture"], first[3, 1, 8000]["mixture"])
    assert not np.array_equal(first[2, 1, 8000]["mixture"], make(folders, seed=4)[2, 1, 8000]["mixture"])


def test_items(folders):
    data = make(folders, num_spks=3, training_signal_len=12000)
    assert len(data) == 20 and set(data.frames) == {12000}
    for index in range(20):
        item = data[0, index, None]
        assert item["sources"].shape == (12000, 3) and item["mixture"].dtype == np.float32
        assert np.abs(item["mixture"]).max() <= 0.9001
        np.testing.assert_allclose(item["clean"], item["sources"].sum(1), atol=1e-6)
        assert (np.square(item["sources"]).mean(0) > 1e-6).all()  # no silent source
        speakers = [name.split("-")[0] for name in item["id"].split("-", 2)[2].split("_")]
        assert len(set(speakers)) == 3


def test_without_noise_the_mixture_is_clean(folders):
    item = make((folders[0], None, folders[2]))[0, 0, 4000]
    np.testing.assert_allclose(item["mixture"], item["clean"], atol=1e-6)


def test_too_few_speakers(folders):
    with pytest.raises(UserError, match="4 speakers where a mixture needs 5"):
        make(folders, num_spks=5)
