"""One recording to separated tracks: the way that `separate_file` and `unified-sess separate` share."""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
from tqdm import tqdm

from unified_sess.inference.activity import SILENCE_THRESHOLD, FramePowers, active_tracks
from unified_sess.inference.files.recordings import Recording
from unified_sess.inference.files.resampling import Resampler
from unified_sess.inference.files.spool import Queue, Spool
from unified_sess.inference.loudness import Loudness
from unified_sess.inference.runtime import Runtime
from unified_sess.inference.scale import MixtureScale
from unified_sess.inference.windows import DEFAULT_WINDOWS, NotFinite, Windows, separate_stream
from unified_sess.utils.errors import UserError


class TrackOptions(NamedTuple):
    """What is made of a recording.

    enhanced : bool
        Also the enhanced mixture.
    recorded : bool
        Also the recording as it is, in the channel that was separated.
    loudness : bool
        Measure the loudness of the tracks.
    fixed_order : bool
        Trust the network's order of the sources in every window.
    windows : Windows
        How long recordings are cut.
    """

    enhanced: bool = False
    recorded: bool = False
    loudness: bool = False
    fixed_order: bool = False
    windows: Windows = DEFAULT_WINDOWS


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

    Raises
    ------
    UserError
        Naming the recording when it cannot be read, or when the network gives what is no number.
    """
    way = _Way(model, recording, file, rate, options)
    if progress is not None:
        return way.go(stop, progress)
    long = recording.duration > options.windows.length
    with tqdm(total=round(recording.duration, 1), desc=Path(recording.path).name, unit="s", leave=False,
              disable=None if long else True, dynamic_ncols=True) as bar:  # fmt: skip
        return way.go(stop, bar.update)


class _Way:
    """The state of `separate_to_tracks`."""

    def __init__(self, model, recording, file, rate, options) -> None:
        self.model, self.recording, self.rate, self.options = model, recording, rate, options
        self.columns = model.num_spks + options.enhanced
        self.spool = Spool(file, self.columns + options.recorded)
        self.scales = MixtureScale(), MixtureScale()
        self.powers = FramePowers(model.sample_rate)
        self.loudness = Loudness(rate) if options.loudness else None
        self.peaks = np.zeros(self.spool.channels, np.float32)
        self.seen = 0  # samples of the recording
        self.mixture, self.recorded = Queue(1), Queue(1)

    def go(self, stop, progress):
        resampler = Resampler(self.model.sample_rate, self.rate, self.columns)
        options, stream = self.options, self._mixture(stop, progress)
        try:
            for sources in separate_stream(self.model, stream, options.windows, options.enhanced, options.fixed_order):
                self._measure(sources)
                self._write(resampler.push(sources))
        except NotFinite as error:
            raise UserError(f"{self.recording.path}: {error}") from None
        self._write(resampler.finish())
        if self.rate == self.recording.sample_rate and self.spool.frames < self.seen:
            self._write(np.zeros((self.seen - self.spool.frames, self.columns), np.float32))
        return self._finished()

    def _mixture(self, stop, progress):
        """Yields the mixture `[time]` at the model's rate, without its offset; keeps what is needed later."""
        recording, resampler = self.recording, Resampler(self.recording.sample_rate, self.rate, 1)

        def tap(signal):
            if stop is not None and stop.is_set():
                raise UserError(f"{recording.path}: interrupted")
            self.seen += len(signal)
            if self.options.recorded:
                self.recorded.put(resampler.push(signal[:, None]))

        for block in recording.blocks(self.model.sample_rate, progress, tap):
            self.mixture.put(block[:, None])
            yield block
        if self.options.recorded:
            self.recorded.put(resampler.finish())

    def _measure(self, sources):
        """What is known of the tracks `[time, columns]` at the model's rate."""
        speakers = sources[:, : self.model.num_spks]
        mixture = self.mixture.take(len(sources))
        self.scales[0].add(mixture[:, 0], speakers)
        if self.options.enhanced:
            self.scales[1].add(mixture[:, 0], sources[:, self.model.num_spks :])
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
        active = active_tracks(powers * np.square(speakers), mixture, SILENCE_THRESHOLD)
        speakers = self.scales[0].factors_of(active)
        enhanced = np.broadcast_to(self.scales[1].factors, int(self.options.enhanced))
        factors = np.concatenate((np.broadcast_to(speakers, model.num_spks), enhanced)).astype(np.float32)
        return factors, active, powers * np.square(speakers)
