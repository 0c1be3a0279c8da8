"""Whose voice each track holds, moment by moment: the likeliest course of a recording."""

import itertools

import numpy as np

from unified_sess.inference.activity import moving_mean, quiet_without_turns
from unified_sess.inference.tracker import best_order
from unified_sess.inference.voices.clusters import find_voices
from unified_sess.inference.voices.encoder import SPAN, UNIT
from unified_sess.inference.voices.evidence import Evidence

MOST_TRACKS = 3  # of more the ways to give tracks to voices become too many
SHORTEST = 6.0  # s of speech, under which voices are not known well enough to tell whose turn it is
FEWEST = 2.0  # s of speech, under which one person is not told from two
SMOOTHING = 5  # units over which levels are averaged
QUIET = -20.0  # dB under the loud moments of the recording, where speech begins to count
LEAK = -12.0  # dB under the loudest track of a moment, where a track begins to count: what is quieter is its echo
SOFTNESS = 3.0  # dB over which a track comes to count
MOST_UNITS = 4000  # of a recording, evenly spread, from which its voices are learnt: memory stays bounded
HEARD = 0.3  # weight that an embedding needs to tell voices apart
# One person: how much stretches of tracks sound like two (logits), less `AGREEING` times the agreement of all embeddings,
# is at most so much with so many s of speech, and between them by their logarithm: the longer, the surer it has to be.
# Or all tracks but one seem to be echoes, `ECHO_LEVEL` below it and never the loudest for `SHORTEST_TURN`, of voices that
# agree at least by `ECHOING`. Two people on one track are worse than one on two.
AGREEING, ONE_PERSON, SPEECH = 14.0, (-6.4, -12.4), (4.0, 64.0)
ECHOING, SHORTEST_TURN = 0.45, 0.6  # s
LOUD = -30.0  # dB under the loudest stretch, where a stretch counts
ALIKE = 0.45  # cosine of two of three directions from which they are one voice
WHOLE = 1.0  # what the sum of the tracks says, relative to a track, where all of it is one voice
MIXED = 0.15  # how well the sum fits a voice where it holds another one too
SURE = 2.0  # evidence of a unit that fits one voice and not the other
CHANGE = 1.5  # evidence that a change of the course needs


