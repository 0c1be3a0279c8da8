"""Sound of phones, meetings and cameras (m4a, mp4, webm, amr, ...), decoded by PyAV, the extra `media`."""

import contextlib
import importlib.util
import os
from collections.abc import Iterator
from typing import Any

import numpy as np

from unified_sess.utils.audio.parts import Part, PartFile
from unified_sess.utils.errors import UserError

# What may be opened: containers of one recording. Playlists, which name other files and addresses, are left out.
CONTAINERS = (
    "aac,ac3,aiff,amr,amrnb,amrwb,ape,asf,au,avi,caf,eac3,flac,flv,matroska,webm,mov,mp4,m4a,3gp,3g2,mj2,mp3,mpeg,"
    "mpegts,ogg,tta,w64,wav,wv"
)
LOSSLESS = ("alac", "flac", "wavpack", "tta", "ape")
PROTECTED = ("drms", "enca", "drmi")  # tags of encrypted sound in MP4
PROTECTED_LINE = "{} is protected (encrypted): export an unprotected copy of it"
TRUE_DURATIONS = ("mov", "matroska")  # containers that know it; others are estimates
DURATION_TOLERANCE = 0.5  # s that a container may promise too much
INSTALL = "install PyAV with `pip install av` (the extra `media`)"


def media_available() -> bool:
    """Whether PyAV is installed."""
    return importlib.util.find_spec("av") is not None


class MediaStream:
    """One audio stream of a file, decoded from its beginning to its end.

    Arguments
    ---------
    path : str or Path
        The file.
    stream : int
        Which of its audio streams, from 1; None is the first.

    Attributes
    ----------
    sample_rate, channels : int
        Hz, count.
    subtype : str
        Depth in libsndfile's names, or the name of a lossy codec.
    missing : float
        s that could not be decoded, as far as that is known.

    Raises
    ------
    UserError
        Naming the file: PyAV is not installed, there is no such stream, or it is protected or damaged.
    """

    def __init__(self, path: str | os.PathLike, stream: int | None = None) -> None:
        if not media_available():
            raise UserError(f"{path} cannot be read by libsndfile: {INSTALL}")
        self.path, self.number, self.missing = path, stream or 1, 0.0
        with self._opened() as (_, chosen):
            context = chosen.codec_context
            self.sample_rate, self.channels = int(context.sample_rate or 0), int(context.channels or 0)
            self.subtype = _subtype(context)
        if not self.sample_rate or not self.channels:  # only its frames tell
            first = next(self._frames())
            self.sample_rate, self.channels = first.sample_rate, len(first.layout.channels)

    @contextlib.contextmanager
    def _opened(self):
        import av

        av.logging.set_level(av.logging.PANIC)
        try:
            with PartFile(self.path, Part(0, os.path.getsize(self.path))) as file:  # no address, whatever its name
                with av.open(file, options={"format_whitelist": CONTAINERS}, metadata_errors="ignore") as container:
                    yield container, self._chosen(container)
        except (av.FFmpegError, ValueError, LookupError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise UserError(f"cannot read {self.path} as audio ({reason})") from None

    def _chosen(self, container):
        streams = container.streams.audio
        if not streams:
            raise UserError(f"{self.path} has no audio stream")
        if not 1 <= self.number <= len(streams):
            what = "one audio stream" if len(streams) == 1 else f"{len(streams)} audio streams"
            raise UserError(f"{self.path} has {what}: --stream {self.number} is out of range")
        chosen = streams[self.number - 1]
        if chosen.codec_context is None:
            raise UserError(f"{self.path} holds sound that cannot be decoded: it is protected, or of an unknown codec")
        if _tag(chosen.codec_context) in PROTECTED:
            raise UserError(PROTECTED_LINE.format(self.path))
        return chosen

    def _frames(self):
        """Yields decoded frames; adds what cannot be decoded to `missing`."""
        import av

        decoded = damaged = 0.0  # seconds
        with self._opened() as (container, chosen):
            for packet in container.demux(chosen):
                if packet.has_sidedata("encryption_info"):
                    raise UserError(PROTECTED_LINE.format(self.path))
                try:
                    for frame in packet.decode():
                        decoded += frame.samples / frame.sample_rate
                        yield frame
                except av.InvalidDataError:  # the next ones may be whole
                    damaged += float((packet.duration or 0) * packet.time_base)
            expected = _duration(container, chosen)
        if not decoded:
            raise UserError(f"no sound of {self.path} can be decoded: it is empty, damaged or protected")
        self.missing = max(damaged, expected - decoded if expected - decoded > DURATION_TOLERANCE else 0.0)

    def blocks(self, size: int) -> Iterator[np.ndarray]:
        """Yields the sound in pieces of about `size` frames, float32, `[time, channels]`."""
        import av

        resampler: Any = None
        form: tuple | None = None  # of the frames that the resampler takes
        waiting: list[np.ndarray] = []
        count = 0
        for frame in self._frames():
            this = (frame.format.name, frame.layout.name, frame.sample_rate)
            if this != form:
                if resampler is not None:
                    waiting += map(_array, resampler.resample(None))
                layout = frame.layout.name if len(frame.layout.channels) == self.channels else self._layout()
                resampler, form = av.AudioResampler("fltp", layout, self.sample_rate), this
            frame.pts = None
            pieces = [_array(piece) for piece in resampler.resample(frame)]
            waiting += pieces
            count += sum(map(len, pieces))
            if count >= size:
                yield np.concatenate(waiting)
                waiting, count = [], 0
        if resampler is not None:
            waiting += map(_array, resampler.resample(None))
        if waiting:
            yield np.concatenate(waiting)

    def _layout(self):
        return {1: "mono", 2: "stereo"}.get(self.channels, f"{self.channels}c")


def _duration(container, chosen):
    """Seconds of sound that the container promises; 0 where it does not tell for certain."""
    if not container.format.name.startswith(TRUE_DURATIONS):
        return 0.0
    if chosen.duration:
        return float(chosen.duration * chosen.time_base)
    return (container.duration or 0) / 1e6 if len(container.streams) == 1 else 0.0


def _array(frame):
    return np.ascontiguousarray(frame.to_ndarray().T)


def _tag(context):
    tag = context.codec_tag
    return tag if isinstance(tag, str) else ""


def _subtype(context):
    name, form = context.name, context.format.name if context.format is not None else ""
    if name.startswith("pcm_f"):
        return "FLOAT"
    if name in LOSSLESS or name.startswith("pcm_s") or name.startswith("pcm_u"):
        return "PCM_16" if form.startswith(("s16", "u8")) else "PCM_24"
    return name.upper()
