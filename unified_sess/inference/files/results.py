"""The results of one recording: their names, what is there already, and files that appear whole or not at all."""

import contextlib
import os
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

from unified_sess.inference.files.marks import MARKED_EXTENSIONS, RTTM, Mark, read_mark, text_digest
from unified_sess.utils.errors import UserError
from unified_sess.utils.files import atomic_path

SOUND_EXTRAS = ("enhanced", "noise")
SPEAKER = re.compile(r"s\d+")


class ResultFiles:
    """Where the results of a recording lie.

    Arguments
    ---------
    folder : Path
        Of the results.
    name : str
        That they start with.
    extension : str
        `wav` or `flac`.
    """

    def __init__(self, folder: Path, name: str, extension: str) -> None:
        self.folder, self.name, self.extension = folder, name, extension

    def path(self, kind: str) -> Path:
        """The file of a kind: `<name>_s1.wav`, `<name>_noise.wav`, `<name>.rttm`."""
        return self.folder / (f"{self.name}.rttm" if kind == RTTM else f"{self.name}_{kind}.{self.extension}")

    def find(self, digest: str, extras: Sequence[str], speakers: int, overwrite: bool = False) -> "Found":
        """What is there already.

        Arguments
        ---------
        digest : str
            Of the results that are wanted, see `marks.result_digest`.
        extras : sequence of str
            Kinds that are wanted beside the speakers.
        speakers : int
            How many speakers there will be at most.
        overwrite : bool
            Take nothing for granted and nothing amiss.

        Raises
        ------
        UserError
            Naming the first file that stands in the way: another's result, or no result at all. It is replaced only on
            request.
        """
        marks = self._marks(speakers)
        # A sound of somebody else beyond the people that there can be stands in nobody's way.
        marks = {k: mark for k, mark in marks.items() if mark is not None or not _is_beyond(k, speakers)}
        own = {kind: mark for kind, mark in marks.items() if mark is not None and mark.digest == digest}
        # A file of somebody else stands in the way of its name alone, a result of something else always.
        wanted = {kind for kind in marks if SPEAKER.fullmatch(kind)} | set(extras)
        stale = {k: mark for k, mark in marks.items() if k not in own and (mark is not None or k in wanted)}
        made, others_rttm, old_rttm = set(own), "", ""
        if text := self._rttm_digest():
            owner = next((mark for mark in own.values() if mark.vouches_for(text)), None)
            former = next((mark for mark in stale.values() if mark is not None and mark.vouches_for(text)), None)
            if owner is not None:
                made.add(RTTM)
            elif any(mark.of_some_rttm for mark in own.values()):
                old_rttm = text
            elif self._is_of_another_format(text, speakers):
                others_rttm = "" if overwrite else text
            elif former is not None:
                stale[RTTM] = former
            elif RTTM in extras and text != text_digest(b""):
                stale[RTTM] = None
        if stale and not overwrite:
            self._refuse(*next(iter(stale.items())))
        people = {kind for mark in own.values() for kind in mark.kinds if SPEAKER.fullmatch(kind)}
        there = made | ({RTTM} if old_rttm else set())
        whole = bool(own) and not overwrite and people | set(extras) <= there
        gone = [self.path(kind) for kind, mark in stale.items() if mark is not None]
        return Found(whole, people | made, gone, others_rttm, old_rttm)

    def refuse_rttm(self) -> None:
        """Raise the `UserError` for an RTTM file that is of results in another format, made otherwise."""
        self._refuse(RTTM, Mark("of another format"))

    def _marks(self, speakers):
        """The mark of each sound file that is there, None of what is not ours."""
        there = [kind for kind in [*self._speakers(speakers), *SOUND_EXTRAS] if self.path(kind).exists()]
        return {kind: read_mark(self.path(kind)) for kind in there}

    def _rttm_digest(self):
        """`text_digest` of the RTTM file, empty where there is none."""
        try:
            return text_digest(self.path(RTTM).read_bytes())
        except OSError:
            return ""

    def _is_of_another_format(self, text, speakers):
        """Whether results in another format, which have the same RTTM file, vouch for it."""
        others = [ResultFiles(self.folder, self.name, ending[1:]) for ending in MARKED_EXTENSIONS]
        marks = [
            mark for other in others if other.extension != self.extension for mark in other._marks(speakers).values()
        ]
        return any(mark is not None and (mark.vouches_for(text) or mark.of_some_rttm) for mark in marks)

    def _speakers(self, speakers):
        """Kinds of the people that there can be, and of those that another model found beyond them."""
        count = speakers
        while self.path(f"s{count + 1}").exists():
            count += 1
        return [f"s{k + 1}" for k in range(count)]

    def _refuse(self, kind, mark):
        path, way_out = self.path(kind), "give --overwrite to replace it, or another --output-dir"
        if mark is None:
            raise UserError(f"{path} is there and is no result of this program: {way_out}")
        if not mark.digest:
            raise UserError(f"{path} is of an older version, which did not note its model and options: {way_out}")
        raise UserError(f"{path} is of another recording, another model or other options: {way_out}")


