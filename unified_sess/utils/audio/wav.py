"""The layout of WAV files: sizes that recorders and pipes left wrong, and files that were joined."""

import struct
from typing import BinaryIO

from unified_sess.utils.audio.parts import FileLayout, Part

MAGICS = (b"RIFF", b"RIFX", b"RF64", b"BW64")
PLACEHOLDER_REACH = 8192  # bytes around 2 and 4 GiB: sizes that programs write when they do not know
CLASSIC_HEADER_BYTES = 44  # bytes, the classic header: some programs count it as samples
LARGEST_RIFF = 2**32 - 1
PLAIN_FORMATS = (b"\1\0", b"\3\0", b"\xfe\xff", b"\0\1", b"\0\3")  # format tags of integers and floats
LATER_CHUNKS = 10000  # a file with more chunks behind its samples is not worth walking


def is_wav(head: bytes) -> bool:
    """Whether the first 12 bytes of a file are those of a WAV."""
    return head[:4] in MAGICS and head[8:12] == b"WAVE"


def wav_layout(file: BinaryIO, size: int) -> FileLayout:
    """Layout of a WAV of `size` bytes; untouched and untrusted where it is none that can be repaired."""
    parts, missing, trusted, start = [], 0.0, True, 0
    while start is not None:
        found = _one(file, start, size)
        if found is None:
            break
        part, lacking, right, start = found
        parts.append(part)
        missing += lacking
        trusted = trusted and right
    if not parts:
        return FileLayout()
    if trusted and len(parts) == 1:
        return FileLayout(trusted=True)
    return FileLayout(parts, False, missing)


def _one(file, start, size):
    """Part, missing seconds, whether the header is right, and where a joined file begins (None without one)."""
    file.seek(start)
    head = file.read(12)
    if not is_wav(head):
        return None
    order = ">" if head[:4] == b"RIFX" else "<"
    riff = struct.unpack(order + "I", head[4:8])[0]
    position, chunks, long_size = start + 12, {}, None
    while True:
        file.seek(position)
        head = file.read(8)
        if len(head) < 8:
            return None
        name, length = head[:4], struct.unpack(order + "I", head[4:])[0]
        position += 8
        if name == b"data":
            break
        if name in (b"fmt ", b"ds64"):
            chunks[name] = file.read(min(length, 4096))
        position += length + length % 2
    form = chunks.get(b"fmt ", b"")
    if len(form) < 16:
        return None
    if len(chunks.get(b"ds64", b"")) >= 16:
        long_size = struct.unpack("<Q", chunks[b"ds64"][8:16])[0]
    declared = long_size if long_size is not None and length >= LARGEST_RIFF else length
    rate, bytes_a_second, align = struct.unpack(order + "IIH", form[4:14])
    if form[:2] in PLAIN_FORMATS:
        bytes_a_second = rate * align  # some leave the field empty
    end, joined = position + declared, None
    right = declared > 0 and end <= size
    if right:
        right, joined = _chunks_follow(file, end + declared % 2, size, order)
    if not right and declared > 0 and end <= size and riff not in (0, LARGEST_RIFF):
        joined = _joined_at(file, start + 8 + riff, size)  # some leave a byte between
        right = joined is not None
    if right:
        stop = end
    else:
        stop = size
        if align > 1:
            stop -= (stop - position) % align
    lacking = 0.0
    if not right and not _placeholder(declared) and end > size + max(CLASSIC_HEADER_BYTES, position - start):
        lacking = (end - size) / bytes_a_second if bytes_a_second else 0.0
    if stop <= position:
        return None
    prefix = _header(order, form, stop - position)
    return Part(position, stop, prefix), lacking, right, joined


def _placeholder(declared):
    """Whether a size is what programs write that do not know it: 0, or next to 2 or 4 GiB."""
    return (
        declared == 0 or any(abs(declared - mark) <= PLACEHOLDER_REACH for mark in (2**31, 2**32)) or declared >= 2**62
    )


def _chunks_follow(file, position, size, order):
    """Whether chunks fill the file from here to its end, and where another WAV begins among them."""
    for _ in range(LATER_CHUNKS):
        if position >= size:
            return True, None
        file.seek(position)
        head = file.read(12)
        if is_wav(head):
            return True, position
        if head[:3] in (b"TAG", b"ID3") or not any(head) and size - position < 12:  # tags that taggers append
            return True, None
        if len(head) < 8 or not all(32 <= c < 127 for c in head[:4]):
            return False, None
        length = struct.unpack(order + "I", head[4:8])[0]
        if position + 8 + length > size:
            return False, None
        position += 8 + length + length % 2
    return False, None


def _joined_at(file, position, size):
    for place in (position, position + 1):
        if place + 12 <= size:
            file.seek(place)
            if is_wav(file.read(12)):
                return place
    return None


def _header(order, form, length):
    """A WAV header with this format for `length` bytes of samples."""
    riff = 4 + 8 + len(form) + len(form) % 2 + 8 + length + length % 2
    body = b"fmt " + struct.pack(order + "I", len(form)) + form + b"\0" * (len(form) % 2)
    if riff <= LARGEST_RIFF:
        magic = b"RIFX" if order == ">" else b"RIFF"
        return magic + struct.pack(order + "I", riff) + b"WAVE" + body + b"data" + struct.pack(order + "I", length)
    ds64 = b"ds64" + struct.pack("<IQQQI", 28, riff + 36, length, 0, 0)
    return b"RF64" + b"\xff" * 4 + b"WAVE" + ds64 + body + b"data" + b"\xff" * 4
