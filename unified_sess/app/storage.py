"""The folder of all that a running page keeps: it goes when the page ends, or at the next start after a crash."""

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

PREFIX = "unified-sess-app-"
LOCK = "lock"  # held as long as the page runs; the system lets go of it however the page ends


@contextlib.contextmanager
def storage(parent: str | os.PathLike | None = None) -> Iterator[Path]:
    """Yields a folder that only this user can read, and deletes it in the end.

    Folders of pages that run no longer are deleted first.

    Arguments
    ---------
    parent : str or Path
        Where the folder lies; None takes the system's place for temporary files (`TMPDIR`).

    Example
    -------
    >>> with storage() as folder:
    ...     _ = (folder / "voice.wav").write_bytes(b"...")
    >>> folder.exists()
    False
    """
    parent = Path(tempfile.gettempdir() if parent is None else parent).resolve()
    delete_leftovers(parent)
    folder, lock = _locked_folder(parent)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def delete_leftovers(parent: Path) -> None:
    """Delete the folders of pages that crashed; those of pages that run, and of other users, stay."""
    for folder in parent.glob(f"{PREFIX}*"):
        if folder.is_symlink() or not folder.is_dir() or folder.stat().st_uid != os.getuid():
            continue
        with contextlib.suppress(OSError):
            lock = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o600)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # raises where the page runs
                shutil.rmtree(folder)
            finally:
                os.close(lock)


def _locked_folder(parent):
    """A new folder and its lock."""
    while True:
        folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=parent))
        with contextlib.suppress(FileNotFoundError):
            lock = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o600)
            fcntl.flock(lock, fcntl.LOCK_EX)
            if (folder / LOCK).exists():  # else another start took it for a leftover before it was locked
                return folder, lock
            os.close(lock)
