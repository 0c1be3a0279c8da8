"""Whether a recording holds one person or more, of its voices and of how its tracks fit together."""

import numpy as np

from unified_sess.inference.activity import moving_mean, quiet_without_turns
from unified_sess.inference.voices.encoder import SPAN, UNIT
from unified_sess.inference.voices.evidence import Evidence
from unified_sess.inference.voices.speech import SMOOTHING

SHORTEST = 6.0  # s of speech, under which voices are not known well enough to tell whose turn it is
# One person: how much stretches of tracks sound like two (logits), less `AGREEING` times the agreement of all embeddings,
# is at most so much with so many s of speech, and between them by their logarithm: the longer, the surer it has to be.
# And all but `FEW` of the short stretches stay under `SURELY`, where two who sometimes talk at once do not.
# Or all tracks but one seem to be echoes, `ECHO_LEVEL` below it and never the loudest for `SHORTEST_TURN`, of voices that
# agree at least by `ECHOING`. Two people on one track are worse than one on two.
AGREEING, ONE_PERSON, SPEECH = 14.0, (-6.4, -12.4), (4.0, 64.0)
ECHOING, SHORTEST_TURN = 0.45, 0.6  # s
LOUD, LOUD_SHORT = -30.0, -15.0  # dB under the loudest stretch, where a stretch counts, and a short one
FEW, SURELY = 0.1, 1.0


def is_one_person(evidence: Evidence, counts: np.ndarray, embeddings: np.ndarray, weights: np.ndarray) -> bool:
    """Whether one person talks.

    Arguments
    ---------
    evidence : Evidence
        Of the whole recording.
    counts : numpy.ndarray
        How much its signals count, see `speech_in`.
    embeddings, weights : numpy.ndarray
        `[embeddings, size]` of the recording by the network that ships, or of moments evenly spread over it, and how much
        each counts.
    """
    seconds = counts[-1].sum() * UNIT
    agreement = _agreement(embeddings, weights, seconds)
    two = _loud(evidence.stretches, LOUD).mean() - AGREEING * agreement
    surest = np.quantile(_loud(evidence.short, LOUD_SHORT), 1 - FEW)
    if two < np.interp(np.log(seconds), np.log(SPEECH), ONE_PERSON) and surest < SURELY:
        return True
    return seconds >= SHORTEST and agreement > ECHOING and _only_echoes(evidence.powers[:-1].T, counts[-1] > 0.5)


def both_throughout(short: np.ndarray) -> bool:
    """Whether two people talk at once all the time: all but `FEW` of the short stretches `[stretches, 2]` sound like two.

    Example
    -------
    >>> both_throughout(np.array([[2.0, 1.0], [1.5, 0.5], [-3.0, 1e-3]]))
    True
    """
    return bool(np.quantile(_loud(short, LOUD_SHORT), FEW) > 0)


def _only_echoes(powers, speech):
    """Whether all tracks but the loudest are echoes, of powers `[units, tracks]` and where there is speech, `[units]`."""
    levels = moving_mean(powers, SMOOTHING).max(0)
    echoes = quiet_without_turns(levels, powers, speech, SHORTEST_TURN / UNIT)
    return np.delete(echoes, powers.sum(0).argmax()).all()


def _loud(stretches, level):
    """How much stretches `[stretches, 2]` sound like two people, those at most `level` dB quieter than the loudest."""
    logits, powers = stretches.T
    return logits[powers >= powers.max() * 10 ** (level / 10)]


def _agreement(embeddings, weights, seconds):
    """Root of the mean cosine of two embeddings of `[embeddings, size]` that hear different speech, 1 where all are alike.

    It is the length of their mean, without what few of them agree by chance: `seconds` of speech hold so many spans.
    """
    spans = max(seconds / (SPAN * UNIT), 2.0)
    square = np.square(weights @ embeddings.astype(np.float32) / max(weights.sum(), 1e-12)).sum()
    return np.sqrt(max((spans * square - 1) / (spans - 1), 0.0))
