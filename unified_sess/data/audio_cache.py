"""The audio of folders, decoded once into a file that all processes map into memory."""

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from unified_sess.data.own_folders.speech_folders import IndexedRecording, read_recording
from unified_sess.utils.errors import UserError, writable_folder
from unified_sess.utils.files import atomic_path
from unified_sess.utils.parallel import parallel_map

FULL_SCALE = 32768.0
SOFTEST_PEAK = 0.05  # peak of a recording under which 16 bits would be too coarse for it


class AudioReader:
    """Reads parts of recordings, float32 `[time]`; the same whether they are cached or not, but for 16-bit rounding.

    Arguments
    ---------
    recordings : sequence of IndexedRecording
        All that may be asked for.
    cache : Path
        File of the decoded audio, made here where it is not there or was made of other files; None decodes the part
        that is wanted each time.
    workers : int
        Processes that decode.

    Raises
    ------
    UserError
        Naming the recording that cannot be read.
    """

    def __init__(self, recordings: Sequence[IndexedRecording], cache: Path | None = None, workers: int = 1) -> None:
        self.cache = cache
        self.places: dict[tuple[str, str], tuple[int, str]] = {}
        if cache is not None:
            self.places = _fill(recordings, cache, workers)
            self._map(cache)

    def __getstate__(self) -> dict:  # a spawned worker maps the file itself
        return {"cache": self.cache, "places": self.places}

    def __setstate__(self, state: dict) -> None:
        self.__dict__ = state
        if self.cache is not None:
            self._map(self.cache)

    def _map(self, cache: Path) -> None:
        self._bytes = np.memmap(cache, mode="r")

    def __call__(self, recording: IndexedRecording, start: int, stop: int) -> np.ndarray:
        if self.cache is None:
            return read_recording(recording, start, stop)
        first, kind = self.places[recording.folder, recording.path]
        size = np.dtype(kind).itemsize
        stop = min(stop, recording.frames)
        return _float(self._bytes[first + start * size : first + stop * size].view(kind))


def _float(samples: np.ndarray) -> np.ndarray:
    return np.array(samples) if samples.dtype == np.float32 else samples * np.float32(1 / FULL_SCALE)


def _decode(recording: IndexedRecording) -> np.ndarray:
    """All of a recording, in 16 bits unless they would lose something of it."""
    signal = read_recording(recording, 0, recording.frames)
    if not SOFTEST_PEAK < np.abs(signal).max() <= 1:
        return signal.astype(np.float32, copy=False)
    return np.clip(np.rint(signal * FULL_SCALE), -FULL_SCALE, FULL_SCALE - 1).astype(np.int16)


def _fill(recordings: Sequence[IndexedRecording], cache: Path, workers: int) -> dict[tuple[str, str], tuple[int, str]]:
    """Decode all recordings into the cache; return the first byte and the kind of number of each."""
    table = cache.with_suffix(".json")
    made_from = _fingerprint(recordings)
    if cache.is_file() and table.is_file():
        known = json.loads(table.read_text(encoding="utf-8"))
        if known["made_from"] == made_from:
            return {(folder, path): (first, kind) for folder, path, first, kind in known["places"]}
    writable_folder(cache.parent)
    places, first = [], 0
    table.unlink(missing_ok=True)
    with atomic_path(cache) as temporary:
        with open(temporary, "wb") as file:
            results = parallel_map(_decode, recordings, workers, f"decode {cache.stem}")
            for recording, samples in zip(recordings, results, strict=True):
                places.append((recording.folder, recording.path, first, samples.dtype.str))
                file.write(samples.tobytes())
                first += -(-samples.nbytes // 4) * 4
                file.write(bytes(first - file.tell()))  # float32 begins at a multiple of 4 bytes
    with atomic_path(table) as temporary:
        Path(temporary).write_text(json.dumps({"made_from": made_from, "places": places}), encoding="utf-8")
    return {(folder, path): (first, kind) for folder, path, first, kind in places}


def _fingerprint(recordings: Sequence[IndexedRecording]) -> str:
    """Names, sizes and times of all files: a changed file is decoded again."""
    digest = hashlib.sha256()
    for recording in recordings:
        path = os.path.join(recording.folder, recording.path)
        try:
            stat = os.stat(path)
        except OSError:
            raise UserError(f"cannot read {path}: it went away; run the same command again") from None
        digest.update(f"{path} {recording.frames} {stat.st_size} {stat.st_mtime_ns}\n".encode(errors="surrogateescape"))
    return digest.hexdigest()
