"""Files that appear whole or not at all."""

import contextlib
import hashlib
import os


@contextlib.contextmanager
def atomic_path(path):
    """Yield a temporary path beside `path`; on success it becomes `path`, on failure it is removed.

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
    except BaseException:
        with contextlib.suppress(OSError):
            os.remove(temporary)
        raise
