"""A small bank of rooms and folders of synthetic speech, made once."""

import pytest

from tests.data.folders import make_folders
from unified_sess.data.dynamic_mixing import DynamicMixingDataset

ROOMS = {"room_count": 4, "rt60": [0.2, 0.4]}


@pytest.fixture(scope="session")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("scenes")
    return (*make_folders(root, utterances=3), root / "index")


@pytest.fixture
def make(folders):
    """Makes a dataset of scenes from options."""

    def make(scenes, noise=True, **options):
        speech, noises, index = folders
        settings = {"num_spks": 3, "mixtures_per_epoch": 20, "speed_factors": None, "workers": 1} | options
        return DynamicMixingDataset(speech, noises if noise else None, index, scenes=ROOMS | scenes, **settings)

    return make
