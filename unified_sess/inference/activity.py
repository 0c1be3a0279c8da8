"""Who speaks when: speech activity of separated tracks, and which tracks hold anybody at all.

Everything rests on the power of a track in frames of 10 ms, which can be gathered block by block, so that hours of
audio need little memory. `unified-sess separate --rttm` and the diarisation error of the evaluation use the same
functions.
"""

from collections.abc import Iterator

import numpy as np

FRAME = 0.01  # s
SPEECH_THRESHOLD = -30.0  # dB relative to the loudest frame of all tracks; what is quieter is not speech
LEAK_THRESHOLD = -12.0  # dB relative to the loudest track at that moment; what is quieter is its echo in this track
FLOOR_MARGIN = 6.0  # dB that speech rises above the noise that remains in its track
SMOOTHING = 0.15  # s over which powers are averaged before they are compared
LONGEST_PAUSE = 0.3  # s; shorter pauses are part of speech
SHORTEST_SPEECH = 0.1  # s; shorter sounds are no speech
SILENCE_THRESHOLD = -40.0  # dB relative to the mixture, for models whose config.json names no other
ECHO_LEVEL = -8.0  # dB relative to the loudest track, under which a track may be an echo of others
SHORTEST_TURN = 0.3  # s; a track that is never the loudest one for so long has nobody's turn


class FramePowers:
    """Mean squares of a stream of samples in frames of 10 ms.

    Where the rate is no multiple of 100 Hz, frames are as equal as whole samples allow; the last one may be shorter.

    Arguments
    ---------
    sample_rate : int
        In Hz, at least 100.

    Example
    -------
    >>> powers = FramePowers(8000)
    >>> for block in np.split(np.full((200, 2), [1.0, 3.0]), [30]):
    ...     powers.add(block)
    >>> powers.finish().tolist()
    [[1.0, 9.0], [1.0, 9.0], [1.0, 9.0]]
    """

    def __init__(self, sample_rate: int) -> None:
        self.sample_rate = sample_rate
        self.frames: list[np.ndarray] = []
        self.count = 0  # frames that are complete
        self.waiting: np.ndarray | None = None  # squares of the samples behind the last complete frame

    def add(self, block: np.ndarray) -> None:
        """Add a piece `[time, tracks]` of the signals."""
        squares = np.square(block, dtype=np.float64)
        if self.waiting is not None:
            squares = np.concatenate((self.waiting, squares))
        begin = self._start(self.count)
        last = self.count + int(len(squares) / (FRAME * self.sample_rate)) + 1
        starts = self._start(np.arange(self.count, last + 1)) - begin
        starts = starts[starts <= len(squares)]
        if len(starts) > 1:
            complete = squares[: starts[-1]]
            self.frames.append((np.add.reduceat(complete, starts[:-1]) / np.diff(starts)[:, None]).astype(np.float32))
            self.count += len(starts) - 1
        self.waiting = squares[starts[-1] :]

    def finish(self) -> np.ndarray:
        """The powers of everything that was added, float32 `[frames, tracks]`."""
        rest = [] if self.waiting is None or not len(self.waiting) else [self.waiting.mean(0, keepdims=True)]
        if not self.frames and not rest:
            return np.zeros((0, 0 if self.waiting is None else self.waiting.shape[1]), np.float32)
        return np.concatenate([*self.frames, *rest]).astype(np.float32)

    def _start(self, frame):
        """First sample of a frame."""
        return np.round(np.asarray(frame) * FRAME * self.sample_rate).astype(np.int64)


def frame_powers(tracks: np.ndarray, sample_rate: int) -> np.ndarray:
    """Mean squares of tracks `[time, tracks]` in frames of 10 ms, `[frames, tracks]`."""
    powers = FramePowers(sample_rate)
    powers.add(np.asarray(tracks))
    return powers.finish()


def activity(
    tracks: np.ndarray,
    sample_rate: int,
    threshold_db: float = SPEECH_THRESHOLD,
    leak_db: float = LEAK_THRESHOLD,
) -> np.ndarray:
    """Who speaks when, in frames of 10 ms.

    Arguments
    ---------
    tracks : numpy.ndarray
        Separated signals `[time, speakers]` at a common scale.
    sample_rate : int
        In Hz.
    threshold_db : float
        Speech is louder than this, relative to the loudest frame of all tracks.
    leak_db : float
        Speech is louder than this, relative to the loudest track at the same moment: separation is never perfect, and
        what leaks from one track into another is not that person's speech. `-inf` for tracks that do not leak, such
        as references.

    Returns
    -------
    numpy.ndarray
        bool `[frames, speakers]`. Frames that lie in a pause of less than 0.3 s count as speech.

    Example
    -------
    >>> talk = np.random.default_rng(0).standard_normal(8000)
    >>> tracks = np.zeros((16000, 2))
    >>> tracks[:8000, 0], tracks[8000:, 1] = talk, talk
    >>> frames = activity(tracks, 8000)
    >>> frames.shape, frames[50].tolist(), frames[150].tolist()
    ((200, 2), [True, False], [False, True])
    """
    return activity_of_powers(frame_powers(tracks, sample_rate), threshold_db, leak_db)


def activity_of_powers(
    powers: np.ndarray, threshold_db: float = SPEECH_THRESHOLD, leak_db: float = LEAK_THRESHOLD
) -> np.ndarray:
    """The same as `activity`, of the powers `[frames, speakers]` that `FramePowers` gathered."""
    if powers.size == 0:
        return np.zeros(powers.shape, bool)
    smooth = moving_mean(powers, round(SMOOTHING / FRAME))
    floor = np.percentile(smooth, 5, axis=0)
    # Somebody who never pauses has no frames of noise: a floor near the loudest frame is speech itself.
    floor = np.minimum(floor * _ratio(FLOOR_MARGIN), smooth.max(0) * _ratio(-10))
    least = np.maximum(smooth.max() * _ratio(threshold_db), floor)
    loud = (smooth > least) & (smooth >= smooth.max(1, keepdims=True) * _ratio(leak_db)) & (smooth > 0)
    return np.stack([_whole(track) for track in loud.T], axis=1)


