"""A recording from standard input."""

import contextlib
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from unified_sess.inference.files.planning import Job
from unified_sess.utils.errors import UserError, writable_folder

STANDARD_INPUT = "-"
NAME = "stdin"  # results are stdin_s1.wav, ...


@contextlib.contextmanager
def standard_input(folder: str | os.PathLike) -> Iterator[list[Job]]:
    """Yields the job of what comes in through standard input, kept meanwhile in a file on the folder's disk.

    Where the system allows it, that file has no name, so that nothing is left of a run that is killed.

    Raises
    ------
    UserError
        When standard input is a terminal or brings nothing.
    """
    if sys.stdin.isatty():
        raise UserError("standard input is a terminal: pipe a recording into unified-sess separate -")
    writable_folder(folder)
    with _temporary(folder) as (file, path):
        shutil.copyfileobj(sys.stdin.buffer, file)
        file.flush()
        if not os.fstat(file.fileno()).st_size:
            raise UserError("standard input brought nothing: pipe a recording into unified-sess separate -")
        yield [Job(path, Path(), NAME, "standard input")]


@contextlib.contextmanager
def _temporary(folder):
    """A file for writing and the path that others can open it by."""
    if os.path.isdir("/proc/self/fd"):
        with tempfile.TemporaryFile(dir=folder) as file:
            yield file, Path(f"/proc/self/fd/{file.fileno()}")
    else:
        with tempfile.NamedTemporaryFile(prefix=".stdin-", dir=folder) as file:
            yield file, Path(file.name)
