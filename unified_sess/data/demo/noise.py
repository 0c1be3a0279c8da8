"""Noise from code: each kind is a function from `(length, sample_rate, random)` to float64 `[length]`, of any level.

Babble, the kind that is hardest to tell from speech, needs voices and stands apart.
"""

from collections.abc import Callable, Sequence

import numpy as np
from scipy.signal import fftconvolve, lfilter

Random = np.random.Generator
BABBLERS = (3, 7)  # voices that talk at once
TWO_KINDS, IN_A_ROOM = 0.3, 0.4  # share of the tracks with two kinds, and of kinds heard through an echo
SECOND_KIND = (-6.0, 6.0)  # dB, relative to the first
OVERTONES = 30


def draw_noise(length: int, sample_rate: int, random: Random, voices: Sequence[np.ndarray]) -> np.ndarray:
    """A track of one kind, or two: babble of the voices, or what `KINDS` names.

    Arguments
    ---------
    length, sample_rate : int
        Samples, and Hz.
    random : numpy.random.Generator
    voices : sequence of numpy.ndarray
        Speech `[time]` of each voice that may babble.

    Returns
    -------
    noise : numpy.ndarray
        float32 `[length]`, with a root mean square of 0.1.

    Example
    -------
    >>> draw_noise(4000, 8000, np.random.default_rng(0), [np.ones(500)] * 3).shape
    (4000,)
    """
    names = random.choice([*KINDS, "babble"], 2 if random.random() < TWO_KINDS else 1, replace=False)
    noise = np.zeros(length)
    for name in names:
        layer = babble(length, random, voices) if name == "babble" else KINDS[name](length, sample_rate, random)
        if random.random() < IN_A_ROOM:
            layer = echo(layer, sample_rate, random)
        noise += (_decibels(random, *SECOND_KIND) if noise.any() else 1.0) * _normal(layer)
    return (0.1 * _normal(noise)).astype(np.float32)


def babble(length: int, random: Random, voices: Sequence[np.ndarray]) -> np.ndarray:
    """Several voices at once, near and far ones, each talking on and on."""
    chosen = random.permutation(len(voices))[: random.integers(*BABBLERS, endpoint=True)]
    talk = np.zeros(length)
    for k in chosen:
        talk += _decibels(random, -10, 0) * np.roll(np.resize(_normal(voices[k]), length), random.integers(length))
    return talk


def hiss(length: int, sample_rate: int, random: Random) -> np.ndarray:
    """Noise of a random colour with resonances, whose loudness hardly moves: air, traffic far away, a recorder."""
    noise = _coloured(length, random)
    for _ in range(random.integers(0, 3)):
        noise += random.uniform(0.2, 1) * _normal(_resonance(random.standard_normal(length), sample_rate, random))
    return noise * _swell(length, sample_rate, random, rates=(0.05, 0.5), depth=0.3)


def gusts(length: int, sample_rate: int, random: Random) -> np.ndarray:
    """Noise whose loudness moves a lot, as slowly as wind or as fast as syllables."""
    rate = np.exp(random.uniform(np.log(0.2), np.log(8)))  # Hz
    return _coloured(length, random) * _swell(length, sample_rate, random, rates=(rate / 2, rate), depth=1.0) ** 2


def machine(length: int, sample_rate: int, random: Random) -> np.ndarray:
    """A motor: overtones of a rotation that wavers, and noise that beats with it."""
    rotation = np.exp(random.uniform(np.log(20), np.log(250)))  # Hz
    wavering = 1 + random.uniform(0, 0.05) * _slow(length, sample_rate, random, (0.1, 2))
    phase = 2 * np.pi * np.cumsum(rotation * wavering) / sample_rate
    count = min(OVERTONES, int(0.45 * sample_rate / rotation))
    tilt = random.uniform(0.3, 1.5)
    tone = np.zeros(length)
    for k in range(1, count + 1):
        tone += random.exponential() * k**-tilt * np.sin(k * phase + random.uniform(0, 2 * np.pi))
    beating = 1 + random.uniform(0, 1) * np.sin(phase)
    noise = _resonance(random.standard_normal(length), sample_rate, random) * beating
    return _normal(tone) + random.uniform(0.1, 1) * _normal(noise)


def rain(length: int, sample_rate: int, random: Random) -> np.ndarray:
    """Drops, each a short ring of its own pitch, over a hiss: rain, frying, applause."""
    drops = np.zeros(length)
    density = np.exp(random.uniform(np.log(20), np.log(2000)))  # drops a second
    for _ in range(6):
        hit = random.random(length) < density / 6 / sample_rate
        drops += _ring(hit * random.exponential(size=length), sample_rate, random, (500, 3800), (0.001, 0.01))
    return _normal(drops) + random.uniform(0.05, 0.7) * _normal(np.diff(random.standard_normal(length + 1)))


