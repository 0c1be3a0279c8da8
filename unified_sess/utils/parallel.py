"""Work spread over processes, with a progress bar."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

from tqdm import tqdm

from unified_sess.utils.errors import UserError

Item = TypeVar("Item")
Result = TypeVar("Result")


def available_cores() -> int:
    """Cores that this process may use; where the system does not tell (macOS), all of the machine."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def parallel_map(
    function: Callable[[Item], Result], items: Sequence[Item], workers: int, description: str
) -> Iterator[Result]:
    """Yield results in order while showing a progress bar.

    Raises
    ------
    UserError
        When a worker process is killed.
    """
    with ProcessPoolExecutor(workers, initializer=_follow_parent) as pool:
        try:
            chunk = max(1, min(10, len(items) // (4 * workers)))
            yield from tqdm(pool.map(function, items, chunksize=chunk), total=len(items), desc=description)
        except BrokenProcessPool:
            raise UserError(
                f"{description}: a worker process was killed (out of memory?): "
                "free some memory and run the same command again"
            ) from None
        except BaseException:
            pool.shutdown(cancel_futures=True)  # what is being written is finished
            raise


def _follow_parent() -> None:
    """A worker ends with its parent, even a killed one, and leaves Ctrl-C to it."""

    def wait() -> None:
        parent = multiprocessing.parent_process()
        if parent is not None:
            parent.join()
        os._exit(1)

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=wait, daemon=True).start()
