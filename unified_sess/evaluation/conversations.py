"""How well a long conversation is separated: one order of tracks a recording, judged where people talk alone and together.

Pure functions of signals; `conversation_set.py` runs them over a test set.
"""

from typing import NamedTuple

import numpy as np

from unified_sess.evaluation.signals import SILENCE, Undefined, match_estimates, si_snr
from unified_sess.inference.activity import active_tracks, activity, frame_powers

FRAME = 0.25  # s
TALK_THRESHOLD = -30.0  # dB: somebody talks in a frame whose direct path is above this, relative to their loudest frame
QUIET_THRESHOLD = (
    -50.0
)  # dB: nobody else does where the others' reverberant images are below this, relative to their loudest
TRACK_MARGIN = 6.0  # dB by which a voice is on one track and not on another

METRICS = (
    *("si_snr", "si_snri", "right_track", "wrong_track", "other_tracks", "der", "der_missed", "der_false"),
    *("der_confused", "people_found", "people_right", "alone_others"),
)


class SingleTalk(NamedTuple):
    """Where the voice of a person who talks alone is found.

    right, wrong : float
        Share of the time, 0 to 1, in which it is `TRACK_MARGIN` dB louder on its own track than on every other, or on
        another than on its own.
    others : float
        Level in dB of all other tracks together, relative to the right ones; NaN where all are silent.
    seconds : float
        The time in which one person talks alone.
    """

    right: float
    wrong: float
    others: float
    seconds: float


class DiarisationError(NamedTuple):
    """Speech that is missed, false or given to another, each relative to all speech; the error is their sum."""

    missed: float
    false: float
    confused: float

    @property
    def total(self) -> float:
        """The diarisation error rate."""
        return self.missed + self.false + self.confused


def conversation_metrics(
    mixture: np.ndarray,
    direct: np.ndarray,
    images: np.ndarray,
    tracks: np.ndarray,
    sample_rate: int,
    silence_threshold: float | None = None,
) -> dict:
    """Measure the separated tracks of a recording.

    Of more tracks than people those of most energy are matched with them, once for the whole recording, by the best
    mean SI-SNR; all others count as other tracks.

    Arguments
    ---------
    mixture : numpy.ndarray
        `[time]`.
    direct, images : numpy.ndarray
        Each person's direct path and reverberant image, `[time, people]`.
    tracks : numpy.ndarray
        The separated signals at a common scale, `[time, tracks]`.
    sample_rate : int
        In Hz.
    silence_threshold : float
        dB under the mixture below which a track holds nobody, see `active_tracks`; None where the network has not learnt it.

    Returns
    -------
    dict
        A float or None for every name of `METRICS`, and `reasons`: why each None is one. Ratios are in dB, shares in
        per cent; `unified_sess.utils.metric_names` has a line on each.
    """
    values = dict.fromkeys(METRICS)
    reasons = {}
    outputs, people = tracks.shape[1], direct.shape[1]
    tracks = np.pad(tracks, ((0, 0), (0, max(0, people - outputs)))).astype(np.float64)  # a track that lacks is silent
    order = match_estimates(tracks, direct)
    for names, function in (
        (("si_snr", "si_snri"), lambda: whole_track_ratios(mixture, direct, tracks[:, order], outputs)),
        (
            ("right_track", "wrong_track", "other_tracks"),
            lambda: _of_single_talk(direct, images, tracks, order, sample_rate),
        ),
        (
            ("der", "der_missed", "der_false", "der_confused"),
            lambda: _of_diarisation(direct, tracks, order, sample_rate),
        ),
        (("people_found", "people_right"), lambda: _of_count(mixture, direct, tracks, sample_rate, silence_threshold)),
        (("alone_others",), lambda: (alone_level(direct, tracks, order),)),
    ):
        try:
            for name, value in zip(names, function()):
                if np.isfinite(value):
                    values[name] = float(value)
                else:
                    reasons[name] = "the tracks are silent"
        except Undefined as undefined:
            reasons |= dict.fromkeys(names, str(undefined))
    return values | {"reasons": reasons}


def whole_track_ratios(
    mixture: np.ndarray, direct: np.ndarray, ordered: np.ndarray, outputs: int
) -> tuple[float, float]:
    """SI-SDR of the whole tracks and its improvement over the mixture, means over those who speak, in dB.

    Raises
    ------
    Undefined
        Where nobody speaks, or more people than there are outputs.
    """
    import torch

    speak = people_who_speak(direct)
    if not speak.any():
        raise Undefined("nobody speaks")
    if outputs < speak.sum():
        raise Undefined(f"{speak.sum()} people and {outputs} outputs")
    targets, estimates, mixed = (torch.tensor(x, dtype=torch.float64) for x in (direct.T, ordered.T, mixture))
    after, before = si_snr(estimates, targets)[speak], si_snr(mixed, targets)[speak]
    return float(after.mean()), float((after - before).mean())


def people_who_speak(direct: np.ndarray) -> np.ndarray:
    """Which people `[people]` of `[time, people]` ever say anything."""
    power = np.square(direct, dtype=np.float64).mean(0)
    return power > SILENCE * max(power.max(initial=0.0), 1e-300)


