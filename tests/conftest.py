"""Fixtures shared by all tests."""

import os
from pathlib import Path

# Two test processes on two cores: more threads would only wait for each other. Before torch is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch

REPOSITORY = Path(__file__).resolve().parent.parent


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