def owners(evidence: Evidence, several: bool = False) -> np.ndarray:
    """Whose voice is on each track, `[units, tracks]`: numbers of voices from 0; all tracks of a person alone are his.

    A voice that is spread over the tracks, or on another one than before, is recognised by its sound. Where the whole
    recording sounds alike, and its tracks as parts of one voice, there is one person, on the track of most energy.
    Otherwise the course of a recording is the likeliest path (Viterbi) through the ways to give the tracks to the voices,
    if it is long enough to know them.

    Arguments
    ---------
    evidence : Evidence
        Of the whole recording, of at most `MOST_TRACKS` tracks.
    several : bool
        Two or more people are known to talk.

    Returns
    -------
    numpy.ndarray
        int `[units, tracks]`.
    """
    tracks = len(evidence.powers) - 1
    stay = np.tile(np.arange(tracks), (evidence.powers.shape[1], 1))
    if not evidence.powers.any():
        return stay
    counts = _weights(evidence.powers)
    seconds = counts[-1].sum() * UNIT
    if seconds < (SHORTEST if several else FEWEST):
        return stay
    some = slice(None, None, -(-counts.shape[1] // MOST_UNITS))
    used = np.where(counts > HEARD, np.square(counts), 0)[:, some].ravel()
    heard = evidence.embeddings[:, some].reshape(len(used), -1)
    main = evidence.powers[:-1].sum(1).argmax()
    if not several and _one_person(evidence, counts, _agreement(heard, used, seconds)):
        return np.full_like(stay, main)
    if seconds < SHORTEST:
        return stay
    voices = find_voices(heard, used, 2, same=1.0)
    if tracks > 2:
        voices = max(voices, find_voices(heard, used, tracks, ALIKE), key=len)
    if len(voices) < 2:
        return np.full_like(stay, main)
    fit = _fits(evidence.embeddings, voices)
    ways = np.array(list(itertools.product(range(len(voices)), repeat=tracks)))
    way = _likeliest(_scores(fit, counts, ways))
    # Each voice keeps the track that it has most of the time.
    own = np.zeros((tracks, tracks))
    own[: len(voices)] = np.einsum("tuv,tu->vt", fit[:tracks], counts[:tracks])
    return np.array(best_order(own))[ways[way]]


def _weights(powers):
    """How much each signal counts, 0 to 1, `[signals, units]`: whether there is speech, and a track is no leak."""
    level = 10 * np.log10(np.maximum(moving_mean(powers.T, SMOOTHING).T, 1e-30))
    speech = _step(level - np.percentile(level[-1], 95) - QUIET)
    speech[:-1] *= _step(level[:-1] - level[:-1].max(0) - LEAK)
    return speech


def _one_person(evidence, counts, agreement):
    """Whether one person talks, of how much the signals count and the agreement of all embeddings."""
    seconds = counts[-1].sum() * UNIT
    two = _two_people(evidence.stretches) - AGREEING * agreement
    if two < np.interp(np.log(seconds), np.log(SPEECH), ONE_PERSON):
        return True
    return seconds >= SHORTEST and agreement > ECHOING and _only_echoes(evidence.powers[:-1].T, counts[-1] > 0.5)


def _only_echoes(powers, speech):
    """Whether all tracks but the loudest are echoes, of powers `[units, tracks]` and where there is speech, `[units]`."""
    levels = moving_mean(powers, SMOOTHING).max(0)
    echoes = quiet_without_turns(levels, powers, speech, SHORTEST_TURN / UNIT)
    return np.delete(echoes, powers.sum(0).argmax()).all()


def _two_people(stretches):
    """Mean of what the loud stretches `[stretches, 2]` sound like."""
    logits, powers = stretches.T
    return logits[powers >= powers.max() * 10 ** (LOUD / 10)].mean()


def _agreement(embeddings, weights, seconds):
    """Root of the mean cosine of two embeddings of `[embeddings, size]` that hear different speech, 1 where all are alike.

    It is the length of their mean, without what few of them agree by chance: `seconds` of speech hold so many spans.
    """
    spans = max(seconds / (SPAN * UNIT), 2.0)
    square = np.square(weights @ embeddings.astype(np.float32) / max(weights.sum(), 1e-12)).sum()
    return np.sqrt(max((spans * square - 1) / (spans - 1), 0.0))


def _step(decibels):
    return 1 / (1 + np.exp(-np.clip(decibels / SOFTNESS, -50, 50)))


def _fits(embeddings, voices):
    """How well each signal fits each voice, about -0.5 to 0.5 of two, `[signals, units, voices]`."""
    cosines = voices @ voices.T
    apart = 1 - (cosines.sum() - len(voices)) / (len(voices) * (len(voices) - 1))
    fit = embeddings @ voices.T.astype(np.float32)
    return np.clip((fit - fit.mean(2, keepdims=True)) / apart, -0.75, 0.75)


def _scores(fit, counts, ways):
    """Evidence of every way to give tracks to voices, `[units, ways]`."""
    weighted = fit * counts[..., None]
    scores = sum(weighted[track][:, voice] for track, voice in enumerate(ways.T))
    alone = (ways == ways[:, :1]).all(1)
    scores[:, alone] += WHOLE * (weighted[-1] - MIXED * counts[-1][:, None])[:, ways[alone, 0]]
    return 2 * SURE * scores


def _likeliest(scores):
    """The path `[units]` through `[units, ways]` with the largest sum, in which a change costs `CHANGE`."""
    units, ways = scores.shape
    best, came = scores[0], np.zeros((units, ways), int)
    for unit in range(1, units):
        jump = best.max() - CHANGE
        came[unit] = np.where(best >= jump, np.arange(ways), best.argmax())
        best = np.maximum(best, jump) + scores[unit]
    path = np.zeros(units, int)
    path[-1] = best.argmax()
    for unit in range(units - 1, 0, -1):
        path[unit - 1] = came[unit, path[unit]]
    return path
