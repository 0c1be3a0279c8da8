"""Whose voice each track holds, moment by moment: the likeliest course of a recording."""

import itertools

import numpy as np

from unified_sess.inference.tracker import best_order
from unified_sess.inference.voices.clusters import find_voices, pairs_of_voices
from unified_sess.inference.voices.course import WAYS, log_likelihoods
from unified_sess.inference.voices.encoder import UNIT
from unified_sess.inference.voices.evidence import Evidence
from unified_sess.inference.voices.pairs import LIKELIHOOD, MOST_UNITS, best_pair, fits
from unified_sess.inference.voices.paths import likeliest
from unified_sess.inference.voices.people import SHORTEST, both_throughout, is_one_person
from unified_sess.inference.voices.speech import speech_in, worth_hearing

MOST_TRACKS = 3  # of more the ways to give tracks to voices become too many
FEWEST = 2.0  # s of speech, under which one person is not told from two
# Of three tracks, where nothing was learnt:
ALIKE = 0.45  # cosine of two of three directions from which they are one voice
WHOLE = 1.0  # what the sum of the tracks says, relative to a track, where all of it is one voice
MIXED = 0.15  # how well the sum fits a voice where it holds another one too
SURE = 2.0  # evidence of a unit that fits one voice and not the other


def owners(evidence: Evidence, several: bool = False) -> np.ndarray:
    """Whose voice is on each track, `[units, tracks]`: numbers of voices from 0; all tracks of a person alone are his.

    A voice that is spread over the tracks, or on another one than before, is recognised by its sound. Where the whole
    recording sounds alike, and its tracks as parts of one voice, there is one person, on the track of most energy.
    Where two people talk at once throughout, voices are known least, and the tracks stay as the network has them.
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
    counts = speech_in(evidence.powers)
    seconds = counts[-1].sum() * UNIT
    if seconds < (SHORTEST if several else FEWEST):
        return stay
    some = slice(None, None, -(-counts.shape[1] // MOST_UNITS))
    used = worth_hearing(counts)
    heard = evidence.embeddings[:, some].reshape(-1, evidence.embeddings.shape[2]), used[:, some].ravel()
    alone = np.full_like(stay, evidence.powers[:-1].sum(1).argmax())
    own = evidence.embeddings if evidence.shipped is None else evidence.shipped
    if not several and is_one_person(evidence, counts, own[:, some].reshape(-1, own.shape[2]), heard[1]):
        return alone
    if seconds < SHORTEST or tracks == 2 and both_throughout(evidence.short):
        return stay
    voices = find_voices(*heard, 2, same=1.0)
    if tracks > 2:
        voices = max(voices, find_voices(*heard, tracks, ALIKE), key=len)
    if len(voices) < 2:
        return alone
    if tracks == 2:
        voices = best_pair(evidence, counts, used, np.concatenate((voices[None], pairs_of_voices(*heard))))
    fit = fits(evidence.embeddings, voices)
    if tracks == 2:
        ways, scores = WAYS, LIKELIHOOD * log_likelihoods(evidence, fit)
    else:
        ways = np.array(list(itertools.product(range(len(voices)), repeat=tracks)))
        scores = _scores(fit, counts, ways)
    way = likeliest(scores)
    # Each voice keeps the track that it has most of the time.
    own = np.zeros((tracks, tracks))
    own[: len(voices)] = np.einsum("tuv,tu->vt", fit[:tracks], counts[:tracks])
    return np.array(best_order(own))[ways[way]]


def first_fit(evidence: Evidence) -> np.ndarray | None:
    """How well the signals fit two voices found by k-means alone, `[signals, units, 2]`; None of less than two voices."""
    used = worth_hearing(speech_in(evidence.powers))
    voices = find_voices(evidence.embeddings.reshape(used.size, -1), used.ravel(), 2, same=1.0)
    return fits(evidence.embeddings, voices) if len(voices) == 2 else None


def _scores(fit, counts, ways):
    """Evidence of every way to give tracks to voices, `[units, ways]`."""
    weighted = fit * counts[..., None]
    scores = sum(weighted[track][:, voice] for track, voice in enumerate(ways.T))
    alone = (ways == ways[:, :1]).all(1)
    scores[:, alone] += WHOLE * (weighted[-1] - MIXED * counts[-1][:, None])[:, ways[alone, 0]]
    return 2 * SURE * scores
