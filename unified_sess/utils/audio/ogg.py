"""The layout of Ogg files: streams that were joined one after the other."""

from typing import BinaryIO

from unified_sess.utils.audio.parts import FileLayout, Part

PAGE = 27  # bytes of a page's head, without its table of segments
FIRST_PAGE = 2  # flag of the page that begins a stream
SEARCH_BYTES = 65536 + 282  # bytes in which another page must follow


def ogg_layout(file: BinaryIO, size: int) -> FileLayout:
    """Cut an Ogg file where a new stream begins after pages of an older one (streams side by side stay together)."""
    starts: list[int] = []
    position, began = 0, False  # began: pages that are no first pages were seen
    while position < size:
        file.seek(position)
        head = file.read(PAGE)
        if len(head) < PAGE:
            break
        if head[:4] != b"OggS":
            position = _next_page(file, position + 1, size)
            continue
        if head[5] & FIRST_PAGE:
            if began or not starts:
                starts.append(position)
            began = False
        else:
            began = True
        position += PAGE + head[26] + sum(file.read(head[26]))
    if len(starts) < 2:
        return FileLayout()
    return FileLayout([Part(start, stop) for start, stop in zip(starts, [*starts[1:], size])])


def _next_page(file, position, size):
    """Place of the next page behind damage; the file's size where there is none."""
    while position < size:
        file.seek(position)
        found = file.read(SEARCH_BYTES).find(b"OggS")
        if found >= 0:
            return position + found
        position += SEARCH_BYTES - 3
    return size
