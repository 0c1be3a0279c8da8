"""The order of an epoch is a function of (seed, epoch), for any number of ranks and any place of resuming."""

import numpy as np
import pytest

from unified_sess.data.batches import EpochSampler, collate, item_key

FRAMES = np.random.default_rng(0).integers(50, 200, 23)


def flat(batches):
    return [key for batch in batches for key in batch]


def test_every_item_once_an_epoch_and_another_order_in_the_next():
    sampler = EpochSampler(FRAMES, 4, seed=3)
    first = [index for _, index, _ in flat(sampler)]
    sampler.set_epoch(2)
    second = [index for _, index, _ in flat(sampler)]
    assert sorted(first) == sorted(second) == list(range(23))
    assert first != second


@pytest.mark.parametrize("world_size", [2, 3, 5])
def test_ranks_together_see_the_global_batch(world_size):
    whole = list(EpochSampler(FRAMES, 2 * world_size, seed=1))
    ranks = [list(EpochSampler(FRAMES, 2, seed=1, rank=r, world_size=world_size)) for r in range(world_size)]
    assert len({len(batches) for batches in ranks}) == 1  # nobody waits for a batch that does not come
    assert [[i for _, i, _ in flat(parts)] for parts in zip(*ranks)] == [[i for _, i, _ in batch] for batch in whole]


@pytest.mark.parametrize("world_size", [2, 3, 5])
def test_n_ranks_equal_one_process_for_items_of_equal_lengths(world_size):
    frames = [100] * 23
    for max_frames in (None, 60):
        whole = [flat([batch]) for batch in EpochSampler(frames, 2 * world_size, seed=1, max_frames=max_frames)]
        ranks = [
            EpochSampler(frames, 2, seed=1, max_frames=max_frames, rank=r, world_size=world_size)
            for r in range(world_size)
        ]
        together = [flat(parts) for parts in zip(*ranks)]
        if max_frames is None:  # a single item of a short last batch is whole, which is as long
            together, whole = ([[k[:2] for k in b] for b in batches] for batches in (together, whole))
        assert together == whole


def test_on_n_ranks_batch_1_leaves_signals_whole():
    """Regression: every rank's signal was cut to the shortest of all ranks."""
    for rank in range(3):
        for batch in EpochSampler(FRAMES, 1, seed=1, rank=rank, world_size=3):
            assert [length for _, _, length in batch] == [None] * len(batch)


@pytest.mark.parametrize("world_size", [2, 3])
def test_a_rank_cuts_to_its_own_batchs_shortest(world_size):
    for rank in range(world_size):
        for batch in EpochSampler(FRAMES, 2, seed=1, rank=rank, world_size=world_size):
            shortest = min((FRAMES[index] for _, index, _ in batch), default=None)
            assert {length for _, _, length in batch} <= {shortest if len(batch) > 1 else None}


def test_a_number_alone_is_a_key_and_numbers_end():
    """Regression: `dataset[0]` failed, and so did iterating a dataset."""
    assert item_key(0, 3) == (0, 0, None) and item_key(np.int64(-1), 3) == (0, 2, None)
    assert item_key((4, 1, 50), 3) == (4, 1, 50)
    for number in (3, -4):
        with pytest.raises(IndexError, match="has 3"):
            item_key(number, 3)


def test_a_batch_has_one_length():
    for batch in EpochSampler(FRAMES, 4, max_frames=120):
        lengths = {length for _, _, length in batch}
        assert len(lengths) == 1
        shortest = min(FRAMES[index] for _, index, _ in batch)
        expected = min(120, shortest) if len(batch) > 1 else (120 if shortest > 120 else None)
        assert lengths == {expected}


def test_resuming_inside_an_epoch_goes_on_with_the_same_batches():
    sampler = EpochSampler(FRAMES, 4, seed=5)
    sampler.set_epoch(7)
    whole = list(sampler)
    resumed = EpochSampler(FRAMES, 4, seed=5)
    resumed.set_epoch(7)
    resumed.start = 2
    assert list(resumed) == whole[2:]
    assert list(resumed) == whole  # the next epoch starts at its beginning


def test_an_empty_part_of_a_batch_is_none():
    assert collate([]) is None
    batches = [list(EpochSampler([9] * 5, 2, rank=r, world_size=2)) for r in range(2)]
    assert [len(batch) for batch in batches[1]] == [2, 0]


def test_collate_pads_behind_the_end():
    items = [
        {"id": str(n), "mixture": np.ones(n, "f4"), "clean": np.ones(n, "f4"), "sources": np.ones((n, 2), "f4")}
        for n in (3, 5)
    ]
    batch = collate(items)
    assert batch.lengths.tolist() == [3, 5]
    assert batch.sources.shape == (2, 5, 2)
    assert not batch.mixture[0, 3:].any()
