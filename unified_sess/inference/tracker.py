"""Which separated source of a window continues which track of the windows before."""

import numpy as np

from unified_sess.inference.cepstrum import Cepstrum, frames_of

FRAME = 0.032  # s
COEFFICIENTS = 19  # of the cepstrum, without the loudness
SPEECH_POWER = 1e-3  # frames more than 30 dB under the loudest of the recording so far are not speech
DOMINANCE = 2.0  # a frame belongs to a source that is 3 dB over the others there: weak networks leak much
FRAMES_TO_KNOW_A_VOICE = 30  # frames of speech before a voice can be recognised, about 0.5 s
NEW_VOICE_MARGIN = 4.0  # nats a frame
MEMORY_WEIGHT = 0.4  # of the voices against a perfect match of the overlap, which has weight 1


class SpeakerTracker:
    """Puts the sources of successive windows into the order of their tracks.

    Two things speak for an order. In the overlap of two windows the same signals occur twice, so the inner products
    of old and new sources are large for the right order; this decides wherever somebody speaks in the overlap. For
    the rest there is a memory of each track's voice: the Gaussian of the cepstra (MFCC) of all frames in which that
    track alone was loud. Both are added, the first weighted by how much of the overlap is speech.

    Arguments
    ---------
    speakers : int
        Sources of a window.
    sample_rate : int
        Hz.

    Example
    -------
    >>> tracker = SpeakerTracker(2, 8000)
    >>> a, b = np.random.default_rng(0).standard_normal((2, 8000)).astype("f4")
    >>> tracker.follow(np.stack([a, b]), 0)
    [0, 1]
    >>> tracker.follow(np.stack([b, a]), 8000)
    [1, 0]
    """

    def __init__(self, speakers: int, sample_rate: int) -> None:
        self.speakers = speakers
        self.frame = max(int(FRAME * sample_rate), 64)
        self.cepstrum = Cepstrum(sample_rate, self.frame, COEFFICIENTS + 1)
        self.voices = [_Voice(COEFFICIENTS) for _ in range(speakers)]
        self.before: np.ndarray | None = None  # the tracks of the window before, [speakers, time]
        self.loudest = 0.0  # mean square of the loudest frame so far

    def follow(self, window: np.ndarray, overlap: int) -> list[int]:
        """Order of a window's sources.

        Arguments
        ---------
        window : numpy.ndarray
            Separated sources, `[speakers, time]`.
        overlap : int
            Samples at its start that are also the end of the window before.

        Returns
        -------
        order : list of int
            `order[track]` is the source that continues the track; the first window's sources become the tracks.
        """
        cepstra, own = self._speech(window)
        if self.before is None:
            order = list(range(self.speakers))
        else:
            match = self._overlap_match(
                self.before[:, -overlap:] if overlap else self.before[:, :0], window[:, :overlap]
            )
            match += MEMORY_WEIGHT * self._voice_match(cepstra, own)
            order = best_order(match)
        for voice, source in zip(self.voices, order):
            voice.add(cepstra[source][own[source]])
        self.before = window[order]
        return order

    def _overlap_match(self, before, now):
        """Inner products of tracks and sources in the overlap; those of the right order sum up to about 1."""
        if before.shape[1] == 0:
            return np.zeros((self.speakers, self.speakers))
        before, now = before.astype(np.float64), now.astype(np.float64)
        energy = (np.square(before).sum() + np.square(now).sum()) / 2
        # What is 40 dB under the loudest frame is no evidence.
        return before @ now.T / (energy + 1e-4 * self.loudest * before.shape[1] + 1e-20)

    def _voice_match(self, cepstra, own):
        """How well sources fit the tracks' voices, each entry from -1 to 1."""
        match = np.zeros((self.speakers, self.speakers))
        known = [track for track, voice in enumerate(self.voices) if voice.count >= FRAMES_TO_KNOW_A_VOICE]
        for source in range(self.speakers):
            frames = cepstra[source][own[source]]
            if len(frames) == 0 or not known:
                continue
            fits, usual = np.array([self.voices[track].log_likelihood(frames) for track in known]).T
            # A lone voice has no rival: its rival is a new voice, which fits by NEW_VOICE_MARGIN worse than the voice itself.
            rivals = [
                np.delete(fits, k).max() if len(fits) > 1 else usual[k] - NEW_VOICE_MARGIN for k in range(len(fits))
            ]
            trust = len(frames) / (len(frames) + FRAMES_TO_KNOW_A_VOICE)
            match[known, source] = trust * np.tanh((fits - rivals) / 2)
        return match

    def _speech(self, window):
        """Cepstra `[speakers, frames, coefficients]` and the frames `[speakers, frames]` that a source has to itself."""
        if window.shape[1] < self.frame:
            return np.zeros((self.speakers, 0, COEFFICIENTS)), np.zeros((self.speakers, 0), bool)
        frames = frames_of(np.asarray(window, np.float32), self.frame, self.frame // 2)
        power = np.einsum("sfi,sfi->sf", frames, frames) / self.frame
        self.loudest = max(self.loudest, float(power.max()))
        others = power.sum(0) - power
        own = (power > SPEECH_POWER * self.loudest) & (power > DOMINANCE * others) & (power > 0)
        level = np.sqrt(max(self.loudest, 1e-20))
        return self.cepstrum(window / level)[..., 1:], own


def best_order(match: np.ndarray) -> list[int]:
    """The source of each track that makes the sum of `match[track, source]` largest.

    The Hungarian method: tracks take their sources one by one, and each finds the cheapest chain of exchanges with those
    before it (Jonker and Volgenant, "A shortest augmenting path algorithm for dense and sparse linear assignment
    problems", Computing 1987).

    Example
    -------
    >>> best_order(np.array([[0.9, 0.8], [0.8, 0.1]]))
    [1, 0]
    """
    count = len(match)
    track_prices, source_prices = np.zeros(count), np.zeros(count + 1)
    owner = np.full(count + 1, -1)  # the track that has a source; the last is no source but where each search starts
    for track in range(count):
        owner[count], source = track, count
        cheapest, before = np.full(count, np.inf), np.full(count, count)
        seen = np.zeros(count + 1, bool)
        while owner[source] >= 0:
            seen[source] = True
            free, current = ~seen[:count], owner[source]
            cost = -match[current] - track_prices[current] - source_prices[:count]
            better = free & (cost < cheapest)
            cheapest[better], before[better] = cost[better], source
            source = int(np.argmin(np.where(free, cheapest, np.inf)))
            step = cheapest[source]
            track_prices[owner[seen]] += step
            source_prices[seen] -= step
            cheapest[free] -= step
        while source != count:
            owner[source] = owner[before[source]]
            source = before[source]
    return np.argsort(owner[:count]).tolist()


class _Voice:
    """Gaussian of a voice's cepstra with full covariance, learned frame by frame."""

    def __init__(self, size) -> None:
        self.count = 0
        self.sum = np.zeros(size)
        self.products = np.zeros((size, size))

    def add(self, frames):
        """Add frames `[frames, coefficients]`."""
        frames = frames.astype(np.float64)
        self.count += len(frames)
        self.sum += frames.sum(0)
        self.products += frames.T @ frames

    def log_likelihood(self, frames):
        """Mean log likelihood of frames `[frames, coefficients]` and that of the voice's own, without the constant."""
        mean = self.sum / self.count
        covariance = self.products / self.count - np.outer(mean, mean)
        # Few frames say little of the correlations: shrink them towards the diagonal, and that towards its mean.
        diagonal = np.diag(covariance)
        trust = self.count / (self.count + 200)
        covariance = trust * covariance + (1 - trust) * np.diag((diagonal + diagonal.mean()) / 2)
        covariance += 1e-6 * (diagonal.mean() + 1e-12) * np.eye(len(mean))
        _, logdet = np.linalg.slogdet(covariance)
        centred = frames - mean
        distance = np.einsum("fi,fi->f", centred, np.linalg.solve(covariance, centred.T).T)
        return -(distance.mean() + logdet) / 2, -(len(mean) + logdet) / 2
