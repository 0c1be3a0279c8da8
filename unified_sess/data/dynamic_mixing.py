"""Mixtures made while training, from folders of speech and noise."""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from unified_sess.data import mixing
from unified_sess.data.batches import item_key
from unified_sess.data.pools import Folders, Keep, Measures, NoisePool, SpeechPool
from unified_sess.data.scenes.options import read_options
from unified_sess.data.scenes.room_bank import RoomBank
from unified_sess.data.scenes.scene import Scene, SceneMaker
from unified_sess.utils.errors import UserError

DEFAULT_SECONDS = 4
PEOPLE_IN_ROOMS = 4  # mouths simulated in each room, at least


class DynamicMixingDataset(torch.utils.data.Dataset):
    """Noisy mixtures of random speakers by LibriMix's rule, or scenes; nothing is written but what is known of folders.

    Items are dictionaries with `id`, `mixture` `[time]`, `clean` `[time]` and `sources` `[time, speakers]`, float32.
    Items are asked for with `(epoch, index, length)`, or by number; all randomness is keyed by (seed, epoch, index), so
    that neither workers nor ranks nor resuming change the sequence.

    Arguments
    ---------
    speech_folder, noise_folder : str, Path or list of them
        Any depth, any sound files, at `sample_rate` or another rate; `noise_folder` None mixes without noise.
    index_folder : str or Path
        Where the measures of the files, their decoded audio and the simulated rooms are kept.
    sample_rate : int
        Rate in Hz of the mixtures.
    num_spks : int
        Sources of a mixture; people in it, all different, unless scenes have fewer.
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
    speakers : str or list of str
        CSV with the columns path,speaker, for all speech folders or one for each; None takes LibriSpeech's layout or
        the first folder.
    speech_shares, noise_shares : list of float
        Share of what is drawn from each folder; None draws every utterance, and every noise, as often.
    cache_gib : float
        Folders whose audio takes no more than this (GiB of disk, 16 bits a sample) are decoded once; of others only
        the wanted part of a file is decoded, each time.
    keep : callable
        Keeps the speakers and noises of a part: called with all names and what they are (`speaker` or `noise`), it
        returns those that may be used; None keeps all.
    workers : int
        Processes that measure the files the first time; None is one for each core.
    scenes : dict
        Options of `SceneOptions`; None mixes as LibriMix does.

    Raises
    ------
    UserError
        Naming the folder or option that cannot be used.
    """

    def __init__(
        self,
        speech_folder: Folders,
        noise_folder: Folders | None = None,
        index_folder: str | os.PathLike | None = None,
        sample_rate: int = 8000,
        num_spks: int = 2,
        training_signal_len: int | None = None,
        mixtures_per_epoch: int | None = None,
        seed: int = 0,
        speed_factors: Sequence[float] | None = (0.95, 1.0, 1.05),
        speech_loudness: tuple[float, float] = mixing.SPEECH_LOUDNESS,
        noise_loudness: tuple[float, float] = mixing.NOISE_LOUDNESS,
        speakers: Folders | None = None,
        speech_shares: Sequence[float] | None = None,
        noise_shares: Sequence[float] | None = None,
        cache_gib: float = 4.0,
        keep: Keep | None = None,
        workers: int | None = None,
        scenes: dict | None = None,
    ) -> None:
        self.sample_rate, self.num_spks, self.seed = sample_rate, num_spks, seed
        self.length = training_signal_len or DEFAULT_SECONDS * sample_rate
        self.speed_factors = [float(factor) for factor in speed_factors or (1.0,)]
        self.speech_loudness = speech_loudness[0], speech_loudness[1]
        self.noise_loudness = noise_loudness[0], noise_loudness[1]
        if not self.length >= 1 or not all(factor > 0 for factor in self.speed_factors):
            raise UserError("training_signal_len and speed_perturb must be greater than 0")
        options = read_options(scenes)
        measures = Measures(index_folder, workers, cache_gib)
        self.speech = SpeechPool(
            speech_folder, measures, speakers, speech_shares, self.speed_factors, sample_rate, keep, num_spks
        )
        self.noises = NoisePool(noise_folder, measures, noise_shares, sample_rate, keep)
        self.scenes: SceneMaker | None = None
        if options is not None:
            bank = None
            if options.rooms:
                people, place = max(num_spks, PEOPLE_IN_ROOMS), measures.folder
                measured = options.measured_rooms if options.measured_share else None
                bank = RoomBank(
                    place,
                    options.room_count,
                    people,
                    sample_rate,
                    options.rt60,
                    measured,
                    measures.workers,
                    options.room_seed,
                )
            loudness = self.speech_loudness, self.noise_loudness
            self.scenes = SceneMaker(options, self.speech, self.noises, num_spks, sample_rate, *loudness, bank)
        self.frames = np.full(mixtures_per_epoch or max(1, len(self.speech.recordings) // num_spks), self.length)

    def __len__(self) -> int:
        return len(self.frames)

    def __getitem__(self, key: int | tuple[int, int, int | None]) -> dict:
        epoch, index, length = item_key(key, len(self))
        random = np.random.default_rng([self.seed, epoch, index])
        length = length or self.length
        if self.scenes is None:
            names, mixture, sources = self._mixture(random, length)
        else:
            scene = self.scenes.make(random, length)
            names, mixture, sources = scene.names, scene.mixture, scene.sources
        return {
            "id": f"{epoch}-{index}-" + "_".join(Path(name).stem for name in names),
            "mixture": mixture,
            "clean": sources.sum(1),
            "sources": sources,
        }

    def scene(self, key: tuple[int, int, int | None], running: bool = True) -> Scene:
        """All parts of the scene of an item.

        Raises
        ------
        UserError
            Where all options of scenes are off.
        """
        if self.scenes is None:
            raise UserError("all options of scenes are off: give one of rooms, turns, devices, ...")
        epoch, index, length = key
        random = np.random.default_rng([self.seed, epoch, index])
        return self.scenes.make(random, length or self.length, images=True, running=running)

    def _mixture(self, random: np.random.Generator, length: int) -> tuple[list[str], np.ndarray, np.ndarray]:
        """Names, mixture `[time]` and sources `[time, speakers]` by LibriMix's rule."""
        speakers = self.speech.draw_speakers(random, self.num_spks)
        chosen = [self.speech.draw_recording(random, speaker) for speaker in speakers]
        signals = [self.speech.crop(random, recording, length) for recording in chosen]
        measured = list(chosen)
        if self.noises:
            noise = self.noises.draw(random)
            signals.append(self.noises.crop(random, noise, length))
            measured.append(noise)
        # The file's loudness was measured once; the peak is that of the crop.
        peaks = [float(max(signal.max(), -signal.min())) for signal in signals]
        noise_range = self.noise_loudness if self.noises else None
        gains = mixing.draw_gains(random, [m.loudness for m in measured], peaks, self.speech_loudness, noise_range)
        scaled = np.stack(signals) * gains.astype(np.float32)[:, None]
        mixture = scaled.sum(0)
        weight = np.float32(mixing.peak_weight(mixture))
        return [r.path for r in chosen], mixture * weight, np.ascontiguousarray((scaled[: self.num_spks] * weight).T)
