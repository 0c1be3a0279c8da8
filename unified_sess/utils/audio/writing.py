"""Writing sound files."""

import os

import numpy as np
import soundfile

from unified_sess.utils.audio.decoding import read_reason
from unified_sess.utils.errors import UserError
from unified_sess.utils.files import atomic_path


def write_audio(path: str | os.PathLike, signal: np.ndarray, sample_rate: int, subtype: str = "PCM_16") -> None:
    """Write a signal `[time]` or `[time, channels]`; the file appears whole or not at all, which is a `UserError`."""
    with atomic_path(path) as temporary:
        try:
            soundfile.write(temporary, signal, sample_rate, subtype=subtype)
        except soundfile.SoundFileError as error:
            raise UserError(f"cannot write {path} ({read_reason(error, temporary)}): is the disk full?") from None
