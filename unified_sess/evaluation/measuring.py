"""Metrics of many utterances in worker processes."""

import contextlib
import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context

import numpy as np

from unified_sess.data.manifest import Row
from unified_sess.evaluation.metrics import utterance_metrics
from unified_sess.utils.audio import read_audio
from unified_sess.utils.errors import UserError
from unified_sess.utils.parallel import available_cores

ROWS_A_WORKER = 16  # a worker takes seconds to start: not worth it for less
THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


def measure(
    row: Row, mixture: np.ndarray, estimates: np.ndarray, enhanced: np.ndarray, sample_rate: int, metrics: Sequence[str]
) -> dict:
    """Metrics of a row of a manifest, with its `ID`; see `utterance_metrics`."""
    sources, clean = read_references(row, mixture, sample_rate)
    return {"ID": row.id} | utterance_metrics(mixture, clean, sources, estimates, enhanced, sample_rate, metrics)


def measure_all(tasks: Iterable[tuple], jobs: int) -> Iterator[dict]:
    """Yield `measure(*task)` of every task, in the order of completion.

    Arguments
    ---------
    tasks : iterable of tuple
        Arguments of `measure`, made one by one while the workers measure.
    jobs : int
        Worker processes; up to 1 measures in this process.

    Raises
    ------
    UserError
        Where a worker was stopped, as by a lack of memory.
    """
    if jobs <= 1:
        yield from (measure(*task) for task in tasks)
        return
    # Forked processes inherit torch's threads in an unknown state, so workers start afresh, one thread each.
    with _one_thread(), ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        try:
            pending = set()
            for task in tasks:
                pending.add(pool.submit(measure, *task))
                if len(pending) >= 3 * jobs:  # signals in flight stay few
                    done, pending = wait(pending, return_when=FIRST_COMPLETED)
                    yield from (future.result() for future in done)
            while pending:
                done, pending = wait(pending, return_when=FIRST_COMPLETED)
                yield from (future.result() for future in done)
        except BrokenProcessPool:
            raise UserError(
                "a process that measures was stopped (out of memory?): run the same command again, it goes on; "
                "fewer --jobs need less memory"
            ) from None
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def default_jobs(count: int) -> int:
    """Worker processes worth starting for so many utterances."""
    cores = available_cores()
    return min(cores, count // ROWS_A_WORKER)


def read_references(row: Row, mixture: np.ndarray, sample_rate: int) -> tuple[np.ndarray, np.ndarray]:
    """Sources `[time, speakers]` and clean mixture `[time]` of a row; the latter is their sum where it has no file.

    Raises
    ------
    UserError
        Naming the file that cannot be read or is not as long as the mixture.
    """

    def read(path):
        signal, _ = read_audio(path, sample_rate=sample_rate)
        if len(signal) != len(mixture):
            raise UserError(
                f"{path} has {len(signal)} samples where its mixture has {len(mixture)}: make the corpus again"
            )
        return signal

    sources = np.stack([read(path) for path in row.sources], axis=1)
    return sources, sum(map(read, row.images)) if row.clean is None else read(row.clean)


@contextlib.contextmanager
def _one_thread():
    """Processes started inside use one thread each."""
    before = {name: os.environ.get(name) for name in THREAD_VARIABLES}
    os.environ.update(dict.fromkeys(THREAD_VARIABLES, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})
