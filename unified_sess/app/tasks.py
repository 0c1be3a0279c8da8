"""One task after the other: the queue of the page."""

import threading
from collections.abc import Callable
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from typing import Any


class Task:
    """A piece of work that waits, runs and can be cancelled.

    Attributes
    ----------
    stop : threading.Event
        Set when the task is cancelled; the work looks at it.
    doing : str
        What the work is at, for the user.
    share : float
        How much of it is done, from 0 to 1.
    counts : bool
        Whether people wait for it; tidying up does not count.
    """

    def __init__(self, counts: bool = True) -> None:
        self.stop, self.counts = threading.Event(), counts
        self.doing, self.share = "", 0.0
        self.future: Future = Future()

    def cancel(self) -> None:
        """Take the task out of the queue, or ask its work to end."""
        self.stop.set()
        self.future.cancel()

    @property
    def ended(self) -> bool:
        """Whether there is nothing to wait for any more."""
        return self.future.done()

    @property
    def cancelled(self) -> bool:
        """Whether somebody cancelled it."""
        return self.stop.is_set()

    def result(self) -> Any:
        """What the work returned, or raises what it raised; None for a task that was cancelled."""
        try:
            return None if self.cancelled else self.future.result()
        except CancelledError:
            return None


class TaskQueue:
    """Does one task at a time, in the order in which they came; in the end all are cancelled.

    Example
    -------
    >>> with TaskQueue() as queue:
    ...     task = queue.submit(lambda task: 6 * 7)
    ...     task.result()
    42
    """

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="separate")
        self._tasks: list[Task] = []

    def __enter__(self) -> "TaskQueue":
        return self

    def __exit__(self, *error: Any) -> None:
        for task in self._tasks:
            task.cancel()
        self._pool.shutdown()

    def submit(self, work: Callable[[Task], Any], counts: bool = True) -> Task:
        """Append a work, which is called with its task; see `Task` for whether it counts."""
        task = Task(counts)
        self._tasks = [other for other in self._tasks if not other.ended]
        task.future = self._pool.submit(work, task)
        self._tasks.append(task)
        return task

    def length(self) -> int:
        """How many tasks that count wait or run."""
        return sum(task.counts and not task.ended for task in self._tasks)

    def before(self, task: Task) -> int:
        """How many tasks that count must end until this one runs; 0 when it runs."""
        unfinished = [other for other in self._tasks if other is task or other.counts and not other.ended]
        return unfinished.index(task) if task in unfinished else 0
