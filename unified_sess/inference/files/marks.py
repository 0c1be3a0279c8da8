"""Which recording a result is of: a mark in the comment of the sound file, for a later run with the same names."""

import hashlib
import os

import soundfile

from unified_sess.utils.audio import sound_path

PREFIX = "unified-sess: from recording "
PART = 65536  # bytes at the start and the end that are looked at


def mark_of_recording(path):
    """The mark of a recording's results, which tells its content and not its name."""
    size = os.path.getsize(path)
    digest = hashlib.sha256(str(size).encode())
    with open(path, "rb") as file:
        digest.update(file.read(PART))
        file.seek(max(0, size - PART))
        digest.update(file.read(PART))
    return PREFIX + digest.hexdigest()[:16]


def is_of_another(path, mark):
    """Whether a sound file bears the mark of another recording; one without a mark does not."""
    try:
        with soundfile.SoundFile(sound_path(path)) as file:
            comment = file.comment
    except (soundfile.SoundFileError, RuntimeError):
        return False
    return comment.startswith(PREFIX) and comment != mark
