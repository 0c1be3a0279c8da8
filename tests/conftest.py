"""Fixtures shared by all tests."""

import os
import signal
import threading
from pathlib import Path

# Two test processes on two cores: more threads would only wait for each other. Before torch is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch

REPOSITORY = Path(__file__).resolve().parent.parent

# A shell starts what runs in its background with Ctrl-C ignored, and programs that the tests start would inherit it.
if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def repository():
    """Path of the checkout."""
    return REPOSITORY


@pytest.fixture(scope="session")
def corpora():
    """Folder with real speech (`LibriSpeech`) and real ambience (`wham_noise`); skips where it is absent."""
    folder = Path(os.environ.get("UNIFIED_SESS_CORPORA", REPOSITORY.parent / "shared" / "corpora"))
    if not (folder / "LibriSpeech").is_dir():
        pytest.skip("no real corpora: set UNIFIED_SESS_CORPORA")
    return folder


@pytest.fixture(autouse=True)
def seeded():
    """Every test starts from the same random state."""
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def trained_model(tmp_path_factory):
    """Model folder of a small network that separates a low from a high voice (`tests.inference.training`), 8 kHz."""
    from tests.inference.training import trained

    torch.manual_seed(0)
    content, modules = trained()
    return _exported(tmp_path_factory.mktemp("trained"), modules=modules, content=content, si_snri=(17.0,))


@pytest.fixture(scope="session")
def random_model(tmp_path_factory):
    """Model folder of a tiny network with random weights, two speakers, 8 kHz."""
    torch.manual_seed(0)
    return _exported(tmp_path_factory.mktemp("random"), si_snri=(5.0,))


def _exported(folder, **results):
    from tests.model_io.results import make_results  # slow to import, and few tests need it
    from unified_sess.model_io.export import export

    make_results(folder / "results", **results)
    return export(folder / "results", folder / "model")
