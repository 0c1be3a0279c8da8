"""Files that appear whole or not at all, and files that grow line by line."""

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Iterator
from typing import Any


@contextlib.contextmanager
def atomic_path(path: str | os.PathLike) -> Iterator[str]:
    """Yield a temporary path beside `path`; on success it becomes `path`, on failure it is removed.

    An `OSError` of the temporary file names `path`.

    Example
    -------
    >>> import pathlib, tempfile
    >>> target = pathlib.Path(tempfile.mkdtemp()) / "a.txt"
    >>> with atomic_path(target) as temporary:
    ...     _ = pathlib.Path(temporary).write_text("whole")
    >>> target.read_text()
    'whole'
    """
    folder, name = os.path.split(os.path.abspath(path))
    root, extension = os.path.splitext(name)
    # Long names are shortened to fit, so a digest tells them apart; the extension stays, since libraries go by it.
    digest = hashlib.blake2s(os.fsencode(name), digest_size=4).hexdigest()
    temporary = os.path.join(folder, f".{root[:40]}.{digest}.{os.getpid()}.tmp{extension}")
    try:
        yield temporary
        os.replace(temporary, path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            os.remove(temporary)
        if not isinstance(error, OSError) or not error.errno:
            raise
        if temporary in (error.filename or temporary, error.filename2):
            raise OSError(error.errno, error.strerror, os.fspath(path)) from None  # the name that the user knows
        raise


@contextlib.contextmanager
def append_lines(path: str | os.PathLike) -> Iterator[Callable[[Any], None]]:
    """Yield a function that appends a value as a line of JSON; a line that a killed run left half stays apart.

    An `OSError` while writing names `path`.

    Example
    -------
    >>> import pathlib, tempfile
    >>> journal = pathlib.Path(tempfile.mkdtemp()) / "done.jsonl"
    >>> with append_lines(journal) as append:
    ...     append(["a", 1])
    >>> journal.read_text()
    '["a", 1]\\n'
    """
    try:
        with open(path, "a", encoding="utf-8") as file:
            file.write("\n" * bool(file.tell()))

            def append(value: Any) -> None:
                file.write(json.dumps(value) + "\n")
                file.flush()

            yield append
    except OSError as error:
        if error.errno and not error.filename:  # a full disk does not tell it
            raise OSError(error.errno, error.strerror, os.fspath(path)) from None
        raise


def read_text(path: str | os.PathLike, largest: int) -> str:
    """The text of a UTF-8 file; ValueError where it has more bytes than `largest` or is not text."""
    with open(path, "rb") as file:
        data = file.read(largest + 1)
    if len(data) > largest:
        raise ValueError(f"it has more than {largest:,} bytes")
    return data.decode("utf-8")
