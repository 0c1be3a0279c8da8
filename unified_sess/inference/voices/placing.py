"""Puts every turn on the track of its speaker."""

import numpy as np

from unified_sess.inference.voices.evidence import Evidence, Listener
from unified_sess.inference.voices.speakers import SpeakerNetwork
from unified_sess.inference.voices.turns import owners

FADE = 0.05  # s over which a track passes to another voice


class Placing:
    """Moves what belongs to a voice onto its track, in pieces from the start to the end.

    Arguments
    ---------
    evidence : Evidence
        Of the tracks as they come from the network.
    sample_rate : int
        Hz.
    several : bool
        Two or more people are known to talk.
    """

    def __init__(self, evidence: Evidence, sample_rate: int, several: bool = False) -> None:
        tracks = len(evidence.powers) - 1
        moves = np.eye(tracks, dtype=np.float32)[owners(evidence, several)]  # [units, from, to]
        half, unit = FADE * sample_rate / 2, evidence.unit
        starts = np.arange(len(moves)) * unit
        self.knots = np.stack((starts + half, starts + unit - half), axis=1).ravel()
        self.gains = np.repeat(moves, 2, axis=0)
        self.still = bool((moves == np.eye(tracks)).all())
        self.position = 0

    def __call__(self, block: np.ndarray) -> np.ndarray:
        """The next piece `[time, tracks]` with every voice on its track."""
        time = np.arange(self.position, self.position + len(block))
        self.position += len(block)
        if self.still or not len(block):
            return block
        first, last = np.searchsorted(self.knots, (time[0], time[-1]))
        near = slice(max(first - 1, 0), last + 1)
        placed = np.zeros_like(block)
        for source in range(block.shape[1]):
            for track in range(block.shape[1]):
                gains = self.gains[near, source, track]
                if gains.any():
                    gain = np.interp(time, self.knots[near], gains).astype(np.float32)
                    placed[:, track] += gain * block[:, source]
        return placed


def placed(tracks: np.ndarray, sample_rate: int, speakers: SpeakerNetwork | None = None) -> np.ndarray:
    """Tracks `[time, tracks]` of a whole recording with every voice on its track, as `separate` writes them.

    Example
    -------
    >>> placed(np.random.default_rng(0).standard_normal((16000, 2)).astype(np.float32), 8000).shape
    (16000, 2)
    """
    listener = Listener(tracks.shape[1], sample_rate, speakers)
    listener.add(tracks)
    return Placing(listener.finish(), sample_rate)(tracks)
