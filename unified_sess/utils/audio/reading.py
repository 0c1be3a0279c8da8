"""Reading a sound file, or a part of it, as one signal."""

import os

import numpy as np
import soundfile

from unified_sess.utils.audio.channels import Channel, checked_channel
from unified_sess.utils.audio.decoding import READ_ERRORS, read_reason, sound_path
from unified_sess.utils.audio.flac import UNKNOWN_LENGTH
from unified_sess.utils.audio.probing import audio_info, read_blocks
from unified_sess.utils.errors import UserError

# Formats in which a place is found again exactly; behind a seek an MP3's decoder lacks the frames before.
EXACT_SEEK = ("WAV", "WAVEX", "RF64", "W64", "FLAC", "AIFF", "AU", "CAF", "NIST")


def read_audio(
    path: str | os.PathLike,
    start: int = 0,
    stop: int | None = None,
    sample_rate: int | None = None,
    channel: Channel = None,
) -> tuple[np.ndarray, int]:
    """Read a sound file, or a part of it, as one channel.

    Arguments
    ---------
    path : str or Path
        The file.
    start, stop : int
        First frame and the frame after the last; `stop` None reads to the end.
    sample_rate : int
        The rate in Hz that the file must have; None takes any.
    channel : int or str
        From 1, or `mean`; None asks for a mono file.

    Returns
    -------
    signal : numpy.ndarray
        float32, `[time]`.
    sample_rate : int
        In Hz.

    Raises
    ------
    UserError
        Naming the file, when it is missing, unreadable, shorter than `stop`, empty, without the channel, not at
        `sample_rate`, or holds samples that are not finite.
    """
    found = _quickly(path, start, stop, sample_rate, channel)
    if found is None:
        info = audio_info(path)
        _check(path, info.sample_rate, info.channels, sample_rate, channel)
        if info.missing and stop is None:
            raise UserError(f"{path} is truncated or damaged: it lacks {info.missing:.1f} s; copy it again")
        found = _decoded(path, start, stop, channel), info.sample_rate
        wanted = (info.frames if stop is None else stop) - start
        if len(found[0]) < wanted:
            raise UserError(f"{path} is truncated: {len(found[0])} samples where {wanted} were expected; copy it again")
    if len(found[0]) == 0:
        raise UserError(f"{path} holds no samples")
    if not np.isfinite(found[0]).all():
        raise UserError(f"{path} holds samples that are not finite (NaN or infinity): make or export it again")
    return found


def _quickly(path, start, stop, sample_rate, channel):
    """The part by a seek; None where the format or the header does not allow it."""
    if stop is None:
        info = audio_info(path)
        if info.missing:
            return None
        stop = info.frames
    try:
        with soundfile.SoundFile(sound_path(path)) as file:
            if file.format not in EXACT_SEEK or not stop <= file.frames < UNKNOWN_LENGTH:
                return None
            _check(path, file.samplerate, file.channels, sample_rate, channel)
            if start:
                file.seek(start)
            block = file.read(stop - start, dtype="float32", always_2d=True)
            return (_channel(block, channel), file.samplerate) if len(block) == stop - start else None
    except READ_ERRORS as error:
        if not os.path.exists(path):
            raise UserError(f"cannot read {path} ({read_reason(error, path)})") from None
        return None


def _decoded(path, start, stop, channel):
    """The part of a file that has to be decoded from its beginning."""
    pieces, position = [np.zeros(0, np.float32)], 0
    for block in read_blocks(path):
        first, last = max(start - position, 0), len(block) if stop is None else stop - position
        if last <= 0:
            break
        pieces.append(_channel(block[first:last], channel))
        position += len(block)
    return np.concatenate(pieces)


def _channel(block, channel):
    if channel == "mean":
        return block.mean(axis=1)
    return np.ascontiguousarray(block[:, (channel or 1) - 1])


def _check(path, rate, channels, sample_rate, channel):
    if channel is None and channels != 1:
        raise UserError(f"{path} has {channels} channels where 1 is expected: convert it to mono")
    checked_channel(channel, channels, path)
    if sample_rate is not None and rate != sample_rate:
        raise UserError(
            f"{path} is at {rate} Hz where {sample_rate} Hz is expected: resample the data or change sample_rate"
        )
