"""Mixtures made while training, from folders of speech and noise."""

import functools
import hashlib
import os
import threading
from collections import OrderedDict
from pathlib import Path

import numpy as np
import soundfile
import soxr
import torch

from unified_sess.data import mixing
from unified_sess.data.speech_folders import index_folder, read_speakers
from unified_sess.errors import UserError

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
        Any depth, wav, flac, ogg or mp3, at `sample_rate` or another rate; `noise_folder` None mixes without noise.
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
        Decoded files kept in memory by each process, at most (GiB).
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
        table = read_speakers(speakers) if speakers else None
        index = functools.partial(_index, index_folder, workers or len(os.sched_getaffinity(0)))
        shortest = MIN_ACTIVE * max(self.speed_factors)
        self.speech = [r for r in index(speech_folder, table, False) if max(b - a for a, b in r.activity) >= shortest]
        self.noises = index(noise_folder, None, True) if noise_folder else []
        if keep is not None:
            speakers = keep([r.speaker for r in self.speech], "speaker")
            noises = keep([r.path for r in self.noises], "noise") if self.noises else ()
            self.speech = [r for r in self.speech if r.speaker in speakers]
            self.noises = [r for r in self.noises if r.path in noises]
        self.speech_folder, self.noise_folder = Path(speech_folder), noise_folder and Path(noise_folder)
        by_speaker = {}
        for number, recording in enumerate(self.speech):
            by_speaker.setdefault(recording.speaker, []).append(number)
        self.by_speaker = [np.array(by_speaker[name]) for name in sorted(by_speaker)]
        if len(self.by_speaker) < num_spks:
            raise UserError(
                f"{speech_folder} has {len(self.by_speaker)} speakers where a mixture needs {num_spks}: add speakers"
            )
        counts = np.array([len(numbers) for numbers in self.by_speaker], float)
        self._chances = np.cumsum(counts / counts.sum())
        self._cache = _SignalCache(int(cache_gib * 2**30), sample_rate)
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
        signal = self._cache.read(self.speech_folder / recording.path)
        factor = self.speed_factors[int(random.integers(len(self.speed_factors)))]
        need = int(np.ceil(length * factor)) + 1
        if len(signal) > need:
            # A crop that starts here or there, but holds a stretch of voice.
            stretches = [s for s in recording.activity if s[1] - s[0] >= MIN_ACTIVE] or recording.activity
            begin, end = stretches[int(random.integers(len(stretches)))]
            voice = int(random.uniform(begin, max(begin, end - MIN_ACTIVE)) * self.sample_rate)
            must = min(int(MIN_ACTIVE * self.sample_rate), need)
            low, high = max(0, voice + must - need), min(voice, len(signal) - need)
            start = int(random.integers(low, high + 1)) if high >= low else max(0, len(signal) - need)
            signal = signal[start : start + need]
        if factor != 1:
            signal = soxr.resample(signal, self.sample_rate * factor, self.sample_rate, quality="MQ")
        return _fit(signal, length)

    def _crop_noise(self, recording, length, random):
        signal = self._cache.read(self.noise_folder / recording.path)
        if len(signal) < length:
            return mixing.extend_noise(signal, length).astype(np.float32)
        start = int(random.integers(len(signal) - length + 1))
        return signal[start : start + length]


def _index(folder_of_index, workers, folder, speakers, noise):
    """Index a folder under a name that tells it from other folders."""
    digest = hashlib.sha256(str(Path(folder).resolve()).encode()).hexdigest()[:12]
    place = Path(folder_of_index or Path.home() / ".cache" / "unified_sess")
    return index_folder(folder, place / f"index-{digest}.jsonl", speakers, workers, noise)


def _fit(signal, length):
    """Cut, or pad with zeros at the end."""
    return np.pad(signal[:length], (0, max(0, length - len(signal))))


class _SignalCache:
    """Decoded files at one rate, the last used kept up to a number of bytes."""

    def __init__(self, limit, sample_rate):
        self.limit, self.sample_rate, self.size = limit, sample_rate, 0
        self.signals, self.lock = OrderedDict(), threading.Lock()

    def __getstate__(self):  # a spawned worker starts with an empty cache of its own
        return self.limit, self.sample_rate

    def __setstate__(self, state):
        self.__init__(*state)

    def read(self, path):
        """First channel of a file, resampled, float32 `[time]`."""
        key = str(path)
        with self.lock:
            if key in self.signals:
                self.signals.move_to_end(key)
                return self.signals[key]
        try:
            signal, rate = soundfile.read(key, dtype="float32", always_2d=True)
        except (soundfile.SoundFileError, OSError) as error:
            raise UserError(f"cannot read {key} ({error}): was it removed after the training began?") from None
        signal = np.ascontiguousarray(signal[:, 0])
        if rate != self.sample_rate:
            signal = soxr.resample(signal, rate, self.sample_rate)
        with self.lock:
            if key not in self.signals:
                self.signals[key] = signal
                self.size += signal.nbytes
                while self.size > self.limit and self.signals:
                    self.size -= self.signals.popitem(last=False)[1].nbytes
        return signal
