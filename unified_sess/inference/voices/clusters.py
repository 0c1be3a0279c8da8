"""The voices of a recording: directions around which the embeddings of its tracks lie."""

import numpy as np

ROUNDS = 30  # of k-means at most
SHARES = (0.1, 0.3, 0.5, 0.7, 0.9)  # of a cluster's embeddings that start as one part when it is split
WIDEST = 3  # directions in which embeddings differ most, along which they are split into two voices
PARTS = (0.03, 0.08, 0.2, 0.4, 0.6, 0.8, 0.92, 0.97)  # shares of them that one of the voices may have
SAME = 0.03  # largest difference of two pairs of directions that are the same pair


def find_voices(embeddings: np.ndarray, weights: np.ndarray, most: int, same: float) -> np.ndarray:
    """Directions of the voices by spherical k-means; deterministic.

    Arguments
    ---------
    embeddings : numpy.ndarray
        Of length 1, `[embeddings, size]`.
    weights : numpy.ndarray
        How much each counts, `[embeddings]`.
    most : int
        Voices at most.
    same : float
        Cosine of two directions from which they are one voice.

    Returns
    -------
    numpy.ndarray
        `[voices, size]`, of length 1; none where nothing counts.

    Example
    -------
    >>> find_voices(np.eye(2)[[0, 0, 1, 0, 1]], np.ones(5), most=3, same=0.7).round(3).tolist()
    [[1.0, 0.0], [0.0, 1.0]]
    """
    heard = weights > 0
    embeddings, weights = embeddings[heard].astype(np.float64), weights[heard]
    if not len(weights):
        return np.zeros((0, embeddings.shape[1]))
    voices = _directions(embeddings, weights, np.zeros(len(weights), int))
    while len(voices) < most:
        more = _one_more(embeddings, weights, voices)
        if more is None or _nearest_pair(more) >= same:
            break
        voices = more
    return voices


def pairs_of_voices(embeddings: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Directions that may be the voices of two people, `[pairs, 2, size]`; one of them may speak rarely.

    Embeddings are split along the directions in which they differ most, in `PARTS` of many sizes, each as it is and after
    k-means. Arguments as in `find_voices`.

    Example
    -------
    >>> pairs_of_voices(np.eye(2)[[0, 0, 1, 0, 1]], np.ones(5))[0].round(3).tolist()
    [[1.0, 0.0], [0.0, 1.0]]
    """
    heard = weights > 0
    embeddings, weights = embeddings[heard].astype(np.float64), weights[heard]
    found: list[np.ndarray] = []
    if not len(weights):
        return np.zeros((0, 2, embeddings.shape[1]))
    for along in _along_widest(embeddings, weights, WIDEST):
        for share in PARTS:
            label = (along > np.quantile(along, share)).astype(int)
            if label.any():
                settled = _settled(embeddings, weights, label, 2)
                for pair in (settled, _directions(embeddings, weights, label)):
                    if pair is not None and not any(_same_pair(pair, other) for other in found):
                        found.append(pair)
    return np.array(found).reshape(-1, 2, embeddings.shape[1])


def _one_more(embeddings, weights, voices):
    """The best clusters with one of them split, None where none can be."""
    label = (embeddings @ voices.T).argmax(1)
    best, most = None, -np.inf
    for cluster in range(len(voices)):
        members = np.flatnonzero(label == cluster)
        if len(members) < 2:
            continue
        along = _along_widest(embeddings[members], weights[members], 1)[0]
        for share in SHARES:
            start = label.copy()
            start[members[along > np.quantile(along, share)]] = len(voices)
            found = _settled(embeddings, weights, start, len(voices) + 1)
            if found is not None and (fit := (weights * (embeddings @ found.T).max(1)).sum()) > most:
                best, most = found, fit
    return best


def _along_widest(embeddings, weights, count):
    """Positions along the directions in which they differ most, `[count, embeddings]`, the widest first."""
    centred = embeddings - weights @ embeddings / weights.sum()
    _, vectors = np.linalg.eigh((weights[:, None] * centred).T @ centred)
    return (centred @ vectors[:, : -count - 1 : -1]).T


def _same_pair(pair, other):
    return min(np.abs(pair - other).max(), np.abs(pair[::-1] - other).max()) < SAME


def _settled(embeddings, weights, label, count):
    """Directions after k-means from labels, None where a cluster has run empty."""
    for _ in range(ROUNDS):
        if len(np.unique(label)) < count:
            return None
        voices = _directions(embeddings, weights, label)
        before, label = label, (embeddings @ voices.T).argmax(1)
        if (label == before).all():
            break
    return voices


def _directions(embeddings, weights, label):
    sums = np.stack([weights[label == k] @ embeddings[label == k] for k in range(label.max() + 1)])
    return sums / np.maximum(np.linalg.norm(sums, axis=1, keepdims=True), 1e-12)


def _nearest_pair(voices):
    return (voices @ voices.T - 2 * np.eye(len(voices))).max()
