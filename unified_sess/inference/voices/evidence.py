"""What a recording's tracks sound like from moment to moment, gathered while they are separated."""

import functools
import hashlib
import io
from typing import NamedTuple

import numpy as np

from unified_sess.inference.voices.counter import SHORT, SHORT_STEP, STEP, STRETCH, stretches, two_people
from unified_sess.inference.voices.encoder import FRAMES, SPAN, SPEECH_RMS, WEIGHTS, VoiceEncoder
from unified_sess.inference.voices.speakers import SpeakerNetwork

RULES = 2  # one more whenever the same weights put voices on tracks in another way: results are then made anew
CHUNK = 120  # units that are heard at once, half a minute
MARGIN = SPAN // 2 + 1  # units around a chunk that its embeddings hear too


class Evidence(NamedTuple):
    """Per unit of 0.256 s, and per stretch of some 5 and 2 s.

    embeddings : numpy.ndarray
        `[signals, units, size]`, float16: of each track, and of their sum as the last signal.
    powers : numpy.ndarray
        Mean squares `[signals, units]` of the same.
    unit : int
        Samples in a unit.
    stretches, short : numpy.ndarray
        `[stretches, 2]`: how much each sounds like two people, see `counter.two_people`, and its mean square; long and
        short ones.
    shipped : numpy.ndarray
        What `embeddings` would be of the network that ships, where another one embeds; None where it does itself.
    """

    embeddings: np.ndarray
    powers: np.ndarray
    unit: int
    stretches: np.ndarray
    short: np.ndarray
    shipped: np.ndarray | None = None


class Listener:
    """Gathers `Evidence` of tracks that come in pieces; memory grows by some 3 kB a second.

    Arguments
    ---------
    tracks : int
    sample_rate : int
        Hz.
    speakers : SpeakerNetwork
        Embeds in the place of the network that ships; memory grows by some 5 kB a second more. None takes that alone.

    Example
    -------
    >>> listener = Listener(2, 8000)
    >>> listener.add(np.random.default_rng(0).standard_normal((20000, 2)))
    >>> listener.finish().powers.shape
    (3, 10)
    """

    def __init__(self, tracks: int, sample_rate: int, speakers: SpeakerNetwork | None = None) -> None:
        self.encoder, self.sample_rate, self.speakers = VoiceEncoder(sample_rate), sample_rate, speakers
        self.loudest = 0.0
        # In one piece of memory each: many small ones would hold back what is freed between them.
        self.shipped, self.others, self.powers, self.stretches, self.short = (io.BytesIO() for _ in range(5))
        before = np.zeros((tracks + 1, MARGIN * self.encoder.unit), np.float32)
        self.waiting = [before]  # what is not heard yet, behind the margin of what was heard

    def add(self, block: np.ndarray) -> None:
        """Add a piece `[time, tracks]`."""
        signals = np.asarray(block, np.float32).T
        self.waiting.append(np.concatenate((signals, signals.sum(0, keepdims=True))))
        whole = (CHUNK + 2 * MARGIN) * self.encoder.unit
        while sum(piece.shape[1] for piece in self.waiting) >= whole:
            signals = np.concatenate(self.waiting, axis=1)
            self._hear(signals[:, :whole], CHUNK)
            self.waiting = [signals[:, CHUNK * self.encoder.unit :]]

    def finish(self) -> Evidence:
        """The evidence of everything that was added; the last unit may be filled up with silence."""
        signals, unit = np.concatenate(self.waiting, axis=1), self.encoder.unit
        count = -(-signals.shape[1] // unit) - MARGIN
        missing = (count + 2 * MARGIN) * unit - signals.shape[1]
        self._hear(np.pad(signals, ((0, 0), (0, missing))), count)
        powers = np.frombuffer(self.powers.getbuffer(), np.float64).reshape(-1, len(signals))
        shipped = _embeddings(self.shipped, powers.shape, self.encoder.size)
        found = [np.frombuffer(file.getbuffer(), np.float64).reshape(-1, 2) for file in (self.stretches, self.short)]
        if self.speakers is None:
            return Evidence(shipped, powers.T, unit, *found)
        others = _embeddings(self.others, powers.shape, self.speakers.size)
        return Evidence(others, powers.T, unit, found[0], found[1], shipped)

    def _hear(self, signals, count):
        """Evidence of the `count` units between the margins of signals `[signals, time]`."""
        unit, inside = self.encoder.unit, slice(MARGIN, MARGIN + count)
        powers = np.square(signals, dtype=np.float64).reshape(len(signals), -1, unit).mean(2)[:, inside]
        if count:
            self.loudest = max(self.loudest, float(np.percentile(powers[-1], 95)))
        scale = SPEECH_RMS / np.sqrt(self.loudest) if self.loudest > 0 else 0.0
        self.powers.write(np.ascontiguousarray(powers.T).data)
        scaled = signals * np.float32(scale)
        spectrum = self.encoder.spectrum(np.pad(scaled, ((0, 0), (0, self.encoder.hop))))
        found = self.encoder.embeddings(spectrum)[:, inside]
        _write(self.shipped, found)
        if self.speakers is not None and count:
            audible = found.any(2, keepdims=True)
            _write(self.others, audible * self.speakers.embeddings(scaled, self.sample_rate, unit, MARGIN, count))
        heard = spectrum[:, MARGIN * FRAMES : (MARGIN + count) * FRAMES]
        for file, size in ((self.stretches, (STRETCH, STEP)), (self.short, (SHORT, SHORT_STEP))):
            loudness = [powers[-1, first:last].mean() for first, last in stretches(count, *size)]
            file.write(np.stack((two_people(heard, *size), loudness), axis=1).astype(np.float64).data)


def _write(file, embeddings):
    """Append `[signals, units, size]` unit by unit."""
    file.write(np.ascontiguousarray(embeddings.swapaxes(0, 1), np.float16).data)


def _embeddings(file, shape, size):
    """What `_write` has written, of units and signals in `shape`."""
    return np.frombuffer(file.getbuffer(), np.float16).reshape(*shape, size).swapaxes(0, 1)


def voices_digest(speakers: SpeakerNetwork | None = None) -> str:
    """Hexadecimal digits that change with the weights of any network of voices, and with `RULES`."""
    return _shipped_digest() + ("" if speakers is None else speakers.digest)


@functools.cache
def _shipped_digest():
    weights = sorted(WEIGHTS.parent.glob("*.npz"))
    return hashlib.sha256(b"".join(path.read_bytes() for path in weights) + bytes([RULES])).hexdigest()[:32]
