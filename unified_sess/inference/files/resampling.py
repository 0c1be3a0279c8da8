"""Streams of samples at another rate."""

from collections.abc import Iterable, Iterator

import numpy as np
import soxr


class Resampler:
    """Brings a stream, given piece by piece, from one rate to another (Hz).

    Example
    -------
    >>> resampler = Resampler(16000, 8000, 1)
    >>> pieces = resampler.push(np.zeros((1000, 1), np.float32)), resampler.finish()
    >>> sum(len(piece) for piece in pieces)
    500
    """

    def __init__(self, rate: int, new_rate: int, channels: int) -> None:
        self.channels = channels
        self.stream = soxr.ResampleStream(rate, new_rate, channels, "float32") if rate != new_rate else None

    def push(self, block: np.ndarray, last: bool = False) -> np.ndarray:
        """What `[time, channels]` makes certain of the result, `[time, channels]`."""
        if self.stream is None:
            return block
        block = np.ascontiguousarray(block, np.float32)
        return self.stream.resample_chunk(block.reshape(-1, self.channels), last=last).reshape(-1, self.channels)

    def finish(self) -> np.ndarray:
        """The rest."""
        return self.push(np.zeros((0, self.channels), np.float32), last=True)


def resample(blocks: Iterable[np.ndarray], rate: int, new_rate: int) -> Iterator[np.ndarray]:
    """Resample a stream of arrays `[time]` or `[time, channels]`; yields pieces of the same kind."""
    resampler, shape = None, (0,)
    for block in blocks:
        if resampler is None:
            shape = block.shape[1:]
            resampler = Resampler(rate, new_rate, shape[0] if shape else 1)
        yield resampler.push(block).reshape(-1, *shape)
    if resampler is not None and rate != new_rate:
        yield resampler.finish().reshape(-1, *shape)
