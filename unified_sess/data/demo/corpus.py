"""A small noisy two-speaker corpus in LibriMix layout, made once from demo speech."""

import os
import shutil
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile
from scipy.signal import lfilter
from tqdm import tqdm

from unified_sess.data.demo.speech import make_sentence, make_voices, speak, vary
from unified_sess.data.mixing import draw_gains, fit_lengths, measure_loudness, mix, peak_weight


class CorpusSize(NamedTuple):
    """A part of the corpus: speakers, sentences of each, voices of the babble, mixtures."""

    speakers: int
    sentences: int
    babblers: int
    mixtures: int


PARTS = {"train-100": CorpusSize(24, 40, 6, 1600), "dev": CorpusSize(5, 8, 2, 40), "test": CorpusSize(5, 10, 2, 60)}
TRACKS, TRACK_SECONDS = 8, 30  # noise of each part, cut at random places


def make_demo_corpus(
    folder: str | Path,
    sample_rate: int = 8000,
    seed: int = 0,
    parts: dict[str, CorpusSize] | None = None,
    progress: bool = True,
) -> Path:
    """Make the corpus, unless it is there already.

    Target speakers and babble voices are disjoint between the parts and from each other. Noise is babble of other
    voices, shaped noise whose loudness moves, or both; levels follow LibriMix's rule.

    Arguments
    ---------
    folder : str or Path
        Where the corpus is, or appears whole at the end; a killed run leaves nothing of this name.
    sample_rate : int
        In Hz.
    seed : int
        The same seed makes the same corpus in a fresh process.
    parts : dict
        Name to `CorpusSize`; None is the default of 1600 training, 40 dev and 60 test mixtures.

    Returns
    -------
    folder : Path

    Raises
    ------
    UserError
        Without the `demo` extra.
    """
    folder, parts = Path(folder), parts or PARTS
    if folder.is_dir():
        return folder
    voices = make_voices(sum(p.speakers + p.babblers for p in parts.values()), seed)
    np.random.default_rng(seed).shuffle(voices)
    folder.parent.mkdir(parents=True, exist_ok=True)
    for stale in folder.parent.glob(f".{folder.name}.*.tmp"):
        shutil.rmtree(stale, ignore_errors=True)
    making = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    try:
        root = making / f"wav{sample_rate // 1000}k" / "min"
        for number, (name, part) in enumerate(parts.items()):
            mine, voices = voices[: part.speakers + part.babblers], voices[part.speakers + part.babblers :]
            random = np.random.default_rng([seed, number])
            _make_part(root / name, part, mine, sample_rate, random, progress)
        os.replace(making, folder)
    except BaseException:
        shutil.rmtree(making, ignore_errors=True)
        raise
    return folder


def _make_part(folder, part, voices, sample_rate, random, progress):
    speakers, babblers = voices[: part.speakers], voices[part.speakers :]
    with tqdm(total=part.speakers * part.sentences, desc=f"Speaking {folder.name}", disable=not progress) as bar:
        speech = [_utterances(v, part.sentences, sample_rate, random, bar) for v in speakers]
    noises = _noise_tracks(babblers, sample_rate, random)
    levels = [[_level(u, sample_rate) for u in utterances] for utterances in speech]
    for name in ("mix_both", "mix_clean", "s1", "s2", "noise"):
        (folder / name).mkdir(parents=True)
    for number in tqdm(range(part.mixtures), desc=f"Mixing {folder.name}", disable=not progress):
        pair = random.choice(part.speakers, 2, replace=False)
        chosen = [int(random.integers(part.sentences)) for _ in pair]
        sources = fit_lengths([speech[s][u] for s, u in zip(pair, chosen)], "min")
        track, level = noises[random.integers(len(noises))]
        start = random.integers(len(track) - len(sources[0]))
        signals = [*sources, track[start : start + len(sources[0])]]
        loudness, peaks = zip(*(levels[s][u] for s, u in zip(pair, chosen)), level)
        gains = draw_gains(random, loudness, peaks)
        signals = [(gain * signal).astype("f4") for gain, signal in zip(gains, signals)]
        weight = peak_weight(mix(signals))
        s1, s2, noise = (weight * signal for signal in signals)
        name = f"{number:04d}_{pair[0]}-{chosen[0]}_{pair[1]}-{chosen[1]}.wav"
        files = {"s1": s1, "s2": s2, "noise": noise, "mix_clean": mix([s1, s2]), "mix_both": mix([s1, s2, noise])}
        for kind, signal in files.items():
            soundfile.write(folder / kind / name, signal, sample_rate, subtype="PCM_16")


def _utterances(voice, count, sample_rate, random, bar=None):
    utterances = []
    for _ in range(count):
        utterances.append(speak(vary(voice, random), make_sentence(random), sample_rate))
        if bar is not None:
            bar.update()
    return utterances


def _level(signal, sample_rate):
    return measure_loudness(signal, sample_rate), float(np.abs(signal).max())


def _noise_tracks(babblers, sample_rate, random):
    """Tracks of babble, of shaped noise and of both, each with its loudness and peak."""
    length = TRACK_SECONDS * sample_rate
    talk = [np.concatenate(_utterances(v, 10, sample_rate, random)) for v in babblers]
    tracks = []
    for number in range(TRACKS):
        parts = []
        if number % 4 != 1:
            voices = [np.roll(np.resize(t, length), random.integers(length)) for t in talk]
            parts.append(mix([random.uniform(0.3, 1) * v / np.abs(v).max() for v in voices]))
        if number % 4 != 2:
            parts.append(_shaped_noise(length, sample_rate, random))
        track = mix([p / np.sqrt(np.mean(p**2)) for p in parts]).astype("f4")
        track *= 0.1
        tracks.append((track, _level(track, sample_rate)))
    return tracks


def _shaped_noise(length, sample_rate, random):
    """Noise with a random spectral tilt and resonance, whose loudness moves slowly."""
    tilt, radius = random.uniform(0.5, 0.95), random.uniform(0.7, 0.95)
    angle = 2 * np.pi * random.uniform(200, 2500) / sample_rate
    noise = lfilter([1], [1, -tilt], random.standard_normal(length))
    noise = noise / noise.std() + 0.7 * lfilter(
        [1 - radius], [1, -2 * radius * np.cos(angle), radius**2], random.standard_normal(length)
    )
    time = np.arange(length) / sample_rate
    swell = sum(np.sin(2 * np.pi * random.uniform(0.1, 3) * time + random.uniform(0, 6)) for _ in range(3))
    return noise * (1 + 0.25 * swell)
