"""The provenance of results: a mark in the comment field of every sound file that `unified-sess separate` writes.

By the mark, a later run knows whether a file is the result that it would write again, and then keeps it. The mark holds
a digest of the recording (all of its bytes), of the model and of the options that change samples; the number of jobs
and the device do not.
"""

import hashlib
import json
import os
from typing import NamedTuple

import soundfile

from unified_sess.utils.audio import sound_path

PREFIX = "unified-sess result 2 "  # the number rises when a new version gives other samples for the same digest
OLD_PREFIX = "unified-sess: from recording "  # of older versions, which noted neither the model nor the options
MARKED_EXTENSIONS = (".wav", ".flac")  # formats that results are written in
RTTM = "rttm"  # the kind of result that has no comment: the marks of its sounds vouch for it
BYTES_AT_ONCE = 2**20


class Mark(NamedTuple):
    """What the comment of a result says.

    digest : str
        See `result_digest`; empty in results of older versions, which did not note it.
    kinds : tuple of str
        All results of the same separation, this one among them: `s1`, `s2`, `enhanced`, `noise`, `rttm`.
    rttm : str
        `text_digest` of the RTTM file among them; empty where there is none, or an older version wrote it.
    """

    digest: str
    kinds: tuple[str, ...] = ()
    rttm: str = ""

    def vouches_for(self, text_digest: str) -> bool:
        """Whether an RTTM file of this content is of the same separation; marks of older versions cannot tell."""
        return RTTM in self.kinds and self.rttm == text_digest

    @property
    def of_some_rttm(self) -> bool:
        """Whether an older version wrote an RTTM file beside it, of whatever content."""
        return RTTM in self.kinds and not self.rttm

    def comment(self) -> str:
        """The mark as the text of a comment field; `read_mark` reads it back.

        Example
        -------
        >>> Mark("0123abcd", ("rttm", "s1"), "89ef").comment()
        'unified-sess result 2 0123abcd rttm=89ef s1'
        """
        kinds = [f"{RTTM}={self.rttm}" if kind == RTTM and self.rttm else kind for kind in self.kinds]
        return PREFIX + " ".join((self.digest, *kinds))


def result_digest(path: str | os.PathLike, model_digest: str, settings: dict) -> str:
    """32 hexadecimal digits that change when anything changes that a result depends on.

    Arguments
    ---------
    path : str or Path
        The recording; its whole content counts, its name does not.
    model_digest : str
        See `Runtime.digest`.
    settings : dict
        Options that change samples: names, numbers and texts.
    """
    digest = hashlib.sha256(json.dumps([model_digest, settings], sort_keys=True).encode())
    with open(path, "rb") as file:
        while piece := file.read(BYTES_AT_ONCE):
            digest.update(piece)
    return digest.hexdigest()[:32]


def text_digest(text: bytes) -> str:
    """12 hexadecimal digits of the content of an RTTM file."""
    return hashlib.sha256(text).hexdigest()[:12]


def read_mark(path: str | os.PathLike) -> Mark | None:
    """The mark of a sound file; None where there is none, or the file cannot be read."""
    if not os.fspath(path).lower().endswith(MARKED_EXTENSIONS):
        return None
    try:
        with soundfile.SoundFile(sound_path(path)) as file:
            comment = file.comment
    except (soundfile.SoundFileError, RuntimeError, OSError, TypeError):
        return None
    if comment.startswith(OLD_PREFIX):
        return Mark("")
    if not comment.startswith(PREFIX):
        return None
    digest, *parts = comment[len(PREFIX) :].split() or [""]
    rttm = next((part.partition("=")[2] for part in parts if part.startswith(f"{RTTM}=")), "")
    return Mark(digest, tuple(part.partition("=")[0] for part in parts), rttm)
