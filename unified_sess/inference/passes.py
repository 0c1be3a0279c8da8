"""Every window separated at several speeds and the results averaged: better, for as many times the work."""

import contextlib
import hashlib
import threading

import numpy as np
import soxr

from unified_sess.inference.runtime import Runtime
from unified_sess.inference.tracker import best_order
from unified_sess.utils.errors import UserError

# Speeds in percent, the best ones first (docs/separating.md has what they gave): a voice at another speed has another
# pitch and other formants, so that the network errs elsewhere.
SPEEDS = (100, 92, 109, 95, 112)


class InPasses:
    """A network that hears every mixture at several speeds and gives the average; a `Runtime`.

    Arguments
    ---------
    model : Runtime
        The network.
    passes : int
        How many speeds, 1 to 5: as it is, 8 % slower, 9 % faster, 5 % slower, 12 % faster.
    stop : threading.Event
        Ends the work before the next pass when set.

    Raises
    ------
    UserError
        For another number of passes, and where the work was ended.

    Example
    -------
    >>> from unified_sess.inference.separating import Separator
    >>> InPasses(Separator.load(device="cpu"), 3).separate_windows(np.zeros((1, 16000), np.float32)).shape
    (1, 16000, 2)
    """

    def __init__(self, model: Runtime, passes: int, stop: threading.Event | None = None) -> None:
        self.model, self.passes, self.stop = model, checked_passes(passes), stop
        self.num_spks, self.sample_rate, self.name = model.num_spks, model.sample_rate, model.name

    @property
    def silence_threshold(self) -> float | None:
        """That of the network."""
        return self.model.silence_threshold

    def separate_windows(self, mixtures: np.ndarray, enhanced: bool = False) -> np.ndarray:
        """Mixtures `[windows, time]` to sources `[windows, time, speakers]`, with the enhanced mixture behind them on request.

        `UserError` where the work was ended.
        """
        first = self.model.separate_windows(mixtures, enhanced)
        if mixtures.size == 0:
            return first
        total = first.copy()
        for speed in SPEEDS[1 : self.passes]:
            if self.stop is not None and self.stop.is_set():
                raise UserError("interrupted")
            found = self._at_speed(mixtures, speed, enhanced)
            for window, reference, summed in zip(found, first, total):
                sources, signs = _as_ordered(reference[:, : self.num_spks], window[:, : self.num_spks])
                summed[:, : self.num_spks] += signs * window[:, sources]
                summed[:, self.num_spks :] += window[:, self.num_spks :]
        return total / np.float32(self.passes)

    def digest(self) -> str:
        """32 hexadecimal digits of the network and the speeds."""
        speeds = "" if self.passes == 1 else str(SPEEDS[: self.passes])
        return hashlib.sha256((self.model.digest() + speeds).encode()).hexdigest()[:32]

    def set_effort(self, effort: int) -> None:
        """That of the network."""
        self.model.set_effort(effort)

    def shared_by(self, jobs: int) -> contextlib.AbstractContextManager:
        """That of the network."""
        return self.model.shared_by(jobs)

    def _at_speed(self, mixtures, speed, enhanced):
        """What the network makes of the mixtures at another speed, brought back, `[windows, time, channels]`."""
        windows, time = mixtures.shape
        heard = soxr.resample(np.ascontiguousarray(mixtures.T, np.float32), speed, 100).reshape(-1, windows)
        found = self.model.separate_windows(np.ascontiguousarray(heard.T), enhanced)
        found = found.transpose(1, 0, 2).reshape(len(heard), -1)
        back = soxr.resample(np.ascontiguousarray(found), 100, speed).reshape(-1, found.shape[1])
        result = np.zeros((time, found.shape[1]), np.float32)
        result[: len(back)] = back[:time]
        return result.reshape(time, windows, -1).transpose(1, 0, 2)


def checked_passes(passes: int) -> int:
    """The number itself; raises `UserError` for one that `InPasses` does not take."""
    if not 1 <= passes <= len(SPEEDS):
        raise UserError(f"passes must be from 1 (fastest) to {len(SPEEDS)} (best), not {passes}")
    return passes


def _as_ordered(reference, sources):
    """Order and polarity of `sources` `[time, speakers]` that fit those of another pass best."""
    reference, sources = reference.astype(np.float64), sources.astype(np.float64)
    level = np.outer(np.linalg.norm(reference, axis=0), np.linalg.norm(sources, axis=0)) + 1e-20
    match = np.nan_to_num(reference.T @ sources / level)  # what is no number is told from the average
    order = best_order(np.abs(match))
    polarity = np.where(match[np.arange(len(order)), order] < 0, -1, 1)
    return order, polarity.astype(np.float32)