def _is_beyond(kind, speakers):
    return SPEAKER.fullmatch(kind) is not None and int(kind[1:]) > speakers


class Found:
    """What `ResultFiles.find` found.

    whole : bool
        All that is wanted is there, and nothing is to be done.
    kinds : set of str
        Kinds that are there of the same recording, model and options.
    stale : list of Path
        Results of something else, which the new ones replace.
    others_rttm, old_rttm : str
        `text_digest` of an RTTM file that is of results in another format too, and must stay as it is; of one that an older
        version may have written, or somebody changed since; else empty.
    """

    def __init__(
        self, whole: bool, kinds: set[str], stale: list[Path], others_rttm: str = "", old_rttm: str = ""
    ) -> None:
        self.whole, self.kinds, self.stale = whole, kinds, stale
        self.others_rttm, self.old_rttm = others_rttm, old_rttm


class NewFiles:
    """Files that are written without a name and get theirs when all are whole.

    So nothing is left of a run that is killed, whatever the moment. Where the system knows no files without a name
    (other systems than Linux, some network folders), they have hidden names meanwhile, and go on errors and Ctrl-C.

    Example
    -------
    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> with NewFiles() as files:
    ...     _ = files.open(folder / "a.txt").write(b"whole")
    ...     files.keep()
    >>> (folder / "a.txt").read_text(), len(list(folder.iterdir()))
    ('whole', 1)
    """

    def __init__(self) -> None:
        self._stack = contextlib.ExitStack()
        self._files: list[tuple[BinaryIO, Path]] = []  # without a name

    def __enter__(self) -> "NewFiles":
        return self

    def __exit__(self, *error: Any) -> bool | None:
        return self._stack.__exit__(*error)

    def open(self, path: Path) -> BinaryIO:
        """A file for writing and reading that will be `path`."""
        file = _nameless(path.parent)
        if file is None:
            temporary = self._stack.enter_context(atomic_path(path))
            return self._stack.enter_context(open(temporary, "w+b"))
        self._files.append((self._stack.enter_context(file), path))
        return file

    def keep(self) -> None:
        """Give all files their names, in place of what bears them now."""
        for file, path in self._files:
            file.flush()
            try:
                _link(file, path)
            except FileExistsError:
                with atomic_path(path) as temporary:
                    _link(file, Path(temporary))
            except OSError:
                with atomic_path(path) as temporary, open(temporary, "wb") as copy:
                    file.seek(0)
                    shutil.copyfileobj(file, copy)


def _nameless(folder):
    """A new file without a name on a folder's disk; None where there is no such thing."""
    try:
        return open(os.open(folder, os.O_TMPFILE | os.O_RDWR, 0o666), "w+b")
    except (AttributeError, OSError):
        return None


def _link(file, path):
    """Give an open file a name."""
    folder = os.open(path.parent, os.O_RDONLY)
    try:  # with a folder, Python calls linkat, which follows the link in /proc to the file
        os.link(f"/proc/self/fd/{file.fileno()}", path, src_dir_fd=folder, follow_symlinks=True)
    finally:
        os.close(folder)
