"""The layout of AU files, which pipes write with a size that nobody knows."""

import struct
from typing import BinaryIO

from unified_sess.utils.audio.parts import FileLayout, Part

MAGICS = {b".snd": ">", b"dns.": "<"}
HEADER_BYTES = 24  # bytes
SMALLEST_UNKNOWN_SIZE = 2**31 - 8192  # from here on, and 0, a size says that it is not known


def au_layout(file: BinaryIO, size: int) -> FileLayout:
    """Layout of an AU of `size` bytes: where the size of its header is not that of the file, a right header."""
    file.seek(0)
    head = file.read(HEADER_BYTES)
    if len(head) < HEADER_BYTES:
        return FileLayout()
    order = MAGICS[head[:4]]
    offset, declared, _encoding, _rate, _channels = struct.unpack(order + "5I", head[4:])
    there = size - offset
    if there <= 0 or declared == there or SMALLEST_UNKNOWN_SIZE > declared > there:  # the last one lacks its end
        return FileLayout()
    prefix = head[:4] + struct.pack(order + "2I", HEADER_BYTES, there) + head[12:]
    return FileLayout([Part(offset, size, prefix)])
