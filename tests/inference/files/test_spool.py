"""Streams between the network and the files: resampling, spools, queues."""

import tempfile

import numpy as np
import pytest
import soxr

from unified_sess.inference.files.resampling import resample
from unified_sess.inference.files.spool import Queue, Spool


@pytest.mark.parametrize("channels", [1, 3])
def test_resampling_a_stream_equals_the_whole(channels):
    signal = np.random.default_rng(0).standard_normal((4410, channels)).astype("f4")
    pieces = list(resample(iter(np.split(signal, [7, 1000, 1001, 4000])), 44100, 8000))
    np.testing.assert_allclose(np.concatenate(pieces), soxr.resample(signal, 44100, 8000), atol=1e-5)


def test_spool_gives_back_what_it_took():
    blocks = np.split(np.random.default_rng(0).standard_normal((50000, 3)).astype("f4"), [1, 20000])
    with tempfile.TemporaryFile() as file:
        spool = Spool(file, 3)
        for block in blocks:
            spool.write(block)
        for _ in range(2):
            np.testing.assert_array_equal(np.concatenate(list(spool.blocks(2000))), np.concatenate(blocks))
        assert spool.frames == 50000


def test_a_queue_gives_in_order_and_zeros_where_there_is_no_more():
    queue = Queue(2)
    signal = np.arange(20.0, dtype=np.float32).reshape(10, 2)
    for piece in np.split(signal, [3, 3, 7]):
        queue.put(piece)
    found = np.concatenate([queue.take(count) for count in (2, 0, 4, 6)])
    np.testing.assert_array_equal(found, np.concatenate((signal, np.zeros((2, 2)))))
