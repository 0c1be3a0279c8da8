"""What happens to memory that a network on a CPU frees."""

import ctypes
import os

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX, _ARENA_MAX = -1, -2, -4, -8  # malloc.h of glibc


def keep_freed_memory() -> bool:
    """Let glibc keep the memory that is freed, for the next step or recording.

    A training step frees the tensors that the next one asks for again. By itself, glibc gives large ones back to the
    kernel, which hands them out anew page by page, filled with zeros: with tfdprnn-small a quarter of the processor time
    of training and of separating (`benchmarks/allocator.py`). The price is memory, 1.4 times as much in training there.
    Whoever sets one of glibc's own variables, such as `MALLOC_TRIM_THRESHOLD_=131072`, has decided otherwise.

    Returns
    -------
    bool
        Whether memory is kept; False without glibc or against the user's variables.
    """
    if any(name.startswith("MALLOC_") for name in os.environ):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    settings = {_MMAP_MAX: 0, _TRIM_THRESHOLD: -1, _TOP_PAD: 2**26, _ARENA_MAX: 1}
    return all([mallopt(name, value) for name, value in settings.items()])
