"""Any sound file as one stream of samples from its true beginning to its true end."""

import functools
import os
import re
from collections.abc import Iterator

import numpy as np
import soundfile
import soxr

from unified_sess.utils.audio import au
from unified_sess.utils.audio.flac import UNKNOWN_LENGTH, flac_layout
from unified_sess.utils.audio.formats import MEDIA_EXTENSIONS
from unified_sess.utils.audio.media import INSTALL, MediaStream, media_available
from unified_sess.utils.audio.mp3 import frame_of, mp3_layout
from unified_sess.utils.audio.ogg import ogg_layout
from unified_sess.utils.audio.parts import FileLayout, Part, PartFile, id3_size
from unified_sess.utils.audio.wav import is_wav, wav_layout
from unified_sess.utils.errors import UserError

# What libsndfile says of a header that promises more bytes of samples than there are, and what pipes write there.
CUT_OFF_SIZES = re.compile(r"(?:SSND|Data Size) *: (\d+) \(should be (\d*[1-9]\d*)\)")
FLAC_BLOCK = 4096  # samples that one damaged frame costs
UNKNOWN_SIZE = 2**31 - 8192
READ_ERRORS = (soundfile.SoundFileError, RuntimeError, OSError, TypeError)


class _Forward(soundfile.SoundFile):
    """Reads on without a seek after every block, which MP3 and files without a known end do not survive."""

    def seekable(self):
        return False


class SoundStream:
    """A sound file that libsndfile reads, from its beginning to its end; joined files one after the other.

    Attributes
    ----------
    sample_rate, channels : int
        Hz, count; of the first part, the others are made alike.
    subtype : str
        libsndfile's name of the depth or codec.
    missing : float
        s that the header promises and the file does not have; of FLAC it is complete after reading.
    """

    def __init__(self, path: str | os.PathLike) -> None:
        self.path, layout = path, file_layout(path)
        self.trusted, self.missing = layout.trusted, layout.missing
        self._parts: list[Part | None] = [*layout.parts] if layout.parts else [None]
        with self._open(self._parts[0]) as file:
            self.sample_rate, self.channels, self.subtype = file.samplerate, file.channels, file.subtype
            self.frames = file.frames  # as its header says
            cut = CUT_OFF_SIZES.search(file.extra_info) if file.format in ("AIFF", "AU") else None
            if cut and int(cut[2]) < int(cut[1]) < UNKNOWN_SIZE:
                self.missing += (int(cut[1]) / int(cut[2]) - 1) * file.frames / file.samplerate

    def blocks(self, size: int) -> Iterator[np.ndarray]:
        """Yields the sound in pieces of at most about `size` frames, float32, `[time, channels]`."""
        for part in self._parts:
            try:
                file = self._open(part)
            except READ_ERRORS:
                continue  # a joined piece that cannot be read; the others can
            with file:
                yield from _alike(self._all_of(part, file, size), file, self.sample_rate, self.channels)

    def _all_of(self, part, file, size):
        """Blocks of an open part; FLAC goes on behind damage, where silence keeps the time."""
        count, promised = 0, file.frames if file.format == "FLAC" and file.frames < UNKNOWN_LENGTH else 0
        for block in _read(file, size):
            count += len(block)
            yield block
        while count < promised:
            place, skip = None, FLAC_BLOCK
            while place is None and count + skip < promised:
                with self._open(part) as again:
                    blocks = _read(again, size)
                    try:
                        again.seek(count + skip)
                        block = next(blocks, None)
                    except READ_ERRORS:
                        block = None
                    if block is not None:
                        place = count + skip
                        self.missing += skip / file.samplerate
                        yield np.zeros((skip, file.channels), np.float32)
                        while block is not None:
                            place += len(block)
                            yield block
                            block = next(blocks, None)
                skip *= 2
            if place is None:
                self.missing += (promised - count) / file.samplerate
                return
            count = place

    def _open(self, part):
        return _Forward(sound_path(self.path) if part is None else PartFile(sound_path(self.path), part))


