"""Long conversations with known sources: turns, both at once, and pauses longer than a window."""

import numpy as np
import soundfile
import soxr
from scipy.optimize import linear_sum_assignment

from tests.corpus import voice
from tests.inference.training import PITCHES
from unified_sess.inference.tracker import SpeakerTracker

RATE = 8000
TURNS = {"both": (5, 20), "first": (20, 45), "second": (20, 45), "nobody": (5, 25)}  # s, shortest and longest


def conversation(materials, seconds=300, seed=0):
    """Sources `[time, 2]` of two speakers who take turns.

    Phrases of the second half come from the second half of each speaker's material, so that a voice is known again by
    its sound and not by the same words.

    Arguments
    ---------
    materials : list of numpy.ndarray
        Speech of each speaker, `[time]`, at 8 kHz.
    seconds, seed : int
        Duration and random state.
    """
    generator = np.random.default_rng(seed)
    sources = np.zeros((seconds * RATE, 2), np.float32)
    start, turn = 0, "both"
    while start < len(sources):
        end = min(len(sources), start + int(generator.uniform(*TURNS[turn]) * RATE))
        for speaker, name in enumerate(("first", "second")):
            if turn in (name, "both"):
                early, late = np.array_split(materials[speaker], 2)
                material = early if start < len(sources) / 2 else late
                sources[start:end, speaker] = _phrases(material, end - start, generator)
        start, turn = end, generator.choice([other for other in TURNS if other != turn])
    return sources


def _phrases(material, length, generator):
    """Excerpts of 1 to 3 s with short pauses between them, `[length]`."""
    out, start = np.zeros(length, np.float32), 0
    while start < length:
        size = min(int(generator.uniform(1, 3) * RATE), len(material), length - start)
        begin = generator.integers(len(material) - size + 1)
        out[start : start + size] = material[begin : begin + size]
        start += size + int(generator.uniform(0.2, 1) * RATE)
    return out


def synthetic_pair(seed):
    """A low and a high voice, 12 s each."""
    generator = np.random.default_rng(seed)
    return [voice(generator, 12 * RATE, RATE, generator.uniform(*pitches)) for pitches in PITCHES]


def recorded_pairs(corpora, count, seed=0):
    """Pairs of speakers of the corpora, by turns of one gender and of two, at one loudness."""
    lines = (corpora / "LibriSpeech" / "SPEAKERS.TXT").read_text(encoding="utf-8").splitlines()
    genders = dict([field.strip() for field in line.split("|")[:2]] for line in lines if not line.startswith(";"))
    files = sorted((corpora / "LibriSpeech" / "test-clean").glob("*/*/*.flac"))
    generator = np.random.default_rng(seed)
    for number in range(count):
        first, second = generator.choice(len(files), 2, replace=False)
        while (genders[files[first].parts[-3]] == genders[files[second].parts[-3]]) != (number % 2 == 0):
            first, second = generator.choice(len(files), 2, replace=False)
        yield [_read(files[first]), _read(files[second])]


def _read(path):
    signal, rate = soundfile.read(path, dtype="float32")
    signal = soxr.resample(signal, rate, RATE)
    return (0.05 * signal / np.sqrt(np.mean(np.square(signal)))).astype(np.float32)


def windows_right(sources, length=16, overlap=4, seed=0, separate=None):
    """Share of windows with speech that a tracker puts right, given their sources in random order.

    Arguments
    ---------
    sources : numpy.ndarray
        True sources `[time, speakers]`.
    length, overlap : int
        Of the windows, in s.
    seed : int
        Of the random orders.
    separate : callable
        True sources of a window to what the tracker gets, both `[time, speakers]`; None gives it the truth.
    """
    generator, tracker = np.random.default_rng(seed), SpeakerTracker(sources.shape[1], RATE)
    tracks, end = [], 0
    for start in range(0, len(sources) - overlap * RATE, (length - overlap) * RATE):
        window = sources[start : start + length * RATE]
        found = (window if separate is None else separate(window))[:, generator.permutation(sources.shape[1])]
        order = tracker.follow(np.ascontiguousarray(found.T), max(0, end - start))
        end = start + len(window)
        if window.any():
            tracks.append(_speakers(window, found)[order].tolist())
    return np.mean([track == tracks[0] for track in tracks])


def _speakers(window, found):
    """Which speaker each separated source is."""
    norms = np.linalg.norm(found, axis=0)[:, None] * np.linalg.norm(window, axis=0) + 1e-20
    return linear_sum_assignment(-abs(found.T @ window) / norms)[1]


def leaky(leak, noise=0.0, seed=0):
    """What a weak network gives: each source with a share of the others, and noise of its own (of the mixture's loudness)."""
    generator = np.random.default_rng(seed)

    def separate(window):
        others = window.sum(1, keepdims=True) - window
        hiss = noise * window.sum(1).std() * generator.standard_normal(window.shape)
        return (window + leak * others + hiss).astype(np.float32)

    return separate
