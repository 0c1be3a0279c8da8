"""Models that the tests of inference share."""

import pytest
import torch

from tests.inference.results import make_results
from tests.inference.training import trained
from unified_sess.inference.export import export


@pytest.fixture(scope="session")
def trained_model(tmp_path_factory):
    """Model folder of a small network that separates a low from a high voice (`tests.inference.training`), 8 kHz."""
    folder = tmp_path_factory.mktemp("trained")
    torch.manual_seed(0)
    content, modules = trained()
    make_results(folder / "results", modules=modules, content=content, si_snri=(17.0,))
    return export(folder / "results", folder / "model")


@pytest.fixture(scope="session")
def random_model(tmp_path_factory):
    """Model folder of a tiny network with random weights, two speakers, 8 kHz."""
    folder = tmp_path_factory.mktemp("random")
    torch.manual_seed(0)
    make_results(folder / "results", si_snri=(5.0,))
    return export(folder / "results", folder / "model")