def open_stream(path: str | os.PathLike, stream: int | None = None) -> SoundStream | MediaStream:
    """Open a sound file for reading from its beginning to its end.

    Arguments
    ---------
    path : str or Path
        The file.
    stream : int
        Which audio stream of a container such as mp4, from 1; None is the first.

    Returns
    -------
    SoundStream or MediaStream
        With `sample_rate` (Hz), `channels`, `subtype`, `missing` (s) and `blocks(size)`.

    Raises
    ------
    UserError
        Naming the file when it is missing or unreadable.
    """
    path = os.fspath(path)
    if not os.path.isfile(path):
        raise UserError(f"cannot read {path} ({_no_file(path)})")
    if stream is not None and stream > 1 and not media_available():
        raise UserError(f"--stream {stream} of {path}: {INSTALL}")
    if stream is not None and stream < 1:
        raise UserError(f"--stream {stream}: streams are counted from 1")
    is_media = path.lower().endswith(MEDIA_EXTENSIONS)
    try:
        if stream in (None, 1):
            found = SoundStream(path)
            if not (is_media and found.subtype.startswith("MPEG")):  # any bytes may look like a frame of MP3
                return found
        reason = "Format not recognised"
    except READ_ERRORS as error:
        if isinstance(error, PermissionError):
            raise UserError(f"cannot read {path} (no permission)") from None
        reason = read_reason(error, path)
    if media_available():
        try:
            return MediaStream(path, stream)
        except UserError:
            if is_media or stream not in (None, 1):
                raise
    elif is_media:
        raise UserError(f"{path} cannot be read by libsndfile: {INSTALL}")
    raise UserError(f"cannot read {path} as audio ({reason})")


def file_layout(path: str | os.PathLike) -> FileLayout:
    """What the headers of a file tell, kept by path, size and time of change."""
    stat = os.stat(path)
    return _layout(os.path.abspath(path), stat.st_size, stat.st_mtime_ns)


@functools.lru_cache(4096)
def _layout(path, size, _time):
    path = sound_path(path)
    with open(path, "rb") as file:
        head = file.read(12)
        if is_wav(head):
            return wav_layout(file, size)
        if head[:4] in au.MAGICS:
            return au.au_layout(file, size)
        if head[:4] == b"OggS":
            return ogg_layout(file, size)
        start = id3_size(file)
        file.seek(start)
        head = file.read(4)
        if head == b"fLaC":
            return flac_layout(path, size)
        if start or frame_of(head) is not None:
            return mp3_layout(file, size)
    return FileLayout()


def _read(file, size):
    """Blocks of an open file; behind damage it goes on where the decoder finds its way again."""
    fruitless = 0
    while fruitless < 2:
        block = np.full((size, file.channels), np.nan, np.float32)
        try:
            count = len(file.read(size, dtype="float32", always_2d=True, out=block))
            if not count:
                return
        except (soundfile.SoundFileError, RuntimeError):  # which does not tell how much was read before
            unread = np.flatnonzero(np.isnan(block[:, 0]))
            count = int(unread[0]) if len(unread) else size
            fruitless += 1
        if count:
            fruitless = 0
            yield block[:count]


def _alike(blocks, file, rate, channels):
    """Bring a joined part to the rate and channels of the first."""
    stream = soxr.ResampleStream(file.samplerate, rate, channels, "float32") if file.samplerate != rate else None
    for block in blocks:
        if file.channels != channels:
            block = np.repeat(block.mean(axis=1, keepdims=True), channels, axis=1)
        yield stream.resample_chunk(block) if stream else block
    if stream:
        yield stream.resample_chunk(np.zeros((0, channels), np.float32), last=True)


def sound_path(path: str | bytes | os.PathLike) -> str | bytes:
    """The path as soundfile takes it: as bytes where a name on disk is not valid UTF-8."""
    path = os.fspath(path)
    if isinstance(path, bytes):
        return path
    try:
        path.encode()
    except UnicodeEncodeError:
        return os.fsencode(path)
    return path


def read_reason(error: Exception, path: str | os.PathLike) -> str:
    """What libsndfile said, without the path it repeats."""
    if not os.path.isfile(path):
        return _no_file(path)
    text = str(error).replace(f"Error opening {sound_path(path)!r}: ", "").strip()
    if "(possibly a pipe?)" in text or "PartFile" in text:  # what it says of anything it does not recognise
        return "Format not recognised"
    return text.rstrip(".") or type(error).__name__


def _no_file(path):
    if os.path.isdir(path):
        return "it is a folder"
    return "it is not a file but a pipe or device" if os.path.exists(path) else "it does not exist"
