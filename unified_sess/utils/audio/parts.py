"""A sound file as parts that are decoded one after the other, each under a header that tells the truth.

Headers lie: a recorder that died never wrote its sizes, a pipe cannot, and files that were joined carry the header of
the first. So a file is cut where a new one begins, and a part whose header is wrong is read behind a right one.
"""

import io
import os
from typing import Any, BinaryIO, NamedTuple


class Part(NamedTuple):
    """Bytes `start` to `stop` of a file, read behind `prefix`, a header that replaces the file's own."""

    start: int
    stop: int
    prefix: bytes = b""


class FileLayout(NamedTuple):
    """What a look at a file's headers tells.

    parts : what is decoded one after the other; None is the whole file as it is.
    trusted : the header agrees with the file's size, so that its length is believed.
    missing : seconds that the header promises and the file does not have.
    """

    parts: list[Part] | None = None
    trusted: bool = False
    missing: float = 0.0


class PartFile(io.RawIOBase):
    """A part as a file of its own, for decoders that take file objects."""

    def __init__(self, path: str | bytes | os.PathLike, part: Part) -> None:
        self.file, self.part, self.position = open(path, "rb"), part, 0
        self.size = len(part.prefix) + part.stop - part.start

    def close(self) -> None:
        self.file.close()
        super().close()

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self.position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self.position, os.SEEK_END: self.size}[whence]
        self.position = max(0, base + offset)
        return self.position

    def readinto(self, buffer: Any) -> int:
        wanted = min(len(buffer), max(0, self.size - self.position))
        head = self.part.prefix[self.position : self.position + wanted]
        buffer[: len(head)] = head
        rest = b""
        if wanted > len(head):
            self.file.seek(self.part.start + self.position + len(head) - len(self.part.prefix))
            rest = self.file.read(wanted - len(head))
            buffer[len(head) : len(head) + len(rest)] = rest
        self.position += len(head) + len(rest)
        return len(head) + len(rest)


def id3_size(file: BinaryIO, start: int = 0) -> int:
    """Bytes of the ID3v2 tag at a place of a file; 0 where there is none."""
    file.seek(start)
    head = file.read(10)
    if len(head) < 10 or head[:3] != b"ID3" or max(head[6:10]) > 127:
        return 0
    size = head[6] << 21 | head[7] << 14 | head[8] << 7 | head[9]
    return 10 + size + (10 if head[5] & 0x10 else 0)
