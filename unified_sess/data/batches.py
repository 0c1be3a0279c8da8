"""Batches of mixtures, and the order in which an epoch visits them."""

import operator
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch


class Batch(NamedTuple):
    """Mixtures with their sources; signals shorter than the longest have zeros behind their end.

    ids : list of str
    mixture, clean : `[batch, time]`; clean is the sum of the sources.
    sources : `[batch, time, speakers]`
    lengths : `[batch]`, samples
    """

    ids: list
    mixture: torch.Tensor
    clean: torch.Tensor
    sources: torch.Tensor
    lengths: torch.Tensor

    def to(self, device: torch.device | str, **kwargs: Any) -> "Batch":
        """The batch on another device; lengths stay on the host, where they are read."""
        return self._replace(
            mixture=self.mixture.to(device, **kwargs),
            clean=self.clean.to(device, **kwargs),
            sources=self.sources.to(device, **kwargs),
        )


def collate(items: Sequence[dict]) -> Batch | None:
    """Make a `Batch` of dataset items; None when a rank has no item in a short last batch."""
    if not items:
        return None
    lengths = torch.tensor([len(item["mixture"]) for item in items])

    def padded(name):
        return torch.nn.utils.rnn.pad_sequence([torch.from_numpy(item[name]) for item in items], batch_first=True)

    return Batch([item["id"] for item in items], padded("mixture"), padded("clean"), padded("sources"), lengths)


def item_key(key: Any, size: int) -> tuple[int, int, int | None]:
    """The key `(epoch, index, length)` of an item; a number alone is the whole item of epoch 0.

    Raises
    ------
    IndexError
        When the number is none of the `size` items, so that a dataset can be iterated.

    Example
    -------
    >>> item_key(-1, 10)
    (0, 9, None)
    """
    if isinstance(key, tuple):
        return key
    index = operator.index(key)
    if not -size <= index < size:
        raise IndexError(f"there is no item {index}: the dataset has {size}")
    return 0, index % size, None


class EpochSampler(torch.utils.data.Sampler):
    """Batches of keys `(epoch, index, length)`, a function of (seed, epoch) alone.

    An item's randomness is keyed by its key, so workers and resuming change nothing. Rank r of N takes its slice of the
    N * batch_size items that one process with that batch size would take, and cuts them to the shortest of its own
    slice: items of equal lengths are the very same on N ranks as in one process, and with batch size 1 every signal
    stays whole. In a short last batch a rank may get fewer items, or none.

    Arguments
    ---------
    frames : array of int
        Length of each item in samples, `[items]`.
    batch_size : int
        Items of a batch on each rank.
    seed : int
        Orders the epochs.
    max_frames : int
        Items are cut to at most this many samples; None leaves them whole.
    shuffle : bool
        False visits the items in their order.
    rank, world_size : int
        This process among all.

    Example
    -------
    >>> sampler = EpochSampler([100, 80, 90], batch_size=2, seed=0, shuffle=False)
    >>> list(sampler)
    [[(1, 0, 80), (1, 1, 80)], [(1, 2, None)]]
    """

    def __init__(
        self,
        frames: Sequence[int] | np.ndarray,
        batch_size: int,
        seed: int = 0,
        max_frames: int | None = None,
        shuffle: bool = True,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.frames = np.asarray(frames)
        self.batch_size, self.seed, self.max_frames, self.shuffle = batch_size, seed, max_frames, shuffle
        self.rank, self.world_size = rank, world_size
        self.epoch = 1
        self.start = 0  # batches of the coming epoch that were done before an interruption

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch of the next iteration."""
        self.epoch = epoch

    def __len__(self) -> int:
        return -(-len(self.frames) // (self.batch_size * self.world_size))

    def __iter__(self) -> Iterator[list[tuple[int, int, int | None]]]:
        order = np.arange(len(self.frames))
        if self.shuffle:
            np.random.default_rng([self.seed, self.epoch]).shuffle(order)
        start, self.start = self.start, 0
        whole = self.batch_size * self.world_size
        for first in range(start * whole, len(order), whole):
            together = order[first : first + whole]
            mine = together[self.rank * self.batch_size : (self.rank + 1) * self.batch_size]
            length = self._length(mine)
            yield [(self.epoch, int(index), length) for index in mine]

    def _length(self, indices):
        """One length for the batch, so that padding never reaches a network; None leaves a single item whole."""
        if not len(indices):
            return None
        shortest = int(self.frames[indices].min())
        if self.max_frames is not None and shortest > self.max_frames:
            return self.max_frames
        return shortest if len(indices) > 1 else None
