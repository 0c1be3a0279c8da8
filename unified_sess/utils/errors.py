"""Errors a user can cause, each ending in one clear line."""

import contextlib
import errno
import os
import signal
import sys
import tempfile
import threading
import traceback
from collections.abc import Iterator
from typing import NoReturn, TypeVar

INTERRUPTED = 130  # exit status after Ctrl-C; typer's too
Folder = TypeVar("Folder", bound=str | os.PathLike)


class UserError(Exception):
    """A mistake the user can mend; its text is one line that names the thing and the way out."""


@contextlib.contextmanager
def one_line_errors(program: str) -> Iterator[None]:
    """Turn the errors a user can cause into one line on stderr and exit status 1.

    Arguments
    ---------
    program : str
        Name printed before the message.

    Raises
    ------
    SystemExit
        With status 1 after a `UserError`, a full disk or a refused path; with 130 after Ctrl-C.
    """
    try:
        yield
    except UserError as error:
        # Behind a loader's worker process the text is wrapped in that worker's traceback.
        _exit(program, str(error).rsplit(f"{UserError.__module__}.{UserError.__name__}: ", 1)[-1])
    except (OSError, EOFError, RuntimeError) as error:
        message = _lost_worker_line(error) or (os_error_line(error) if isinstance(error, OSError) else None)
        if message is None:
            raise
        _exit(program, message)
    except KeyboardInterrupt:
        _exit(program, "interrupted", status=INTERRUPTED)


@contextlib.contextmanager
def ended_gently() -> Iterator[None]:
    """The signals with which schedulers and closed terminals end a program are taken like Ctrl-C meanwhile.

    So what is half-written or temporary goes. Does nothing outside the main thread.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    names = [name for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    before = {name: signal.getsignal(getattr(signal, name)) for name in names}
    try:
        for name in names:
            if before[name] != signal.SIG_IGN:  # as nohup leaves it
                signal.signal(getattr(signal, name), signal.default_int_handler)
        yield
    finally:
        for name in names:
            signal.signal(getattr(signal, name), before[name])


def _lost_worker_line(error: BaseException) -> str | None:
    """One line for the death of a data loader's worker process, else None.

    torch raises a RuntimeError from its signal handler, or whatever reading from the dead process gives.
    """
    reading = any(frame.f_code.co_name == "_try_get_data" for frame, _ in traceback.walk_tb(error.__traceback__))
    if not reading and not str(error).startswith("DataLoader worker"):
        return None
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # else torch raises again while Python ends
    return (
        "a data loader's worker process was killed (out of memory?): run the same command again, "
        "it goes on from the last checkpoint, or give fewer --num_workers"
    )


def os_error_line(error: OSError) -> str | None:
    """One line for an operating-system error with a known way out, else None."""
    name = error.filename or "a file"
    if error.errno == errno.ENOSPC:
        return f"no space left on the disk while writing {name}: free some space and run the same command again"
    if error.errno in (errno.EDQUOT, errno.EFBIG):
        return f"disk quota or file size limit reached while writing {name}: free some space and run the same command again"
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"no permission to use {name}: choose another folder or change its permissions"
    return None


def _exit(program: str, message: str, status: int = 1) -> NoReturn:
    print(f"{program}: error: {' '.join(message.split())}", file=sys.stderr, flush=True)
    # Quiet end even where a library registered noisy exit hooks on stdout.
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.flush()
    raise SystemExit(status)


def writable_folder(path: Folder) -> Folder:
    """Create a folder and make sure that files can be written in it.

    Raises
    ------
    UserError
        Naming the folder, when it cannot be created or written.
    """
    try:
        os.makedirs(path, exist_ok=True)
        with tempfile.TemporaryFile(dir=str(path)):  # without a name that threads could share
            pass
    except OSError as error:
        raise UserError(f"cannot write in the folder {path} ({error.strerror}): give another folder") from None
    return path


def writable_file(path: str | os.PathLike) -> None:
    """Make sure, before long work, that a file of this name can be written at its end.

    Raises
    ------
    UserError
        Naming the path, when it is a folder or its folder cannot be created or written.
    """
    if os.path.isdir(path):
        raise UserError(f"{path} is a folder: give --output the name of a file")
    writable_folder(os.path.dirname(path) or os.curdir)
