"""The two voices of a recording: of many pairs, the one that explains its two tracks best."""

import numpy as np

from unified_sess.inference.voices.course import WAYS, log_likelihoods
from unified_sess.inference.voices.encoder import UNIT
from unified_sess.inference.voices.evidence import Evidence
from unified_sess.inference.voices.paths import likeliest

MOST_UNITS = 4000  # of a recording, in which pairs are compared: memory stays bounded
BLOCKS = 8  # in which so many units lie together, evenly spread
# How much better two voices explain what is heard than one does, less `ALIKE_COST` times their cosine, and `SURENESS` times
# the mean likelihood of their course and `SHARED` times the share of the one that has less: two people seldom leave all
# speech to one of them. What k-means finds counts more by `FOUND` over the seconds of speech: in short recordings small parts
# explain something by chance.
ALIKE_COST, SURENESS, SHARED, FOUND = 0.1, 0.2, 0.05, 0.25
PROMISING, ROUNDS = 5, 3  # pairs that are taken further, and how often
LIKELIHOOD = 3.0  # weight of its logarithm, relative to what a change of the course costs


def best_pair(evidence: Evidence, counts: np.ndarray, used: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """Directions of two voices `[2, size]`.

    Arguments
    ---------
    evidence : Evidence
        Of two tracks.
    counts, used : numpy.ndarray
        How much its signals, and their embeddings, count, see `speech`.
    pairs : numpy.ndarray
        Those to choose from, `[pairs, 2, size]`; the first is what k-means finds.
    """
    seconds = counts[-1].sum() * UNIT
    some = _blocks(counts.shape[1])
    evidence = evidence._replace(embeddings=evidence.embeddings[:, some], powers=evidence.powers[:, some])
    heard = evidence, counts[-1, some], used[:, some].astype(np.float32)
    worth, refined = _judged(*heard, pairs)
    worth[0] += FOUND / max(seconds, 1.0)
    best, most = pairs[worth.argmax()], worth.max()
    # What a course gives to each voice is nearer to what that sounds like than where the course came from.
    refined = refined[np.argsort(-worth)[:PROMISING]]
    for _ in range(ROUNDS):
        pairs = refined
        worth, refined = _judged(*heard, pairs)
        if worth.max() > most:
            best, most = pairs[worth.argmax()], worth.max()
    return best


def fits(embeddings: np.ndarray, voices: np.ndarray) -> np.ndarray:
    """How well signals `[signals, units, size]` fit each of several voices, about -0.5 to 0.5 of two, `[signals, units, voices]`."""
    cosines = voices @ voices.T
    apart = 1 - (cosines.sum() - len(voices)) / (len(voices) * (len(voices) - 1))
    apart = max(apart, 1e-3)  # of voices that are one
    fit = embeddings @ voices.T.astype(np.float32)
    return np.clip((fit - fit.mean(2, keepdims=True)) / apart, -0.75, 0.75)


def _judged(evidence, speech, used, pairs):
    """What each pair is worth `[pairs]`, and directions of what its course gives to each voice `[pairs, 2, size]`."""
    likelihoods = np.stack([log_likelihoods(evidence, fits(evidence.embeddings, pair)) for pair in pairs])
    embeddings, worth, directions = evidence.embeddings.astype(np.float32), [], []
    for likelihood, way in zip(likelihoods, likeliest(LIKELIHOOD * likelihoods), strict=True):
        sure = np.exp(likelihood[np.arange(len(way)), way]) @ speech / max(speech.sum(), 1e-12)
        theirs = _theirs(used, WAYS[way].T)
        sums = np.einsum("vsu,sue->ve", theirs, embeddings)
        lengths = np.linalg.norm(sums, axis=1)
        # How much nearer embeddings lie to their own voice than to one for all.
        explained = (lengths.sum() - np.linalg.norm(sums.sum(0))) / max(theirs.sum(), 1e-12)
        directions.append(sums / np.maximum(lengths, 1e-12)[:, None])
        shares = theirs.sum((1, 2))
        shared = SHARED * shares.min() / max(shares.sum(), 1e-12)
        worth.append(explained - ALIKE_COST * directions[-1][0] @ directions[-1][1] + SURENESS * sure + shared)
    return np.array(worth), np.array(directions)


def _theirs(used, whose):
    """How much signals count for each voice, `[2, signals, units]`; the sum of the tracks where both are of one voice."""
    own = whose == np.arange(2)[:, None, None]  # [voices, tracks, units]
    return used * np.concatenate((own, own.all(1, keepdims=True)), axis=1)


def _blocks(units):
    """Numbers of at most `MOST_UNITS` of so many units, in blocks that are evenly spread."""
    if units <= MOST_UNITS:
        return np.arange(units)
    size = MOST_UNITS // BLOCKS
    starts = np.linspace(0, units - size, BLOCKS).astype(int)
    return (starts[:, None] + np.arange(size)).ravel()
