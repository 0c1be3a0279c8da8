"""The likeliest course through a recording (Viterbi)."""

import numpy as np

CHANGE = 1.5  # evidence that a change of the course needs


def likeliest(scores: np.ndarray) -> np.ndarray:
    """The path `[..., units]` through `[..., units, ways]` with the largest sum, in which a change costs `CHANGE`.

    Example
    -------
    >>> likeliest(np.array([[9, 0], [0, 1], [9, 0], [0, 9], [0, 9]])).tolist()
    [0, 0, 0, 1, 1]
    """
    scores = np.moveaxis(scores, -2, 0)  # [units, ..., ways]
    best, came, ways = scores[0], [], np.arange(scores.shape[-1])
    for score in scores[1:]:
        most = best.max(-1, keepdims=True)
        stays = best >= most - CHANGE
        came.append(np.where(stays, ways, best.argmax(-1)[..., None]))
        best = np.where(stays, best, most - CHANGE) + score
    path = [best.argmax(-1)[..., None]]
    for before in reversed(came):
        path.append(np.take_along_axis(before, path[-1], -1))
    return np.stack(path[::-1], axis=-1)[..., 0, :]
