"""Mixtures made while training, from folders of speech and noise."""

import functools
import hashlib
import math
import os
from pathlib import Path

import numpy as np
import soxr
import torch

from unified_sess.data import mixing
from unified_sess.data.own_folders.speaker_tables import read_speakers
from unified_sess.data.own_folders.speech_folders import index_folder, read_recording
from unified_sess.utils.errors import UserError

DEFAULT_SECONDS = 4
MIN_ACTIVE = 0.25  # seconds of voice that every crop holds at least


class DynamicMixingDataset(torch.utils.data.Dataset):
    """Noisy mixtures of random speakers by LibriMix's rule; nothing is written but an index of the folders.

    Items are dictionaries with `id`, `mixture` `[time]`, `clean` `[time]` and `sources` `[time, speakers]`, float32.
    Items are asked for with `(epoch, index, length)`; all randomness is keyed by (seed, epoch, index), so that
    neither workers nor ranks nor resuming change the sequence.

    Arguments
    ---------
    speech_folder, noise_folder : str or Path
        Any depth, any sound files, at `sample_rate` or another rate; `noise_folder` None mixes without noise.
    index_folder : str or Path
        Where the measures of the files are kept.
    sample_rate : int
        Rate in Hz of the mixtures.
    num_spks : int
        Speakers in a mixture, all different.
    training_signal_len : int
        Length in samples of an item whose key gives none; None is 4 s.
    mixtures_per_epoch : int
        Items an epoch; None is one for every `num_spks` utterances.
    seed : int
        With epoch and index it keys an item's randomness.
    speed_factors : list of float
        Drawn for each source (0.95 is slower); None leaves the speed.
    speech_loudness, noise_loudness : tuple of float
        Ranges in LUFS.
    speakers : str
        CSV with the columns path,speaker; None takes LibriSpeech's layout or the first folder.
    cache_gib : float
        Where all files decoded take no more memory than this (GiB), each process keeps those it has read; otherwise
        only the wanted part of a file is read, each time.
    keep : callable
        Keeps the speakers and noises of a part: called with all names and what they are (`speaker` or `noise`), it
        returns those that may be used; None keeps all.
    workers : int
        Processes that measure the files the first time; None is one for each core.

    Raises
    ------
    UserError
        Naming the folder or option that cannot be used.
    """

    def __init__(
        self,
        speech_folder,
        noise_folder=None,
        index_folder=None,
        sample_rate=8000,
        num_spks=2,
        training_signal_len=None,
        mixtures_per_epoch=None,
        seed=0,
        speed_factors=(0.95, 1.0, 1.05),
        speech_loudness=mixing.SPEECH_LOUDNESS,
        noise_loudness=mixing.NOISE_LOUDNESS,
        speakers=None,
        cache_gib=1.0,
        keep=None,
        workers=None,
    ):
        self.sample_rate, self.num_spks, self.seed = sample_rate, num_spks, seed
        self.length = training_signal_len or DEFAULT_SECONDS * sample_rate
        self.speed_factors = [float(factor) for factor in speed_factors or (1.0,)]
        self.speech_loudness, self.noise_loudness = tuple(speech_loudness), tuple(noise_loudness)
        if not self.length >= 1 or not all(factor > 0 for factor in self.speed_factors):
            raise UserError("training_signal_len and speed_perturb must be greater than 0")
        table = read_speakers(speakers) if speakers else None
        index = functools.partial(_index, index_folder, workers or len(os.sched_getaffinity(0)))
        shortest = MIN_ACTIVE * max(self.speed_factors)
        self.speech = [r for r in index(speech_folder, table, False) if np.ptp(r.activity, axis=1).max() >= shortest]
        self.noises = index(noise_folder, None, True) if noise_folder else []
        if keep is not None:
            speakers = keep([r.speaker for r in self.speech], "speaker")
            noises = keep([r.path for r in self.noises], "noise") if self.noises else ()
            self.speech = [r for r in self.speech if r.speaker in speakers]
            self.noises = [r for r in self.noises if r.path in noises]
        by_speaker = {}
        for number, recording in enumerate(self.speech):
            by_speaker.setdefault(recording.speaker, []).append(number)
        self.by_speaker = [np.array(by_speaker[name]) for name in sorted(by_speaker)]
        if len(self.by_speaker) < num_spks:
            raise UserError(
                f"{speech_folder} has {len(self.by_speaker)} speakers where a mixture needs {num_spks}: add speakers, or "
                "say who speaks (the first folder tells, LibriSpeech's names, or a CSV with path,speaker)"
            )
        counts = np.array([len(numbers) for numbers in self.by_speaker], float)
        self._chances = np.cumsum(counts / counts.sum())
        keep_files = sum(r.frames for r in self.speech + self.noises) * 4 <= cache_gib * 2**30
        self._read_speech = _Reader(speech_folder, keep_files)
        self._read_noise = _Reader(noise_folder, keep_files)
        self.frames = np.full(mixtures_per_epoch or max(1, len(self.speech) // num_spks), self.length)

    def __len__(self):
        return len(self.frames)

    def __getitem__(self, key):
        epoch, index, length = key
        length = length or self.length
        random = np.random.default_rng([self.seed, epoch, index])
        chosen = [self.speech[int(random.choice(self.by_speaker[s]))] for s in self._draw_speakers(random)]
        signals = [self._crop_speech(recording, length, random) for recording in chosen]
        measured = list(chosen)
        if self.noises:
            noise = self.noises[int(random.integers(len(self.noises)))]
            signals.append(self._crop_noise(noise, length, random))
            measured.append(noise)
        # The file's loudness was measured once; the peak is that of the crop.
        peaks = [float(max(signal.max(), -signal.min())) for signal in signals]
        noise_range = self.noise_loudness if self.noises else None
        gains = mixing.draw_gains(random, [m.loudness for m in measured], peaks, self.speech_loudness, noise_range)
        signals = np.stack(signals) * gains.astype(np.float32)[:, None]
        mixture = signals.sum(0)
        weight = np.float32(mixing.peak_weight(mixture))
        sources = np.ascontiguousarray((signals[: self.num_spks] * weight).T)
        return {
            "id": f"{epoch}-{index}-" + "_".join(Path(r.path).stem for r in chosen),
            "mixture": mixture * weight,
            "clean": sources.sum(1),
            "sources": sources,
        }

    def _draw_speakers(self, random):
        """Distinct speakers, each as likely as it has utterances."""
        drawn = []
        for _ in range(self.num_spks * 20):
            speaker = min(int(np.searchsorted(self._chances, random.random())), len(self.by_speaker) - 1)
            if speaker not in drawn:
                drawn.append(speaker)
                if len(drawn) == self.num_spks:
                    return drawn
        # One speaker has nearly all utterances: take the others evenly.
        others = [s for s in range(len(self.by_speaker)) if s not in drawn]
        return drawn + random.choice(others, self.num_spks - len(drawn), replace=False).tolist()

    def _crop_speech(self, recording, length, random):
        factor = self.speed_factors[int(random.integers(len(self.speed_factors)))]
        rate, frames = recording.sample_rate, recording.frames
        need = math.ceil(length * rate * factor / self.sample_rate) + 1
        start = 0
        if frames > need:
            # A crop that starts here or there, but holds a stretch of voice.
            stretches = recording.activity[np.ptp(recording.activity, axis=1) >= MIN_ACTIVE]
            begin, end = stretches[int(random.integers(len(stretches)))]
            voice = int(random.uniform(begin, max(begin, end - MIN_ACTIVE)) * rate)
            must = min(int(MIN_ACTIVE * rate), need)
            low, high = max(0, voice + must - need), min(voice, frames - need)
            start = int(random.integers(low, high + 1)) if high >= low else frames - need
        signal = self._read_speech(recording, start, start + need)
        return _fit(_resample(signal, rate * factor, self.sample_rate), length)

    def _crop_noise(self, recording, length, random):
        need = math.ceil(length * recording.sample_rate / self.sample_rate) + 1
        start = int(random.integers(max(0, recording.frames - need) + 1))
        signal = self._read_noise(recording, start, start + need)
        signal = _resample(signal, recording.sample_rate, self.sample_rate)
        return mixing.extend_noise(signal, length).astype(np.float32, copy=False)


def _index(folder_of_index, workers, folder, speakers, noise):
    """Index a folder under a name that tells it from other folders."""
    digest = hashlib.sha256(str(Path(folder).resolve()).encode()).hexdigest()[:12]
    place = Path(folder_of_index or Path.home() / ".cache" / "unified_sess")
    return index_folder(folder, place / f"index-{digest}.jsonl", speakers, workers, noise)


def _fit(signal, length):
    """Cut, or pad with zeros at the end."""
    return np.pad(signal[:length], (0, max(0, length - len(signal))))


def _resample(signal, rate, new_rate):
    return signal if rate == new_rate else soxr.resample(signal, rate, new_rate)


class _Reader:
    """Reads parts of a folder's recordings, one channel, float32 `[time]`.

    Parts of a file are the same whether it is kept or not.
    """

    def __init__(self, folder, keep):
        self.folder, self.keep, self.kept = folder, keep, {}

    def __getstate__(self):  # a spawned worker starts without the signals
        return {"folder": self.folder, "keep": self.keep, "kept": {}}

    def __call__(self, recording, start, stop):
        if not self.keep:
            return self._read(recording, start, stop)
        if recording.path not in self.kept:
            self.kept[recording.path] = self._read(recording, 0, recording.frames)
        return self.kept[recording.path][start:stop]

    def _read(self, recording, start, stop):
        return read_recording(self.folder, recording, start, stop)
