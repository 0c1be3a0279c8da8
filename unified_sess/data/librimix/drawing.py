"""Draw the rows of a LibriMix split: who speaks with whom, in which noise, at which levels."""

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from unified_sess.data import mixing
from unified_sess.data.librimix.noise_speed import is_perturbed
from unified_sess.data.librimix.sources import RATE, read_row
from unified_sess.data.own_folders.speech_folders import IndexedRecording
from unified_sess.utils.errors import UserError
from unified_sess.utils.parallel import parallel_map

MIN_SECONDS = 3.0  # LibriMix leaves out shorter utterances


def group_speakers(recordings: Sequence[IndexedRecording], n_src: int, random: np.random.Generator) -> list[list[int]]:
    """Shuffle utterances into groups of `n_src` distinct speakers, each used once; always ends.

    What is left when fewer than `n_src` speakers remain stays out.
    """
    left = [int(k) for k in random.permutation(len(recordings))]
    groups = []
    while len(left) >= n_src:
        picked, speakers = [], set()
        for position in range(len(left) - 1, -1, -1):
            speaker = recordings[left[position]].speaker
            if speaker not in speakers:
                picked.append(position)
                speakers.add(speaker)
                if len(picked) == n_src:
                    break
        if len(picked) < n_src:
            break
        groups.append([left[position] for position in picked])
        for position in picked:
            del left[position]
    return groups


def draw_rows(
    speech: list[IndexedRecording],
    noises: list[IndexedRecording],
    speech_folder: str | Path,
    noise_folder: str | Path,
    n_src: int,
    count: int | None,
    seed: list[int],
    workers: int,
) -> list[dict]:
    """Draw the rows of one split by LibriMix's rule.

    Arguments
    ---------
    speech, noises : list of IndexedRecording
        Measured files at 16 kHz. Speed-perturbed noises serve only where there are more mixtures than others.
    speech_folder, noise_folder : str or Path
        Where they lie; the rows name files relative to these.
    n_src : int
        Speakers of a mixture.
    count : int
        Mixtures wanted; None uses every utterance once. Utterances that come again start later, at other levels
        and in other noise.
    seed : list of int
        Keys the draw.
    workers : int
        Processes that draw the levels.

    Returns
    -------
    rows : list of dict
        In the form of the public metadata; with `count` also `source_<k>_start` and `noise_start`, in samples.

    Raises
    ------
    UserError
        When there are not enough speakers.
    """
    random = np.random.default_rng(seed)
    usable = [r for r in speech if r.frames >= MIN_SECONDS * RATE]
    speakers = len({r.speaker for r in usable})
    if speakers < n_src:
        raise UserError(f"{speech_folder} has {speakers} speakers with 3 s or more where {n_src} are needed")
    groups = group_speakers(usable, n_src, random)
    first_round = len(groups)
    while count is not None and len(groups) < count:
        groups += group_speakers(usable, n_src, random)
    groups = groups[:count]
    plain = [noise for noise in noises if not is_perturbed(noise.path)]
    pick_noise = _NoisePicker(plain if plain and len(groups) <= len(plain) else noises, random)
    rows: list[dict] = []
    for number, group in enumerate(groups):
        sources = [usable[k] for k in group]
        starts = [_draw_start(s, random) if number >= first_round else 0 for s in sources]
        needed = max(s.frames - start for s, start in zip(sources, starts))
        noise = pick_noise(needed)
        row: dict[str, Any] = {"mixture_ID": "_".join(s.path.rsplit("/", 1)[-1].rsplit(".", 1)[0] for s in sources)}
        if number >= first_round:
            row["mixture_ID"] += f"_{number}"
        for k, s in enumerate(sources, 1):
            row |= {f"source_{k}_path": s.path, f"source_{k}_gain": 0.0}
        row |= {"noise_path": noise.path, "noise_gain": 0.0}
        if count is not None:
            row |= {f"source_{k}_start": start for k, start in enumerate(starts, 1)}
            row["noise_start"] = int(random.integers(max(0, noise.frames - needed) + 1))
        rows.append(row)
    job = functools.partial(_set_gains, str(speech_folder), str(noise_folder), n_src)
    seeds = [[*seed, number] for number in range(len(rows))]
    return list(parallel_map(job, list(zip(rows, seeds)), workers, "levels"))


def _draw_start(recording, random):
    """At most half of what exceeds the shortest usable utterance, so that mixtures stay long; voice must follow."""
    latest = (recording.frames - int(MIN_SECONDS * RATE)) // 2
    voice_ends = int(recording.activity[-1, 1] * RATE)
    return int(random.integers(max(0, min(latest, voice_ends - RATE // 2)) + 1))


class _NoisePicker:
    """Draws noises that are long enough, each once before any comes again; where none is left, the longest."""

    def __init__(self, noises, random) -> None:
        self.noises, self.random = noises, random
        self.lengths = np.array([noise.frames for noise in noises])
        self.available = np.ones(len(noises), bool)

    def __call__(self, length):
        if not self.available.any():
            self.available[:] = True
        choices = np.flatnonzero(self.available & (self.lengths >= length))
        chosen = self.random.choice(choices) if len(choices) else np.argmax(self.lengths * self.available)
        self.available[chosen] = False
        return self.noises[chosen]


def _set_gains(speech_folder, noise_folder, n_src, drawn):
    """The row with its gains, lowered where the mixture's peak would pass 0.9.

    As in LibriMix, loudness is that of the signals to be mixed: sources padded to the longest, the noise as long.
    """
    row, seed = drawn
    signals = mixing.fit_lengths(read_row(row, speech_folder, noise_folder, n_src), "max")
    loudness = [mixing.measure_loudness(signal, RATE) for signal in signals]
    gains = mixing.draw_gains(np.random.default_rng(seed), loudness, [np.abs(signal).max() for signal in signals])
    gains *= mixing.peak_weight(mixing.mix([s * np.float32(g) for s, g in zip(signals, gains)]))
    names = [f"source_{k}_gain" for k in range(1, n_src + 1)] + ["noise_gain"]
    return row | dict(zip(names, gains.tolist()))
