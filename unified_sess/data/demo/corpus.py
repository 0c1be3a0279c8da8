"""A small noisy two-speaker corpus in LibriMix layout, made once from the voices in the package and noise from code."""

import functools
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile
from tqdm import tqdm

from unified_sess.data.demo.noise import draw_noise
from unified_sess.data.demo.speech import read_speech, read_voices
from unified_sess.data.mixing import draw_gains, fit_lengths, measure_loudness, mix, peak_weight

PARTS = {"train-100": 800, "dev": 20, "test": 60}  # mixtures of each part
TRAIN_SECONDS = 4.0  # longer training mixtures are cut to this, at a random place; the others stay whole
TRACK_SECONDS = 12.0  # of a track of noise, from which mixtures take a piece at a random place
MIXTURES_PER_TRACK = 8  # about as many mixtures share a track
FEWEST_TRACKS = 8
MOST_BABBLERS = 8  # voices of a track's babble, who then do not speak in its mixtures


class Level(NamedTuple):
    """Loudness in LUFS and largest absolute sample of a signal."""

    loudness: float
    peak: float


class Track(NamedTuple):
    """Noise `[time]`, its level, and the voices that may babble in it, as places in the part's list of voices."""

    signal: np.ndarray
    level: Level
    babblers: frozenset[int]


def make_demo_corpus(
    folder: str | Path,
    sample_rate: int = 8000,
    seed: int = 0,
    parts: Mapping[str, int] | None = None,
    progress: bool = True,
) -> Path:
    """Make the corpus, unless it is there already.

    The parts share no voice, no voice of a blend and no sentence; who babbles in a mixture's noise does not speak in it.
    Levels follow LibriMix's rule.

    Arguments
    ---------
    folder : str or Path
        Where the corpus is, or appears whole at the end; a killed run leaves nothing of this name.
    sample_rate : int
        In Hz.
    seed : int
        The same seed makes the same corpus.
    parts : dict
        Number of mixtures of the parts `train-100`, `dev` and `test`; None is those of `PARTS`.
    progress : bool
        Say what is made, with a bar.

    Returns
    -------
    folder : Path
    """
    folder, parts = Path(folder), PARTS if parts is None else parts
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    for stale in folder.parent.glob(f".{folder.name}.*.tmp"):
        shutil.rmtree(stale, ignore_errors=True)
    making = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    if progress:
        print(f"Making a corpus in {folder}, once: {sum(parts.values())} mixtures of two voices in noise.", flush=True)
    try:
        sounds = sum(_tracks_for(count) + count for count in parts.values())  # so that the bar moves from the start
        with tqdm(total=sounds, desc="Noise, then mixtures", unit="sound", disable=not progress) as bar:
            for number, (name, count) in enumerate(parts.items()):
                random = np.random.default_rng([seed, number])
                _make_part(making / f"wav{sample_rate // 1000}k" / "min" / name, count, sample_rate, random, bar)
        _write_sexes(making / "SPEAKERS.TXT")
        os.replace(making, folder)
    except BaseException:
        shutil.rmtree(making, ignore_errors=True)
        raise
    return folder


def _make_part(folder, count, sample_rate, random, bar):
    name = folder.name.split("-")[0]
    voices = read_voices()[name]

    @functools.cache
    def sentence(voice, number):
        signal = read_speech(voices[voice].files[number], sample_rate)
        return signal, _level(signal, sample_rate)

    tracks = []
    for _ in range(_tracks_for(count)):
        tracks.append(_noise_track(voices, sentence, sample_rate, random))
        bar.update()
    longest = int(TRAIN_SECONDS * sample_rate) if name == "train" else None
    for kind in ("mix_both", "mix_clean", "s1", "s2", "noise"):
        (folder / kind).mkdir(parents=True)
    for number in range(count):
        track = tracks[random.integers(len(tracks))]
        pair = random.choice([k for k in range(len(voices)) if k not in track.babblers], 2, replace=False)
        chosen = [(int(k), int(random.integers(len(voices[k].files)))) for k in pair]
        spoken, levels = zip(*(sentence(*which) for which in chosen))
        sources = _cut(fit_lengths(spoken, "min"), longest, random)
        signals = [*sources, *_cut([track.signal], len(sources[0]), random)]
        gains = draw_gains(random, *zip(*levels, track.level))
        signals = [(gain * signal).astype("f4") for gain, signal in zip(gains, signals)]
        weight = peak_weight(mix(signals))
        s1, s2, noise = (weight * signal for signal in signals)
        files = {"s1": s1, "s2": s2, "noise": noise, "mix_clean": mix([s1, s2]), "mix_both": mix([s1, s2, noise])}
        said = "_".join(f"{voices[k].number}-{s}" for k, s in chosen)
        for kind, signal in files.items():
            soundfile.write(folder / kind / f"{number:04d}_{said}.wav", signal, sample_rate, subtype="PCM_16")
        bar.update()


def _tracks_for(count):
    """Tracks of noise for so many mixtures."""
    return max(FEWEST_TRACKS, count // MIXTURES_PER_TRACK)


def _noise_track(voices, sentence, sample_rate, random):
    """A track of noise with babblers of its own."""
    babblers = random.permutation(len(voices))[:MOST_BABBLERS].tolist()
    talk = [np.concatenate([sentence(k, s)[0] for s in range(len(voices[k].files))]) for k in babblers]
    signal = draw_noise(int(TRACK_SECONDS * sample_rate), sample_rate, random, talk)
    return Track(signal, _level(signal, sample_rate), frozenset(babblers))


def _cut(signals, length, random):
    """Equally long signals `[time]`, cut alike to a length at a random place; None leaves them whole."""
    if length is None or len(signals[0]) <= length:
        return signals
    start = random.integers(len(signals[0]) - length + 1)
    return [signal[start : start + length] for signal in signals]


def _level(signal, sample_rate):
    return Level(measure_loudness(signal, sample_rate), float(np.abs(signal).max()))


def _write_sexes(path):
    """The voices' sexes as LibriSpeech tells them, for tables by gender."""
    voices = (voice for part in read_voices().values() for voice in part)
    path.write_text("".join(f"{voice.number} | {voice.sex}\n" for voice in voices), encoding="utf-8")
