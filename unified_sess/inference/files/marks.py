"""Which result is of what: a mark in the comment of every sound file that `unified-sess separate` writes.

The mark tells a later run whether a file of that name is the very result that it would make: of the same recording
(all of its bytes), the same model and the same options that change samples. How many recordings go at a time, and on
which device, does not count.
"""

import hashlib
import json
import os
from typing import TYPE_CHECKING, NamedTuple

import soundfile

from unified_sess.utils.audio import sound_path

if TYPE_CHECKING:
    from unified_sess.inference.separating import Separating  # with it torch, which reading marks does without

PREFIX = "unified-sess result 2 "  # a new number when the same model and options give other samples
OLD_PREFIX = "unified-sess: from recording "  # told the ends of the recording and nothing of model and options
MARKED_EXTENSIONS = (".wav", ".flac")  # of results
BYTES_AT_ONCE = 2**20


class Mark(NamedTuple):
    """What a result says of itself.

    digest : str
        Of recording, model and options; empty in results of older versions, which did not note it.
    kinds : tuple of str
        The results that were made together with this one: `s1`, `s2`, `enhanced`, `noise`, `rttm`.
    """

    digest: str
    kinds: tuple[str, ...] = ()

    def comment(self) -> str:
        """The text that stands in the file.

        Example
        -------
        >>> Mark("0123abcd", ("s1", "s2")).comment()
        'unified-sess result 2 0123abcd s1 s2'
        """
        return PREFIX + " ".join((self.digest, *self.kinds))


def result_digest(path: str | os.PathLike, model_digest: str, settings: dict) -> str:
    """Digest of everything that a result depends on.

    Arguments
    ---------
    path : str or Path
        The recording; its whole content counts, its name does not.
    model_digest : str
        See `model_digest`.
    settings : dict
        Options that change samples, as JSON can hold them.
    """
    digest = hashlib.sha256(json.dumps([model_digest, settings], sort_keys=True).encode())
    with open(path, "rb") as file:
        while piece := file.read(BYTES_AT_ONCE):
            digest.update(piece)
    return digest.hexdigest()[:32]


def model_digest(model: "Separating") -> str:
    """Digest of a model's network, weights, rate and threshold; the device does not count.

    Arguments
    ---------
    model : UnifiedSeparation
        Or anything with its `mods`, `config`, `num_spks` and `sample_rate`.
    """
    config = model.config
    network = repr(model.mods) if config is None else config._asdict()
    digest = hashlib.sha256(json.dumps([network, model.num_spks, model.sample_rate], sort_keys=True).encode())
    for name, tensor in sorted(model.mods.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(_bytes_type()).numpy())
    return digest.hexdigest()[:32]


def read_mark(path: str | os.PathLike) -> Mark | None:
    """The mark of a sound file; None where it bears none or cannot be read."""
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


def _bytes_type():
    import torch  # not needed to read marks

    return torch.uint8
