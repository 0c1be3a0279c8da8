"""Work spread over processes, with a progress bar."""

import multiprocessing
import os
import signal
import threading
import time
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


def idle_cores(seconds: float = 0.3) -> float:
    """Cores of the machine that nothing uses, measured over some time; infinite where the system does not tell."""

    def idle() -> int:
        with open("/proc/stat", encoding="ascii") as file:
            fields = file.readline().split()  # cpu, then hundredths of a second: user, nice, system, idle, iowait, ...
        return int(fields[4]) + int(fields[5])

    try:
        begun, before = time.perf_counter(), idle()
        time.sleep(seconds)
        return (idle() - before) / 100 / (time.perf_counter() - begun)
    except (OSError, IndexError, ValueError):
        return float("inf")


def waiting_of_threads() -> dict[str, str]:
    """What the environment needs so that OpenMP's threads sleep while they wait, where other programs want the cores.

    Threads that spin while they wait answer at once: a step of the default experiment takes half the time. Where there
    are fewer idle cores than threads they keep a core from the very thread that they wait for, and a step takes four
    times as long (`benchmarks/busy_machine.py`). Nothing of this changes what is computed. OpenMP reads it when torch is
    imported.

    Returns
    -------
    dict
        Empty on a quiet machine, and where the user set `OMP_WAIT_POLICY` or `GOMP_SPINCOUNT`.
    """
    if {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & os.environ.keys():
        return {}
    said = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    threads = int(said) if said.isdigit() else available_cores()
    busy = threads > 1 and idle_cores() < threads - 0.75
    return {"OMP_WAIT_POLICY": "passive"} if busy else {}


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
