"""The layout of MP3 files: their frames are counted, since an estimate from the first ones is wrong by seconds.

A frame's length follows from its head (ISO/IEC 11172-3, 2.4.1.3). A first frame without sound may hold the count of
frames ("Xing" or "Info", of LAME and others); libmpg123 believes it, and estimates where it is missing. Here such a
frame with the right count is put before every part.
"""

import struct
from typing import BinaryIO, NamedTuple

from unified_sess.utils.audio.parts import FileLayout, Part, id3_size

RATES = {3: (44100, 48000, 32000), 2: (22050, 24000, 16000), 0: (11025, 12000, 8000)}  # Hz, by version
KBIT = {  # by (version 1 or not, layer)
    (True, 1): (32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (True, 2): (32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (True, 3): (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (False, 1): (32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (False, 2): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (False, 3): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
COUNT_FRAME = 200  # bytes that a frame with a count has at least
SEARCH_BYTES = 65536
LAME_PADDING = 141  # where the count of padding samples stands behind "Xing", when all its fields are there


class Frame(NamedTuple):
    """What the head of a frame tells: bytes, samples, Hz, channels, and what frames of one stream have in common."""

    size: int
    samples: int
    rate: int
    channels: int
    kind: tuple


class Stream(NamedTuple):
    """Frames that belong together: bytes, how many frames of sound, the first one, and the frame with a count."""

    start: int
    stop: int
    frames: int
    frame: Frame
    head: bytes
    first: bytes | None


def frame_of(head: bytes) -> Frame | None:
    """Read the four bytes of a frame's head; None where they are no head (or of the rare free format)."""
    if len(head) < 4 or head[0] != 0xFF or head[1] & 0xE0 != 0xE0:
        return None
    version, layer = head[1] >> 3 & 3, 4 - (head[1] >> 1 & 3)
    index, rate_index, padding = head[2] >> 4, head[2] >> 2 & 3, head[2] >> 1 & 1
    if version == 1 or layer == 4 or not 0 < index < 15 or rate_index == 3:
        return None
    rate, bits = RATES[version][rate_index], 1000 * KBIT[version == 3, layer][index - 1]
    if layer == 1:
        size, samples = 4 * (12 * bits // rate + padding), 384
    else:
        samples = 576 if layer == 3 and version != 3 else 1152
        size = samples // 8 * bits // rate + padding
    channels = 1 if head[3] >> 6 == 3 else 2
    return Frame(size, samples, rate, channels, (version, layer, rate, channels))


def mp3_layout(file: BinaryIO, size: int) -> FileLayout:
    """Count the frames of an MP3, and cut it where another one was joined."""
    parts, missing = [], 0.0
    for stream in _streams(file, size):
        prefix, start, lacking = _with_count(stream)
        parts.append(Part(start, stream.stop, prefix))
        missing += lacking * stream.frame.samples / stream.frame.rate
    return FileLayout(parts or None, False, missing)


def _streams(file, size):
    position = id3_size(file)
    start = count = 0
    stream = head = first = None
    while position < size:
        file.seek(position)
        now = file.read(4)
        frame = frame_of(now)
        if frame is None or stream is not None and frame.kind != stream.kind:
            place = _resync(file, position, size)
            if place is None:
                break
            if place != position:
                position = place
                continue
            frame = frame_of(now)
        if position + frame.size > size:  # the last frame is cut off
            break
        counting = _is_count(file, position, frame)
        if stream is None or frame.kind != stream.kind or counting:
            if stream is not None and count:
                yield Stream(start, position, count, stream, head, first)
            start, count, stream, head = position, 0, frame, now
            file.seek(position)
            first = file.read(frame.size) if counting else None
        count += not counting
        position += frame.size
    if stream is not None and count:
        yield Stream(start, min(position, size), count, stream, head, first)


def _resync(file, position, size):
    """Next place where a frame begins that another of its kind follows; None where there is none."""
    while position < size:
        skipped = id3_size(file, position)
        if skipped:
            position += skipped
            continue
        file.seek(position)
        block = file.read(SEARCH_BYTES)
        for offset in range(len(block)):
            if block[offset] == 0xFF and (frame := frame_of(block[offset : offset + 4])) is not None:
                file.seek(position + offset + frame.size)
                after = frame_of(file.read(4))
                if after is not None and after.kind == frame.kind:
                    return position + offset
            elif block[offset : offset + 3] == b"ID3" and (skipped := id3_size(file, position + offset)):
                position += offset + skipped
                break
        else:
            if len(block) < SEARCH_BYTES:
                return None
            position += SEARCH_BYTES - 3
    return None


def _count_offset(frame):
    """Where "Xing" stands in a frame, behind the side information."""
    version, _, _, channels = frame.kind
    return 4 + ((32 if channels == 2 else 17) if version == 3 else (17 if channels == 2 else 9))


def _is_count(file, position, frame):
    if frame.kind[1] != 3:
        return False
    file.seek(position)
    data = file.read(min(frame.size, 64))
    offset = _count_offset(frame)
    return any(data[o : o + 4] in (b"Xing", b"Info") for o in (offset, offset + 2)) or data[36:40] == b"VBRI"


def _with_count(stream):
    """The frame with the right count, where the frames of sound begin, and how many frames it promised in vain."""
    frame = stream.frame
    if stream.first is None:
        return (_count_frame(stream) if frame.kind[1] == 3 else b""), stream.start, 0
    begin = stream.start + frame.size
    offset = next((stream.first.find(mark) for mark in (b"Xing", b"Info") if mark in stream.first[:64]), None)
    if offset is None:  # VBRI, which mpg123 does not take for certain
        promised = struct.unpack(">I", stream.first[50:54])[0]
        return _count_frame(stream), begin, max(0, promised - stream.frames - 1)
    first = bytearray(stream.first)
    if not first[offset + 7] & 1:  # without a count
        return _count_frame(stream), begin, 0
    if first[offset + 7] & 2:  # bytes: libmpg123 complains on the terminal where they do not agree
        first[offset + 12 : offset + 16] = struct.pack(">I", stream.stop - stream.start)
    promised = struct.unpack(">I", first[offset + 8 : offset + 12])[0]
    if promised == stream.frames:
        return bytes(first), begin, 0
    first[offset + 8 : offset + 12] = struct.pack(">I", stream.frames)
    lacking = promised - stream.frames
    if lacking > 1 and first[offset + 7] & 15 == 15 and len(first) > offset + LAME_PADDING + 3:
        first[offset + LAME_PADDING + 1] &= 0xF0  # the samples to leave out at the end went with the end
        first[offset + LAME_PADDING + 2] = 0
    return bytes(first), begin, lacking if lacking > 1 else 0  # some count the first frame too


def _count_frame(stream):
    """A frame without sound that holds the count, of the same kind as the stream's frames."""
    for index in range(1, 15):
        head = bytes([stream.head[0], stream.head[1] | 1, index << 4 | stream.head[2] & 0x0C, stream.head[3]])
        frame = frame_of(head)
        if frame.size >= COUNT_FRAME:
            break
    body = bytearray(frame.size)
    body[:4] = head
    offset = _count_offset(frame)
    body[offset : offset + 12] = b"Xing" + struct.pack(">II", 1, stream.frames)
    return bytes(body)
