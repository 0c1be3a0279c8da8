"""Batches of mixtures, and the order in which an epoch visits them."""

import operator
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch


class Batch(NamedTuple):
    """Several mixtures with their sources; shorter signals are padded with zeros to the longest.

    ids : names of the mixtures.
    mixture : `[batch, time]`, the noisy mixtures.
    clean : `[batch, time]`, the same without noise.
    sources : `[batch, time, speakers]`, the targets.
    lengths : `[batch]`, samples of each mixture before padding; stays on the CPU.
    """

    ids: list[str]
    mixture: torch.Tensor
    clean: torch.Tensor
    sources: torch.Tensor
    lengths: torch.Tensor

    def to(self, device: torch.device | str, **kwargs: Any) -> "Batch":
        """The batch with its signals on another device; lengths stay on the CPU, where they are read."""
        return self._replace(
            mixture=self.mixture.to(device, **kwargs),
            clean=self.clean.to(device, **kwargs),
            sources=self.sources.to(device, **kwargs),
        )


def collate(items: Sequence[dict]) -> Batch | None:
    """Make a `Batch` of a dataset's items; None of no items, which a rank may get in a short last batch."""
    if not items:
        return None
    lengths = torch.tensor([len(item["mixture"]) for item in items])

    def padded(name):
        return torch.nn.utils.rnn.pad_sequence([torch.from_numpy(item[name]) for item in items], batch_first=True)

    return Batch([item["id"] for item in items], padded("mixture"), padded("clean"), padded("sources"), lengths)


def item_key(key: Any, size: int) -> tuple[int, int, int | None]:
    """The key of an item in full: `(epoch, index, length)`.

    A number alone means the whole item in epoch 0, so `dataset[3]` is `dataset[0, 3, None]`; negative numbers count
    from the end. A length of None is the whole item.

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
    """Gives the batches of an epoch as lists of keys `(epoch, index, length)`, see `item_key`.

    The order depends on the seed and the epoch alone, and a dataset draws an item's crop and speed from the seed and
    the item's key. So the number of workers changes nothing, and a resumed epoch goes on as if it had not stopped.

    All items of a batch are cut to the length of its shortest, so that padding never reaches a network; with batch
    size 1 every signal stays whole.

    Several ranks share the batches: the N * batch_size items that one process would take together are dealt out in N
    slices, and each rank cuts its slice to its own shortest item. Of a short last batch a rank may get fewer items, or
    none.

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


def batch_loader(
    dataset: torch.utils.data.Dataset, sampler: EpochSampler, pin_memory: bool = False, **loader_kwargs: Any
) -> torch.utils.data.DataLoader:
    """A `DataLoader` that gives a `Batch` for each list of keys of a sampler.

    Arguments
    ---------
    dataset : torch.utils.data.Dataset
        Takes the sampler's keys.
    sampler : EpochSampler
        The batches, in order.
    pin_memory : bool
        Whether batches lie where a GPU copies them from without waiting.
    **loader_kwargs
        Further options of `DataLoader`, such as `num_workers`.
    """
    return torch.utils.data.DataLoader(
        dataset,
        batch_sampler=sampler,
        collate_fn=collate,
        # Iterating a loader draws a number from its generator: not from the one that dropout uses.
        generator=torch.Generator(),
        persistent_workers=loader_kwargs.get("num_workers", 0) > 0,
        pin_memory=pin_memory,
        **loader_kwargs,
    )
