"""One recording to separated tracks: the way that `separate_file` and `unified-sess separate` share."""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
from tqdm import tqdm

from unified_sess.inference.activity import FramePowers, active_tracks
from unified_sess.inference.files.recordings import Recording
from unified_sess.inference.files.resampling import Resampler
from unified_sess.inference.files.spool import Queue, Spool, scratch
from unified_sess.inference.loudness import Loudness
from unified_sess.inference.runtime import Runtime
from unified_sess.inference.scale import MixtureScale
from unified_sess.inference.voices.evidence import Listener
from unified_sess.inference.voices.placing import Placing
from unified_sess.inference.voices.speakers import SpeakerNetwork
from unified_sess.inference.voices.turns import MOST_TRACKS
from unified_sess.inference.windows import DEFAULT_WINDOWS, NotFinite, Windows, separate_stream
from unified_sess.utils.errors import UserError

BAR = "{desc}: {percentage:3.0f}%|{bar}| {n:.0f}/{total:.0f} s [{elapsed}<{remaining}]"


class TrackOptions(NamedTuple):
    """What is made of a recording.

    enhanced : bool
        Also the enhanced mixture.
    recorded : bool
        Also the recording as it is, in the channel that was separated.
    loudness : bool
        Measure the loudness of the tracks.
    fixed_order : bool
        Trust the network's order of the sources in every window, whatever the voices sound like.
    windows : Windows
        How long recordings are cut.
    several : bool
        Two or more people are known to talk: voices never put all on one track.
    voices : SpeakerNetwork
        Recognises voices in the place of the network that ships; None takes that.
    """

    enhanced: bool = False
    recorded: bool = False
    loudness: bool = False
    fixed_order: bool = False
    windows: Windows = DEFAULT_WINDOWS
    several: bool = False
    voices: SpeakerNetwork | None = None


class Tracks(NamedTuple):
    """A separated recording.

    spool : Spool
        `[time, columns]`: the speakers, the enhanced mixture, the recording, without `factors`.
    rate : int
        Of the spool, in Hz.
    factors : numpy.ndarray
        `[speakers + enhanced]`, what brings the columns to the scale of the mixture.
    active : numpy.ndarray
        bool `[speakers]`, which of them hold anybody.
    peaks : numpy.ndarray
        `[columns]`, largest absolute sample, with `factors`.
    energies : numpy.ndarray
        `[speakers]`, at the scale of the mixture.
    powers : numpy.ndarray
        `[frames, speakers]` in frames of 10 ms, see `activity`.
    loudness : Loudness
        Of the speakers and the enhanced mixture without `factors`, or None.
    """

    spool: Spool
    rate: int
    factors: np.ndarray
    active: np.ndarray
    peaks: np.ndarray
    energies: np.ndarray
    powers: np.ndarray
    loudness: Loudness | None

    def blocks(self) -> Iterator[np.ndarray]:
        """Yields the columns in pieces `[time, columns]` at the scale of the mixture."""
        factors = np.ones(self.spool.channels, np.float32)
        factors[: len(self.factors)] = self.factors
        yield from (block * factors for block in self.spool.blocks(self.rate))

    def loudest(self, count: int) -> np.ndarray:
        """bool `[speakers]`: the `count` of most energy."""
        chosen = np.zeros(len(self.energies), bool)
        chosen[np.argsort(-self.energies, kind="stable")[:count]] = True
        return chosen


def separate_to_tracks(
    model: Runtime,
    recording: Recording,
    file: BinaryIO,
    rate: int,
    options: TrackOptions = TrackOptions(),
    stop: threading.Event | None = None,
    progress: Callable[[float], object] | None = None,
    folder: str | Path | None = None,
) -> Tracks:
    """Separate a recording in bounded memory; everything that is known only at its end is measured on the way.

    Arguments
    ---------
    model : Runtime
        The network.
    recording : Recording
    file : binary file
        Takes the tracks, 4 bytes a sample.
    rate : int
        Of the tracks: the recording's or the model's, in Hz.
    options : TrackOptions
    stop : threading.Event
        Ends the work when set.
    progress : callable
        Is told how many s were read, piece by piece; without it long recordings show a bar.
    folder : str or Path
        Where what waits lies, 4 bytes a sample; None keeps it in memory.

    Raises
    ------
    UserError
        Naming the recording when it cannot be read, or when the network gives what is no number.
    """
    way = _Way(model, recording, file, rate, options)
    with scratch(folder) as raw, scratch(folder) as recorded:
        if progress is not None:
            return way.go(stop, progress, raw, recorded)
        long = recording.duration > options.windows.length
        with tqdm(total=recording.duration, desc=Path(recording.path).name, leave=False, bar_format=BAR,
                  disable=None if long else True, dynamic_ncols=True) as bar:  # fmt: skip
            return way.go(stop, bar.update, raw, recorded)


def placed_by_voice(model: Runtime) -> bool:
    """Whether voices decide on the tracks: sources that are free in level do not add up to their voice."""
    return model.silence_threshold is not None and 2 <= model.num_spks <= MOST_TRACKS


def check_voices(voices: SpeakerNetwork | None, model: Runtime) -> None:
    """Raise `UserError` where a network of speakers is given and voices do not decide."""
    if voices is not None and not placed_by_voice(model):
        raise UserError(
            f"--voices {voices.name}: tracks of {model.name} are not placed by voice (of two or three speakers, trained "
            "with losses that know silence): leave it out"
        )


