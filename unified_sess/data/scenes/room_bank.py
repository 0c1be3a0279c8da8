"""A bank of room impulse responses: simulated once, kept in one compact file, read through memory mapping."""

import functools
import hashlib
import json
import logging
import os
import shutil
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile
import soxr
from filelock import FileLock

from unified_sess.data.own_folders.speech_folders import list_audio
from unified_sess.data.scenes.room_simulation import Response, measure_rt60, simulate_room
from unified_sess.utils.audio import sound_path
from unified_sess.utils.errors import UserError, writable_folder
from unified_sess.utils.files import atomic_path
from unified_sess.utils.parallel import parallel_map

VERSION = 2  # of the simulation: a bank of another version is made again
SHARD = 25  # rooms that are written at a time: what a killed run loses
DIRECT_PATH_BEGIN = 0.001  # s before the largest sample of a measured response where its direct path begins
DIRECT_PATH_END = 0.0025  # s behind it where the direct path ends
LARGEST_DROPPED_SHARE = 0.5  # share of the rooms

logger = logging.getLogger(__name__)


class RoomBank:
    """Rooms, each with the responses from several mouths to one microphone.

    Arguments
    ---------
    folder : str or Path
        Where the bank is, or is made at the first use (milliseconds a response). A killed run goes on where it stopped.
    rooms : int
        Rooms to simulate; those that miss their reverberation time are dropped.
    people : int
        Mouths in a room.
    sample_rate : int
        In Hz.
    rt60 : tuple of float
        Range of the reverberation time in s.
    measured : str or Path
        Folder of recorded responses, each a room of its own with one mouth; None for none.
    workers : int
        Processes that simulate.
    seed : int
        Banks of other seeds have other rooms.

    Raises
    ------
    UserError
        For rooms that cannot be simulated, and a folder without a usable response.

    Example
    -------
    >>> import tempfile
    >>> bank = RoomBank(tempfile.mkdtemp(), rooms=2, people=1, sample_rate=8000, rt60=(0.2, 0.3))
    >>> response, = bank.draw(np.random.default_rng(0), people=1)
    >>> bool(response.samples[0] > 0.5), response.direct
    (True, 1)
    """

    def __init__(
        self,
        folder: str | os.PathLike,
        rooms: int,
        people: int,
        sample_rate: int,
        rt60: tuple[float, float],
        measured: str | os.PathLike | None = None,
        workers: int = 1,
        seed: int = 0,
    ) -> None:
        self.people, self.sample_rate, self.rt60 = people, sample_rate, rt60
        settings = {
            "rooms": rooms,
            "people": people,
            "sample_rate": sample_rate,
            "rt60": list(rt60),
            "version": VERSION,
            "seed": seed,
        }
        digest = hashlib.sha256(json.dumps(settings).encode()).hexdigest()[:12]
        self.path = Path(folder) / f"rooms-{digest}.npy"
        if not self.path.is_file():
            writable_folder(folder)
            with FileLock(self.path.with_suffix(".lock")):  # of several trainings at a time one makes it
                if not self.path.is_file():
                    _make(self.path, settings, workers)
        self._open()
        self.measured = _read_measured(measured, sample_rate, rt60) if measured else []

    def _open(self) -> None:
        try:
            self._samples = np.load(self.path, mmap_mode="r")
            self._rows = np.load(_table_of(self.path))
        except (OSError, ValueError, EOFError) as error:
            raise UserError(
                f"cannot read the bank of rooms {self.path} ({error}): delete it, then it is made again"
            ) from None

    def __getstate__(self) -> dict:  # a spawned worker maps the file itself
        return {name: value for name, value in self.__dict__.items() if not name.startswith("_")}

    def __setstate__(self, state: dict) -> None:
        self.__dict__ = state
        self._open()

    def __len__(self) -> int:
        """Simulated rooms."""
        return len(self._rows) // self.people

    def responses(self, room: int) -> list[Response]:
        """All responses of a simulated room."""
        found = []
        for start, length, rt60, distance in self._rows[room * self.people : (room + 1) * self.people].tolist():
            samples = self._samples[int(start) : int(start) + int(length)].astype(np.float32)
            found.append(Response(samples, 1, rt60, distance))
        return found

    def draw(self, random: np.random.Generator, people: int, measured_share: float = 0.0) -> list[Response]:
        """Responses of a random room for so many people, the nearest first; by a chance, measured ones."""
        if self.measured and random.random() < measured_share:
            return [self.measured[int(k)] for k in random.integers(len(self.measured), size=people)]
        room = self.responses(int(random.integers(len(self))))
        chosen = random.choice(len(room), people, replace=False)
        return sorted((room[int(k)] for k in chosen), key=lambda response: response.distance)


