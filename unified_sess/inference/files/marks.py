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
BYTES_AT_ONCE = 2**20


class Mark(NamedTuple):
    """What the comment of a result says.

    digest : str
        See `result_digest`; empty in results of older versions, which did not note it.
    kinds : tuple of str
        All results of the same separation, this one among them: `s1`, `s2`, `enhanced`, `noise`, `rttm`.
    """

    digest: str
    kinds: tuple[str, ...] = ()

    def comment(self) -> str:
        """The mark as the text of a comment field; `read_mark` reads it back.

        Example
        -------
        >>> Mark("0123abcd", ("s1", "s2")).comment()
        'unified-sess result 2 0123abcd s1 s2'
        """
        return PREFIX + " ".join((self.digest, *self.kinds))


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
    digest, *kinds = comment[len(PREFIX) :].split() or [""]
    return Mark(digest, tuple(kinds))