def clatter(length: int, sample_rate: int, random: Random) -> np.ndarray:
    """Hard things that touch now and then and ring: dishes, keys, a keyboard, over a faint hiss."""
    strokes = np.zeros(length)
    hit = random.random(length) < np.exp(random.uniform(np.log(1), np.log(12))) / sample_rate
    for _ in range(4):
        mine = hit * (random.random(length) < 0.5) * random.exponential(size=length)
        for _ in range(random.integers(2, 6)):  # modes of one thing
            strokes += _ring(mine, sample_rate, random, (300, 3800), (0.005, 0.15))
    return _normal(strokes) + random.uniform(0.02, 0.2) * _normal(_coloured(length, random))


def steps(length: int, sample_rate: int, random: Random) -> np.ndarray:
    """Somebody walks: heel and toe, on a hard or a soft floor, over a faint hiss."""
    walk, pace = np.zeros(length), random.uniform(0.35, 0.75)  # s
    at, click = random.uniform(0, pace), random.uniform(0.01, 0.06)  # s, s
    while at < length / sample_rate:
        for delay, level in ((0, 1.0), (random.uniform(0.05, 0.15), random.uniform(0.2, 0.8))):
            start = int((at + delay) * sample_rate)
            walk[start : start + 1] += level * random.uniform(0.6, 1)
        at += pace * random.uniform(0.9, 1.1)
    decay = np.exp(-np.arange(int(5 * click * sample_rate)) / (click * sample_rate))
    floor = _coloured(len(decay), random) * decay
    return _normal(fftconvolve(walk, floor)[:length]) + random.uniform(0.02, 0.2) * _normal(_coloured(length, random))


def music(length: int, sample_rate: int, random: Random) -> np.ndarray:
    """Notes of a random scale, in chords and on a beat, plucked or held."""
    tune = np.zeros(length)
    scale = np.cumsum(random.choice([1, 2, 2, 3], 12))  # semitones
    root, beat = random.uniform(80, 250), random.uniform(0.15, 0.5)  # Hz, s
    held, tilt = random.uniform(0.2, 2.5), random.uniform(0.7, 2)  # beats, overtones' fall
    time = np.arange(int((held + 1) * beat * sample_rate)) / sample_rate
    envelope = np.minimum(time / 0.01, 1) * np.exp(-time / (held * beat / 3))
    for start in range(0, length, int(beat * sample_rate)):
        if random.random() < 0.25:
            continue
        for note in random.choice(scale, random.integers(1, 4)):
            pitch = root * 2 ** (note / 12)
            count = max(1, min(8, int(0.45 * sample_rate / pitch)))
            sound = sum(k**-tilt * np.sin(2 * np.pi * k * pitch * time) for k in range(1, count + 1))
            end = min(length, start + len(time))
            tune[start:end] += (random.uniform(0.3, 1) * sound * envelope)[: end - start]
    return tune


KINDS: dict[str, Callable[[int, int, Random], np.ndarray]] = {
    "hiss": hiss,
    "gusts": gusts,
    "machine": machine,
    "rain": rain,
    "clatter": clatter,
    "steps": steps,
    "music": music,
}


def echo(signal: np.ndarray, sample_rate: int, random: Random) -> np.ndarray:
    """The signal through a tail of falling noise, as if it came from some way off in a room or a yard."""
    seconds = random.uniform(0.1, 0.6)
    time = np.arange(int(seconds * sample_rate)) / sample_rate
    tail = random.standard_normal(len(time)) * 10 ** (-3 * time / seconds)
    return fftconvolve(signal, tail)[: len(signal)]


def _coloured(length, random):
    """Noise whose spectrum falls, from white to brown."""
    return _normal(lfilter([1], [1, -random.uniform(0, 0.98)], random.standard_normal(length)))


def _resonance(signal, sample_rate, random):
    radius, angle = random.uniform(0.7, 0.98), 2 * np.pi * random.uniform(100, 3500) / sample_rate
    return lfilter([1 - radius], [1, -2 * radius * np.cos(angle), radius**2], signal)


def _ring(hits, sample_rate, random, pitches, seconds):
    """Hits `[time]` through a decaying wave of random pitch (Hz) and decay (s), within ranges."""
    pitch, decay = random.uniform(*pitches), random.uniform(*seconds)
    time = np.arange(int(5 * decay * sample_rate) + 1) / sample_rate
    return fftconvolve(hits, np.sin(2 * np.pi * pitch * time + 0.5) * np.exp(-time / decay))[: len(hits)]


def _swell(length, sample_rate, random, rates, depth):
    """A factor over time, around 1, never negative."""
    return np.maximum(1 + depth * _slow(length, sample_rate, random, rates), 0)


def _slow(length, sample_rate, random, rates):
    """A slow curve between -1 and 1: three waves of random rates (Hz, from a range)."""
    time = np.arange(length) / sample_rate
    waves = (np.sin(2 * np.pi * (random.uniform(*rates) * time + random.random())) for _ in range(3))
    return sum(waves) / 3


def _normal(signal):
    """The signal at a root mean square of 1; silence stays silence."""
    size = np.sqrt(np.mean(np.square(signal)))
    return signal / size if size > 0 else signal


def _decibels(random, low, high):
    return 10 ** (random.uniform(low, high) / 20)
