"""Tracks in a temporary file, so that recordings of any length need little memory."""

import contextlib
import io
import math
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np

BLOCK = 10.0  # s of audio at once


class Spool:
    """A temporary float32 file `[time, channels]`.

    Arguments
    ---------
    file : binary file
        Open for writing and reading.
    channels : int
        Columns.
    """

    def __init__(self, file: BinaryIO, channels: int) -> None:
        self.file, self.channels, self.frames = file, channels, 0
        self.taken = 0  # frames

    def write(self, block: np.ndarray) -> None:
        """Append `[time, channels]`."""
        self.file.write(np.ascontiguousarray(block, np.float32).data)
        self.frames += len(block)

    def blocks(self, sample_rate: int) -> Iterator[np.ndarray]:
        """Yields everything again in pieces of some seconds."""
        self.file.flush()
        self.file.seek(0)
        size = math.ceil(BLOCK * sample_rate) * self.channels * 4
        while piece := self.file.read(size):
            yield np.frombuffer(piece, np.float32).reshape(-1, self.channels)

    def take(self, count: int) -> np.ndarray:
        """The next `count` samples, once all is written; zeros where there are no more."""
        size = self.channels * 4
        self.file.seek(self.taken * size)
        self.taken += count
        found = np.frombuffer(self.file.read(count * size), np.float32).reshape(-1, self.channels)
        return np.concatenate((found, np.zeros((count - len(found), self.channels), np.float32)))


@contextlib.contextmanager
def scratch(folder: str | Path | None) -> Iterator[BinaryIO]:
    """A file for what waits, without a name in a folder, or (None) in memory."""
    with io.BytesIO() if folder is None else tempfile.TemporaryFile(dir=folder) as file:
        yield file


class Queue:
    """Samples `[time, channels]` that wait until others have come as far."""

    def __init__(self, channels: int) -> None:
        self.channels = channels
        self.pieces: list[np.ndarray] = []

    def put(self, block: np.ndarray) -> None:
        """Append `[time, channels]`."""
        self.pieces.append(block)

    def take(self, count: int) -> np.ndarray:
        """Remove `count` samples from the front; zeros where there are no more."""
        taken, left = [], count
        while left and self.pieces:
            piece = self.pieces.pop(0)
            taken.append(piece[:left])
            if len(piece) > left:
                self.pieces.insert(0, piece[left:])
            left -= len(taken[-1])
        return np.concatenate([*taken, np.zeros((left, self.channels), np.float32)])