class _Shard(NamedTuple):
    samples: np.ndarray  # float16, one response behind the other
    rows: np.ndarray  # [responses, 4]: first sample, length, rt60, distance


def _table_of(path: Path) -> Path:
    return path.with_name(path.stem + ".table.npy")


def _make(path: Path, settings: dict, workers: int) -> None:
    """Simulate all rooms in shards, then join them."""
    parts = path.with_suffix(".parts")
    writable_folder(parts)
    numbers = range(-(-settings["rooms"] // SHARD))
    todo = [k for k in numbers if not _shard_path(parts, k).is_file()]
    if todo:
        list(parallel_map(functools.partial(_make_shard, parts, settings), todo, workers, "simulate rooms"))
    shards = [_read_shard(parts, k) for k in numbers]
    rows = np.concatenate([shard.rows for shard in shards])
    kept = len(rows) // settings["people"]
    if kept < (1 - LARGEST_DROPPED_SHARE) * settings["rooms"]:
        shutil.rmtree(parts)
        low, high = settings["rt60"]
        raise UserError(
            f"only {kept} of {settings['rooms']} rooms can be simulated with an rt60 of {low} to {high} s: "
            "give a range within 0.15 to 0.9 s"
        )
    if kept < settings["rooms"]:
        dropped = settings["rooms"] - kept
        logger.warning("%d of %d rooms missed their rt60 and were left out", dropped, settings["rooms"])
    rows[:, 0] = np.concatenate([[0], np.cumsum(rows[:-1, 1])])
    _save(_table_of(path), rows)
    _save(path, np.concatenate([shard.samples for shard in shards]))
    shutil.rmtree(parts)


def _save(path: Path, array: np.ndarray) -> None:
    with atomic_path(path) as temporary:
        np.save(temporary, array)


def _shard_path(parts: Path, number: int) -> Path:
    return parts / f"{number:05}.npz"


def _make_shard(parts: Path, settings: dict, number: int) -> None:
    samples, rows = [], []
    for room in range(number * SHARD, min((number + 1) * SHARD, settings["rooms"])):
        random = np.random.default_rng([settings["seed"], room])
        for response in simulate_room(random, settings["people"], settings["sample_rate"], tuple(settings["rt60"])):
            samples.append(response.samples.astype(np.float16))
            rows.append((0, len(response.samples), response.rt60, response.distance))
    with atomic_path(_shard_path(parts, number)) as temporary:
        joined = np.concatenate([*samples, np.empty(0, np.float16)])
        np.savez(temporary, samples=joined, rows=np.array(rows, float).reshape(-1, 4))


def _read_shard(parts: Path, number: int) -> _Shard:
    with np.load(_shard_path(parts, number)) as file:
        return _Shard(file["samples"], file["rows"])


def _read_measured(folder: str | os.PathLike, sample_rate: int, rt60: tuple[float, float]) -> list[Response]:
    """Recorded responses (first channel) with a reverberation time in the range, at a peak of 1."""
    paths = list_audio(folder)
    found, outside, unreadable = [], 0, 0
    for path in paths:
        try:
            samples, rate = soundfile.read(sound_path(Path(folder) / path), dtype="float32", always_2d=True)
        except (soundfile.SoundFileError, RuntimeError, OSError):
            unreadable += 1
            continue
        response = _measured(soxr.resample(samples[:, 0], rate, sample_rate), sample_rate)
        if response is None:
            unreadable += 1
        elif not rt60[0] <= response.rt60 <= rt60[1]:
            outside += 1
        else:
            found.append(response)
    reasons = f"{outside} have an rt60 outside {rt60[0]} to {rt60[1]} s, {unreadable} are unreadable or no responses"
    if not found:
        raise UserError(
            f"none of the {len(paths)} impulse responses in {folder} can be used ({reasons}): "
            "give another measured_rooms or a wider rt60"
        )
    if len(found) < len(paths):
        logger.warning("%s: %d of %d impulse responses are used; %s", folder, len(found), len(paths), reasons)
    return found


def _measured(samples: np.ndarray, sample_rate: int) -> Response | None:
    peak = int(np.abs(samples).argmax()) if len(samples) else 0
    if not len(samples) or not np.isfinite(samples).all() or samples[peak] == 0:
        return None
    before = min(peak, round(DIRECT_PATH_BEGIN * sample_rate))
    samples = samples[peak - before :] / np.abs(samples[peak])
    try:
        rt60 = measure_rt60(samples, sample_rate)
    except (ValueError, IndexError):  # it never falls by 35 dB
        return None
    samples = samples[: before + round(rt60 * sample_rate)]
    return Response(samples, before + round(DIRECT_PATH_END * sample_rate), rt60, float("nan"))
