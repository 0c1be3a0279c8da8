"""What happens when somebody on the page presses a button: one task and one folder of results a browser tab."""

import asyncio
import shutil
import sys
import tempfile
import traceback
from collections.abc import AsyncIterator
from pathlib import Path
from typing import NamedTuple

from unified_sess.app.separation import Separated, separate_for_page
from unified_sess.app.tasks import Task, TaskQueue
from unified_sess.inference.voices.speakers import SpeakerNetwork
from unified_sess.utils.errors import UserError, os_error_line

PAUSE = 0.25  # s between two looks at a task
LONGEST_QUEUE = 20  # tasks
RESULTS = "results-"  # what folders of results start with


class Progress(NamedTuple):
    """How far a task is: what it does, its share from 0 to 1; in the end its result, what went wrong, or neither."""

    doing: str
    share: float = 0.0
    ended: bool = False
    result: Separated | None = None
    error: str = ""


class Sessions:
    """The browser tabs that have the page open.

    Arguments
    ---------
    models : dict
        `Separating` by the name that the page shows.
    folder : Path
        Takes the results.
    queue : TaskQueue
    voices : SpeakerNetwork
        Recognises voices in the place of the network that ships; None takes that.
    """

    def __init__(self, models: dict, folder: Path, queue: TaskQueue, voices: SpeakerNetwork | None = None) -> None:
        self.models, self.folder, self.queue, self.voices = models, folder, queue, voices
        self._tasks: dict[str, Task] = {}
        self._folders: dict[str, Path] = {}
        self._users: dict[Path, set[str]] = {}  # of each upload: what two tabs upload alike is one file

    async def separate(
        self,
        session: str,
        path: str | None,
        model: str,
        num_spks: int | None = None,
        effort: int | None = None,
        passes: int = 1,
    ) -> AsyncIterator[Progress]:
        """Yields how far the separation of a file is, until it has ended; results of the session before go."""
        if not path or not self._is_upload(path):
            yield Progress("", ended=True, error="Drop a sound or record one first")
            return
        if self.queue.length() >= LONGEST_QUEUE:
            yield Progress("", ended=True, error="Too many recordings wait: try again in some minutes")
            return
        self.cancel(session)
        self._forget_results(session)
        folder = self._folders[session] = Path(tempfile.mkdtemp(prefix=RESULTS, dir=self.folder))
        upload, network = Path(path), self.models[model]
        self.uploaded(session, path)
        choices = num_spks or None, effort or None, passes
        task = self.queue.submit(lambda task: separate_for_page(network, upload, folder, *choices, task, self.voices))
        self._tasks[session] = task
        shown = None
        while not task.ended:
            progress = self._progress(task)
            if progress != shown:
                yield progress
            shown = progress
            await asyncio.sleep(PAUSE)
        yield _end_of(task)

    def uploaded(self, session: str, path: str | None) -> None:
        """A tab has uploaded a file, which stays as long as a tab that has is open."""
        if path and self._is_upload(path):
            self._users.setdefault(Path(path), set()).add(session)

    def cancel(self, session: str) -> None:
        """End the task of a session."""
        if session in self._tasks:
            self._tasks[session].cancel()

    def close(self, session: str) -> None:
        """A tab was closed: its task ends, what it uploaded and its results go."""
        self.cancel(session)
        self._tasks.pop(session, None)
        self._forget_results(session)
        for upload, users in list(self._users.items()):
            users.discard(session)
            if not users:
                del self._users[upload]
                shutil.rmtree(upload.parent, ignore_errors=True)

    def _is_upload(self, path):
        """Whether a path that came through the net is where Gradio puts uploads: in a folder of its own."""
        own = Path(path).resolve().parent
        return own.parent == self.folder.resolve() and not own.name.startswith(RESULTS)

    def _forget_results(self, session):
        folder = self._folders.pop(session, None)
        if folder is not None:
            # Behind a task that may still write there.
            self.queue.submit(lambda task: shutil.rmtree(folder, ignore_errors=True), counts=False)

    def _progress(self, task):
        if task.cancelled:
            return Progress("Cancelling", task.share)
        before = self.queue.before(task)
        if before:
            return Progress(f"Waiting: {before} recording{'s' * (before != 1)} before this one")
        return Progress(task.doing or "Starting", task.share)


def _end_of(task):
    if task.cancelled:
        return Progress("Cancelled", ended=True)
    try:
        return Progress("", 1.0, ended=True, result=task.result())
    except UserError as error:
        line = str(error)
    except OSError as error:
        line = os_error_line(error) or str(error)
    except Exception as error:  # noqa: BLE001 - the page goes on whatever happens to one recording
        traceback.print_exc(file=sys.stderr)
        line = f"This recording cannot be separated ({type(error).__name__})"
    return Progress("", ended=True, error=" ".join(line.split()))
