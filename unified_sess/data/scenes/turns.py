"""Who says what when: turns, pauses, overlaps and short words in between."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from unified_sess.data.own_folders.speech_folders import IndexedRecording
from unified_sess.data.scenes.options import SceneOptions

MARGIN = 0.08  # s kept around voice when it is cut out at pauses
LONGEST_SEGMENT = 1.5  # times the wanted length, where no pause comes earlier
SHORTEST_BREATH = 0.15  # s at least between two turns of one person
SAME_SPEAKER_CHANCE = 0.2  # chance that who has spoken goes on after a pause
LONGEST_PAUSE = 3.0  # s
RUNNING_START = 2.0  # s: the scene begins somewhere in a conversation that began up to so much earlier
BACKCHANNEL_SECONDS = (0.25, 0.8)
BACKCHANNEL_LEVEL = (-8.0, 0.0)  # dB relative to who says it
TURN_LEVEL = (-2.0, 2.0)  # dB relative to who says it
MIN_SECONDS = 0.25  # of each active person inside the scene
TRIALS = 20


class Piece(NamedTuple):
    """A segment of a recording at a place in the scene.

    person : number of the speaker in the scene.
    recording : the file.
    begin, end : in the recording, s.
    at : where it begins in the scene, s; negative where the scene begins in the middle of it.
    level : dB relative to the person's level.
    speed : factor at which the recording is played.
    """

    person: int
    recording: IndexedRecording
    begin: float
    end: float
    at: float
    level: float
    speed: float = 1.0

    @property
    def until(self) -> float:
        """Where it ends in the scene, s."""
        return self.at + (self.end - self.begin) / self.speed


def draw_turns(
    random: np.random.Generator,
    recordings: Sequence[Callable[[], IndexedRecording]],
    seconds: float,
    options: SceneOptions,
    speeds: Sequence[float],
    running: bool = True,
) -> list[Piece]:
    """Draw the turns of a conversation in which everybody speaks.

    Arguments
    ---------
    random : numpy.random.Generator
        Decides everything.
    recordings : sequence of callable
        For each person, draws a recording of theirs.
    seconds : float
        Length of the scene.
    options : SceneOptions
        Turns, overlap, pauses, backchannels.
    speeds : sequence of float
        Factor at which each person's recordings are played.
    running : bool
        The scene begins in the middle of a conversation; else it begins with a pause.

    Returns
    -------
    pieces : list of Piece
        All overlap with the scene; those of one person do not overlap with each other.
    """
    for _ in range(TRIALS):
        pieces = _draw(random, recordings, seconds, options, speeds, running)
        heard = np.zeros(len(recordings))
        for piece in pieces:
            heard[piece.person] += min(piece.until, seconds) - max(piece.at, 0)
        if heard.min() >= min(MIN_SECONDS, seconds / 2):
            break
    return pieces


def _draw(
    random: np.random.Generator,
    recordings: Sequence[Callable[[], IndexedRecording]],
    seconds: float,
    options: SceneOptions,
    speeds: Sequence[float],
    running: bool,
) -> list[Piece]:
    people = len(recordings)
    low, high = options.overlap
    overlap = low + (high - low) * random.random() ** 2  # sparse overlap is the commoner one
    free = np.full(people, -np.inf)  # until when each person speaks
    at = -random.uniform(0, RUNNING_START) if running else random.uniform(0.1, 1.0)
    order = random.permutation(people).tolist()  # everybody comes once before anybody comes again
    pieces: list[Piece] = []
    before, speaker = 0.0, -1  # length of the turn before, and who had it
    while at < seconds:
        if order:
            speaker = order.pop()
            wanted = min(random.uniform(*options.turn_seconds), seconds / people)
        else:
            others = [k for k in range(people) if k != speaker]
            if others and random.random() >= SAME_SPEAKER_CHANCE:
                speaker = others[int(random.integers(len(others)))]
            wanted = random.uniform(*options.turn_seconds)
        recording = recordings[speaker]()
        begin, end = cut_at_pauses(random, recording, wanted)
        length = (end - begin) / speeds[speaker]
        start = at - overlap * min(length, before)
        if random.random() >= overlap:
            start += min(random.exponential(options.pause), LONGEST_PAUSE)
        start = max(start, free[speaker] + SHORTEST_BREATH)
        level = random.uniform(*TURN_LEVEL)
        pieces.append(Piece(speaker, recording, begin, end, start, level, speeds[speaker]))
        free[speaker] = at = start + length
        before = length
        if people > 1 and random.random() < options.backchannels:
            pieces += _backchannel(random, recordings, speeds, pieces[-1], free)
    return [piece for piece in pieces if piece.until > 0 and piece.at < seconds]


def _backchannel(
    random: np.random.Generator,
    recordings: Sequence[Callable[[], IndexedRecording]],
    speeds: Sequence[float],
    turn: Piece,
    free: np.ndarray,
) -> list[Piece]:
    """A short word of somebody else into a turn, where there is somebody who is silent."""
    listener = int(random.choice([k for k in range(len(recordings)) if k != turn.person]))
    recording = recordings[listener]()
    wanted = random.uniform(*BACKCHANNEL_SECONDS)
    begin, end = cut_at_pauses(random, recording, wanted)
    at = turn.at + random.uniform(0.2, 1.0) * (turn.until - turn.at)
    if at < free[listener] + SHORTEST_BREATH:
        return []
    piece = Piece(listener, recording, begin, end, at, random.uniform(*BACKCHANNEL_LEVEL), speeds[listener])
    free[listener] = piece.until
    return [piece]


def cut_at_pauses(random: np.random.Generator, recording: IndexedRecording, wanted: float) -> tuple[float, float]:
    """Begin and end in s of a segment of a recording that starts and ends in pauses where it can.

    Arguments
    ---------
    random : numpy.random.Generator
        Chooses the beginning.
    recording : IndexedRecording
    wanted : float
        Length in s; the segment goes on to the next pause, up to half as long again.
    """
    activity, duration = recording.activity, recording.frames / recording.sample_rate
    # A voiced segment too short to be a word does not begin a turn.
    words = np.flatnonzero(np.ptp(activity, axis=1) >= min(MIN_SECONDS, np.ptp(activity, axis=1).max()))
    late = activity[words, 0] > max(0.0, activity[-1, 1] - wanted)
    first = int(random.choice(words[~late] if not late.all() else words[:1]))
    begin = float(activity[first, 0])
    ends = activity[first:, 1]
    fitting = ends[ends - begin >= wanted]
    end = float(fitting[0] if len(fitting) else ends[-1])
    if end - begin > LONGEST_SEGMENT * wanted:
        earlier = ends[(ends - begin >= 0.5 * wanted) & (ends - begin <= LONGEST_SEGMENT * wanted)]
        end = float(earlier[-1]) if len(earlier) else begin + wanted
    return max(0.0, begin - MARGIN), min(duration, end + MARGIN)