class _Way:
    """The state of `separate_to_tracks`: the network first, then what wants to know the whole recording."""

    def __init__(self, model, recording, file, rate, options) -> None:
        self.model, self.recording, self.rate, self.options = model, recording, rate, options
        self.columns = model.num_spks + options.enhanced
        self.spool = Spool(file, self.columns + options.recorded)
        self.scales = MixtureScale(), MixtureScale()
        self.powers = FramePowers(model.sample_rate)
        self.loudness = Loudness(rate) if options.loudness else None
        self.peaks = np.zeros(self.spool.channels, np.float32)
        self.seen = 0  # samples of the recording

    def go(self, stop, progress, raw, recorded):
        self.stop, self.raw, self.recorded = stop, Spool(raw, self.columns + 1), Spool(recorded, 1)
        placing = self._separate(progress)
        resampler, speakers = Resampler(self.model.sample_rate, self.rate, self.columns), self.model.num_spks
        for block in self.raw.blocks(self.model.sample_rate):
            self._may_go_on()
            if placing is not None:
                block = np.concatenate((placing(block[:, :speakers]), block[:, speakers:]), axis=1)
            self._measure(block)
            self._write(resampler.push(block[:, :-1]))
        self._write(resampler.finish())
        if self.rate == self.recording.sample_rate and self.spool.frames < self.seen:
            self._write(np.zeros((self.seen - self.spool.frames, self.columns), np.float32))
        return self._finished()

    def _separate(self, progress):
        """Sources and mixture into `raw`; returns the `Placing` of voices on tracks, None where the network decides."""
        model, options, mixture = self.model, self.options, Queue(1)
        listener = None
        if placed_by_voice(model) and not options.fixed_order:
            listener = Listener(model.num_spks, model.sample_rate, options.voices)
        stream = self._mixture(progress, mixture)
        try:
            for sources in separate_stream(model, stream, options.windows, options.enhanced, options.fixed_order):
                self.raw.write(np.concatenate((sources, mixture.take(len(sources))), axis=1))
                if listener is not None:
                    listener.add(sources[:, : model.num_spks])
        except NotFinite as error:
            raise UserError(f"{self.recording.path}: {error}") from None
        return None if listener is None else Placing(listener.finish(), model.sample_rate, options.several)

    def _mixture(self, progress, mixture):
        """Yields the mixture `[time]` at the model's rate, without its offset; keeps what is needed later."""
        recording, resampler = self.recording, Resampler(self.recording.sample_rate, self.rate, 1)

        def tap(signal):
            self._may_go_on()
            self.seen += len(signal)
            if self.options.recorded:
                self.recorded.write(resampler.push(signal[:, None]))

        for block in recording.blocks(self.model.sample_rate, progress, tap):
            mixture.put(block[:, None])
            yield block
        if self.options.recorded:
            self.recorded.write(resampler.finish())

    def _may_go_on(self):
        if self.stop is not None and self.stop.is_set():
            raise UserError(f"{self.recording.path}: interrupted")

    def _measure(self, block):
        """What is known of the tracks and the mixture behind them `[time, columns + 1]` at the model's rate."""
        speakers, mixture = block[:, : self.model.num_spks], block[:, -1:]
        self.scales[0].add(mixture[:, 0], speakers)
        if self.options.enhanced:
            self.scales[1].add(mixture[:, 0], block[:, self.model.num_spks : -1])
        self.powers.add(np.concatenate((speakers, mixture), axis=1))

    def _write(self, block):
        """Append tracks `[time, columns]` at the final rate, never more than there is of the recording."""
        if self.rate == self.recording.sample_rate:
            block = block[: self.seen - self.spool.frames]
        if self.loudness is not None:
            self.loudness.add(block)
        if self.options.recorded:
            block = np.concatenate((block, self.recorded.take(len(block))), axis=1)
        if len(block):
            self.peaks = np.maximum(self.peaks, np.abs(block).max(axis=0))
            self.spool.write(block)

    def _finished(self):
        factors, active, powers = self._levels()
        gains = np.ones(self.spool.channels)
        gains[: self.columns] = np.abs(factors)
        energies = powers.sum(axis=0, dtype=np.float64)
        return Tracks(self.spool, self.rate, factors, active, self.peaks * gains, energies, powers, self.loudness)

    def _levels(self):
        """Factors of the columns, which speakers are active, and the speakers' powers at the mixture's scale."""
        model, powers = self.model, self.powers.finish()
        powers, mixture = powers[:, : model.num_spks], powers[:, model.num_spks]
        threshold = model.silence_threshold
        if threshold is not None:  # the network has learnt the level; a fit would make silence loud
            return np.ones(self.columns, np.float32), active_tracks(powers, mixture, threshold), powers
        speakers = self.scales[0].factors
        active = active_tracks(powers * np.square(speakers), mixture)
        speakers = self.scales[0].factors_of(active)
        enhanced = np.broadcast_to(self.scales[1].factors, int(self.options.enhanced))
        factors = np.concatenate((np.broadcast_to(speakers, model.num_spks), enhanced)).astype(np.float32)
        return factors, active, powers * np.square(speakers)
