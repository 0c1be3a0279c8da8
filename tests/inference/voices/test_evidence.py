"""Evidence that is gathered in pieces."""

import numpy as np
import pytest

from unified_sess.inference.voices import evidence
from unified_sess.inference.voices.evidence import CHUNK, Listener


@pytest.mark.parametrize("seconds", [0.1, 20, 75])
def test_pieces_give_the_same_as_the_whole(seconds):
    random = np.random.default_rng(0)
    tracks = random.standard_normal((int(8000 * seconds), 2)).astype(np.float32) * 0.1
    found = []
    for cuts in ([], sorted(random.integers(0, len(tracks), 9))):
        listener = Listener(2, 8000)
        for piece in np.split(tracks, cuts):
            listener.add(piece)
        found.append(listener.finish())
    np.testing.assert_allclose(found[0].embeddings, found[1].embeddings, atol=1e-5)
    np.testing.assert_allclose(found[0].powers, found[1].powers)
    for one, other in zip(found[0][3:5], found[1][3:5], strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4)
    assert found[0].powers.shape == (3, -(-len(tracks) // 2048)) and len(found[0].stretches) <= len(found[0].short)


def test_chunks_leave_no_seam():
    random = np.random.default_rng(0)
    unit = Listener(2, 8000).encoder.unit
    tracks = np.tile(random.standard_normal((unit * 10, 2)), (CHUNK // 5, 1)).astype(np.float32) * 0.1
    listener = Listener(2, 8000)
    listener.add(tracks)
    found = listener.finish().embeddings[0]
    np.testing.assert_allclose(found[CHUNK - 6 : CHUNK + 4], found[CHUNK - 16 : CHUNK - 6], atol=1e-3)


def test_silence_is_no_evidence():
    listener = Listener(2, 8000)
    listener.add(np.zeros((30000, 2)))
    found = listener.finish()
    assert (found.embeddings == 0).all() and (found.powers == 0).all()


def test_nothing_at_all():
    listener = Listener(2, 8000)
    found = listener.finish()
    assert found.powers.shape == (3, 0) and found.stretches.shape == found.short.shape == (0, 2)


def test_the_digest_changes_with_weights_and_rules(tmp_path, monkeypatch):
    """Results that other weights or rules made are not taken for finished ones."""
    monkeypatch.setattr(evidence, "WEIGHTS", tmp_path / "a.npz")
    digests = []
    for weights, rules in ((b"one", 1), (b"two", 1), (b"two", 2)):
        (tmp_path / "a.npz").write_bytes(weights)
        monkeypatch.setattr(evidence, "RULES", rules)
        digests.append(evidence._shipped_digest.__wrapped__())
    assert len(set(digests)) == 3