def active_tracks(
    powers: np.ndarray, mixture: np.ndarray | None = None, threshold_db: float | None = None
) -> np.ndarray:
    """Which tracks hold somebody: those whose loudest second is near that of the mixture, and which are no echoes.

    The loudest second and not the whole, so that a sentence in an hour counts. Of a person alone a network leaves some
    on other tracks. Such an echo lies `ECHO_LEVEL` under the loudest track and is never the loudest one for
    `SHORTEST_TURN`; somebody far away, who is as quiet, has a turn now and then.

    Arguments
    ---------
    powers : numpy.ndarray
        Powers of the tracks in frames of 10 ms, `[frames, tracks]`, at the mixture's scale.
    mixture : numpy.ndarray
        Powers of the mixture `[frames]`; without it the loudest track stands for the mixture.
    threshold_db : float
        A track is silent when its loudest second lies below this, relative to the mixture's loudest second. None is for
        networks that have not learnt silence: `SILENCE_THRESHOLD`, and no track is an echo.

    Returns
    -------
    numpy.ndarray
        bool `[tracks]`; a track of zeros is never active.
    """
    if powers.size == 0:
        return np.zeros(powers.shape[1:], bool)
    levels = loudest_second(powers)
    loudest = levels.max() if mixture is None else loudest_second(mixture[:, None])[0]
    heard = (levels > 0) & (levels >= loudest * _ratio(SILENCE_THRESHOLD if threshold_db is None else threshold_db))
    return heard if threshold_db is None else heard & ~echoes(powers)


def echoes(powers: np.ndarray) -> np.ndarray:
    """Which tracks are echoes, see `active_tracks`: bool `[tracks]`, of powers `[frames, tracks]`."""
    smooth = moving_mean(powers, round(SHORTEST_TURN / FRAME))
    speech = smooth.sum(1) > smooth.sum(1).max() * _ratio(SPEECH_THRESHOLD)
    return quiet_without_turns(loudest_second(powers), smooth, speech, SHORTEST_TURN / FRAME)


def quiet_without_turns(levels: np.ndarray, powers: np.ndarray, speech: np.ndarray, shortest: float) -> np.ndarray:
    """Which tracks lie `ECHO_LEVEL` under the loudest one and are never the loudest in speech for so many frames on end.

    Arguments
    ---------
    levels : numpy.ndarray
        Power of each track where it is loudest, `[tracks]`.
    powers : numpy.ndarray
        `[frames, tracks]`, of frames of any length.
    speech : numpy.ndarray
        Frames in which anybody speaks, bool `[frames]`.
    shortest : float
        Frames that make a turn.

    Returns
    -------
    numpy.ndarray
        bool `[tracks]`.
    """
    loudest = powers.argmax(1)
    turns = [np.diff(_runs(speech & (loudest == track))).max(initial=0) for track in range(powers.shape[1])]
    return (levels < levels.max() * _ratio(ECHO_LEVEL)) & (np.array(turns) < shortest)


def loudest_second(powers: np.ndarray) -> np.ndarray:
    """Power `[tracks]` of the loudest second of `[frames, tracks]`; shorter signals count as a whole."""
    frames = min(round(1 / FRAME), len(powers))
    sums = np.cumsum(np.concatenate((np.zeros((1, powers.shape[1])), powers)), axis=0, dtype=np.float64)
    return np.maximum((sums[frames:] - sums[:-frames]).max(0) / frames, 0)


def segments(frames: np.ndarray) -> Iterator[tuple[int, float, float]]:
    """Yields `(speaker, start, duration)`, in s, of every voiced segment in bool `[frames, speakers]`, by time.

    Example
    -------
    >>> list(segments(np.array([[0, 1], [1, 1], [1, 0]], bool)))
    [(1, 0.0, 0.02), (0, 0.01, 0.02)]
    """
    found = []
    for speaker, track in enumerate(frames.T):
        for start, end in _runs(track):
            found.append((int(start), speaker, int(end - start)))
    yield from ((speaker, round(start * FRAME, 2), round(count * FRAME, 2)) for start, speaker, count in sorted(found))


def moving_mean(powers: np.ndarray, width: int) -> np.ndarray:
    """Means of powers `[frames, tracks]` over `width` frames around each frame, over fewer at the ends."""
    sums = np.cumsum(np.concatenate((np.zeros((1, powers.shape[1])), powers)), axis=0, dtype=np.float64)
    frames = np.arange(len(powers))
    first, last = np.maximum(frames - width // 2, 0), np.minimum(frames + width // 2 + 1, len(powers))
    return np.maximum(sums[last] - sums[first], 0) / (last - first)[:, None]


def _whole(track):
    """A track `[frames]` of activity without short pauses and then without short bursts."""
    track = track.copy()
    for start, end in _runs(~track):
        if end - start < LONGEST_PAUSE / FRAME and start > 0 and end < len(track):
            track[start:end] = True
    for start, end in _runs(track):
        if end - start < SHORTEST_SPEECH / FRAME and end - start < len(track):
            track[start:end] = False
    return track


def _runs(track):
    """Starts and ends of the segments of True in bool `[frames]`, as int `[segments, 2]`."""
    return np.flatnonzero(np.diff(track.astype(np.int8), prepend=0, append=0)).reshape(-1, 2)


def _ratio(decibels):
    """dB to a ratio of powers."""
    return 10.0 ** (decibels / 10)
