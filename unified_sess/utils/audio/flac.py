"""The layout of FLAC files: whether they end where their header says, and files that were joined."""

import os

import soundfile

from unified_sess.utils.audio.parts import FileLayout, Part, PartFile

UNKNOWN_LENGTH = 2**62  # frames: beyond, the header does not tell (a pipe's has 0, which libsndfile takes for endless)
MARKS = (b"fLaC\x00\x00\x00\x22", b"fLaC\x80\x00\x00\x22")  # and the head of the first block
READ_AHEAD = 2**15  # bytes that the decoder may have read behind the last sample
SEARCH_BYTES = 2**20


def flac_layout(path: str | bytes | os.PathLike, size: int) -> FileLayout:
    """Layout of a FLAC of `size` bytes: trusted when its last sample can be read and no other file follows it."""
    with PartFile(path, Part(0, size)) as file:
        whole = _ends_as_promised(file)
        starts = [0, *_later_starts(file, max(4, file.tell() - READ_AHEAD) if whole else 4, size)]
    if len(starts) == 1:
        return FileLayout(trusted=whole)
    return FileLayout([Part(start, stop) for start, stop in zip(starts, [*starts[1:], size])])


def _ends_as_promised(file):
    """Whether the last sample is there; the file then stands shortly behind it."""
    try:
        with soundfile.SoundFile(file) as sound:
            if not 0 < sound.frames < UNKNOWN_LENGTH:
                return False
            sound.seek(sound.frames - 1)
            return len(sound.read(1)) == 1
    except (soundfile.SoundFileError, RuntimeError):
        return False


def _later_starts(file, position, size):
    while position < size:
        file.seek(position)
        block = file.read(SEARCH_BYTES)
        places = sorted(place for mark in MARKS for place in _places(block, mark))
        yield from (position + place for place in places)
        if len(block) < SEARCH_BYTES:
            return
        position += SEARCH_BYTES - len(MARKS[0]) + 1


def _places(block, mark):
    place = block.find(mark)
    while place >= 0:
        yield place
        place = block.find(mark, place + 1)
