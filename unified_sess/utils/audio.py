"""Reading and writing audio files; every failure is one line that names the file."""

import os
from typing import NamedTuple

import numpy as np
import soundfile

from unified_sess.utils.errors import UserError
from unified_sess.utils.files import atomic_path

AUDIO_EXTENSIONS = (".wav", ".flac", ".ogg", ".mp3")


class AudioInfo(NamedTuple):
    """Length in frames, sample rate in Hz and channels of an audio file."""

    frames: int
    sample_rate: int
    channels: int

    @property
    def duration(self):
        """Duration in seconds."""
        return self.frames / self.sample_rate


def audio_info(path):
    """Read the header of an audio file.

    Raises
    ------
    UserError
        Naming the file, when it is missing, unreadable, truncated or holds no samples.
    """
    try:
        info = soundfile.info(sound_path(path), verbose=True)
    except (soundfile.SoundFileError, RuntimeError, OSError, TypeError) as error:
        raise UserError(f"cannot read {path} as audio ({_reason(error, path)}): replace or remove it") from None
    # libsndfile shortens a WAV whose header promises more data than the file has, and says so only in its log.
    if "(should be" in next((line for line in info.extra_info.splitlines() if line.startswith("data")), ""):
        raise UserError(f"{path} is truncated: its header promises more samples than the file has; copy it again")
    if info.frames <= 0:
        raise UserError(f"{path} holds no samples: replace or remove it")
    return AudioInfo(info.frames, info.samplerate, info.channels)


def read_audio(path, start=0, stop=None, sample_rate=None):
    """Read a mono audio file, or a part of it.

    Arguments
    ---------
    path : str or Path
        The file.
    start, stop : int
        First frame and the frame after the last; `stop` None reads to the end.
    sample_rate : int
        The rate in Hz that the file must have; None takes any.

    Returns
    -------
    signal : numpy.ndarray
        float32, `[time]`.
    sample_rate : int
        In Hz.

    Raises
    ------
    UserError
        Naming the file, when it is missing, unreadable, truncated, empty, not mono, not at `sample_rate`, or
        holds samples that are not finite.
    """
    try:
        with soundfile.SoundFile(sound_path(path)) as file:
            if file.channels != 1:
                raise UserError(f"{path} has {file.channels} channels where 1 is expected: convert it to mono")
            if sample_rate is not None and file.samplerate != sample_rate:
                raise UserError(
                    f"{path} is at {file.samplerate} Hz where {sample_rate} Hz is expected: "
                    "resample the data or change sample_rate"
                )
            if start:
                file.seek(start)
            wanted = (file.frames if stop is None else stop) - start
            signal = file.read(wanted, dtype="float32")
            rate = file.samplerate
    except (soundfile.SoundFileError, RuntimeError, OSError, TypeError) as error:
        raise UserError(f"cannot read {path} as audio ({_reason(error, path)}): replace or remove it") from None
    if len(signal) == 0:
        raise UserError(f"{path} holds no samples: replace or remove it")
    if len(signal) < wanted:
        raise UserError(f"{path} is truncated: {len(signal)} samples where {wanted} were expected; copy it again")
    if not np.isfinite(signal).all():
        raise UserError(f"{path} holds samples that are not finite (NaN or infinity): replace or remove it")
    return signal, rate


def write_audio(path, signal, sample_rate, subtype="PCM_16"):
    """Write a signal `[time]` or `[time, channels]`; the file appears whole or not at all."""
    with atomic_path(path) as temporary:
        try:
            soundfile.write(temporary, signal, sample_rate, subtype=subtype)
        except soundfile.SoundFileError as error:
            raise UserError(f"cannot write {path} ({_reason(error, temporary)}): is the disk full?") from None


def sound_path(path):
    """The path as soundfile takes it: as bytes where a name on disk is not valid UTF-8."""
    path = os.fspath(path)
    try:
        path.encode()
    except UnicodeEncodeError:
        return os.fsencode(path)
    return path


def _reason(error, path):
    """What libsndfile said, without the path it repeats."""
    if not os.path.exists(path):
        return "it does not exist"
    text = str(error).replace(f"Error opening {sound_path(path)!r}: ", "").strip()
    if "(possibly a pipe?)" in text:  # what the MP3 reader says of anything it does not recognise
        return "Format not recognised"
    return text.rstrip(".") or type(error).__name__