def single_talker(direct: np.ndarray, images: np.ndarray, sample_rate: int) -> np.ndarray:
    """Who talks alone in each frame of 0.25 s: the person's number `[frames]`, -1 where nobody or several do.

    Alone: the own direct path is above `TALK_THRESHOLD`, the reverberant image of everybody else below `QUIET_THRESHOLD`, each relative
    to the loudest frame of that person.
    """
    loud = relative_levels(direct, sample_rate) > TALK_THRESHOLD
    heard = relative_levels(images, sample_rate) >= QUIET_THRESHOLD
    alone = loud & (heard.sum(1, keepdims=True) - heard == 0)
    return np.where(alone.any(1), alone.argmax(1), -1)


def relative_levels(signals: np.ndarray, sample_rate: int) -> np.ndarray:
    """Levels `[frames, people]` in dB of whole frames of 0.25 s, relative to each person's loudest; -inf is silence."""
    powers = quarter_powers(signals, sample_rate)
    loudest = powers.max(0, initial=0.0)
    with np.errstate(divide="ignore"):
        return 10 * np.log10(powers / np.where(loudest > 0, loudest, 1.0))


def quarter_powers(signals: np.ndarray, sample_rate: int) -> np.ndarray:
    """Mean squares `[frames, signals]` of signals `[time, signals]` in whole frames of 0.25 s."""
    size = round(FRAME * sample_rate)
    frames = len(signals) // size
    return np.square(signals[: frames * size], dtype=np.float64).reshape(frames, size, -1).mean(1)


def track_of_voice(talker: np.ndarray, tracks: np.ndarray, order: list[int], sample_rate: int) -> SingleTalk:
    """Where voices are found while one person talks alone.

    Arguments
    ---------
    talker : numpy.ndarray
        Of `single_talker`, `[frames]`.
    tracks : numpy.ndarray
        `[time, tracks]`.
    order : list of int
        `order[person]` is the track of that person.
    sample_rate : int
        In Hz.

    Raises
    ------
    Undefined
        Where nobody ever talks alone.
    """
    frames = np.flatnonzero(talker >= 0)
    if not len(frames):
        raise Undefined("nobody talks alone")
    powers = quarter_powers(tracks, sample_rate)[frames]
    own = np.asarray(order)[talker[frames]]
    right = powers[np.arange(len(frames)), own]
    others = powers.copy()
    others[np.arange(len(frames)), own] = 0.0
    strongest, margin = others.max(1), 10 ** (TRACK_MARGIN / 10)
    on_right = (right > 0) & (right >= margin * strongest)
    on_wrong = (strongest > 0) & (strongest >= margin * right)
    return SingleTalk(on_right.mean(), on_wrong.mean(), level_ratio(others.sum(), right.sum()), FRAME * len(frames))


def diarisation_error(reference: np.ndarray, found: np.ndarray) -> DiarisationError:
    """Error of who speaks when, overlap counted, no collar (the NIST rate, with a given order of the tracks).

    Arguments
    ---------
    reference : numpy.ndarray
        bool `[frames, people]`.
    found : numpy.ndarray
        bool `[frames, tracks]`: track k is that of person k, further ones belong to nobody.

    Raises
    ------
    Undefined
        Where nobody speaks.

    Example
    -------
    >>> truth = np.array([[1, 0], [1, 1], [0, 1], [0, 0]], bool)
    >>> diarisation_error(truth, np.array([[1, 0], [1, 0], [1, 0], [1, 0]], bool))
    DiarisationError(missed=0.25, false=0.25, confused=0.25)
    """
    people = reference.shape[1]
    speech = reference.sum()
    if not speech:
        raise Undefined("nobody speaks")
    said, heard = reference.sum(1), found.sum(1)
    correct = (reference & found[:, :people]).sum(1)
    missed, false = np.maximum(said - heard, 0), np.maximum(heard - said, 0)
    confused = np.minimum(said, heard) - correct
    return DiarisationError(*(float(part.sum() / speech) for part in (missed, false, confused)))


def alone_level(direct: np.ndarray, tracks: np.ndarray, order: list[int]) -> float:
    """Level in dB of everything on the other tracks, relative to the right one; `Undefined` unless a single person is recorded."""
    speak = np.flatnonzero(people_who_speak(direct))
    if len(speak) != 1:
        raise Undefined("not a recording of one person")
    energy = np.square(tracks, dtype=np.float64).sum(0)
    right = energy[order[speak[0]]]
    return level_ratio(energy.sum() - right, right)


def level_ratio(power: float, reference: float) -> float:
    """Ratio of powers in dB, from -120 to 120; NaN where both are 0."""
    if reference <= 0 and power <= 0:
        return np.nan
    return float(np.clip(10 * np.log10(max(power, 1e-300) / max(reference, 1e-300)), -120, 120))


def _of_single_talk(direct, images, tracks, order, sample_rate):
    found = track_of_voice(single_talker(direct, images, sample_rate), tracks, order, sample_rate)
    return 100 * found.right, 100 * found.wrong, found.others


def _of_diarisation(direct, tracks, order, sample_rate):
    rest = [track for track in range(tracks.shape[1]) if track not in order]
    error = diarisation_error(
        activity(direct, sample_rate, leak_db=-np.inf), activity(tracks[:, [*order, *rest]], sample_rate)
    )
    return tuple(100 * part for part in (error.total, *error))


def _of_count(mixture, direct, tracks, sample_rate, threshold):
    found = active_tracks(
        frame_powers(tracks, sample_rate), frame_powers(mixture[:, None], sample_rate)[:, 0], threshold
    )
    return found.sum(), 100 * (found.sum() == people_who_speak(direct).sum())
