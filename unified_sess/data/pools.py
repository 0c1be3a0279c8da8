"""What mixtures are drawn from: the speech and the noise of one or several folders."""

import hashlib
import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import soxr

from unified_sess.data import mixing
from unified_sess.data.audio_cache import AudioReader
from unified_sess.data.own_folders.speaker_tables import read_speakers
from unified_sess.data.own_folders.speech_folders import IndexedRecording, index_folder
from unified_sess.utils.errors import UserError
from unified_sess.utils.parallel import available_cores

MIN_ACTIVE_SECONDS = 0.25  # seconds of voice that every crop holds at least
Folder = str | os.PathLike
Folders = Folder | Sequence[Folder | None]
Keep = Callable[[list[str], str], "set[str]"]


def as_list(folders: Folders | None) -> list:
    """One folder or several as a list."""
    if folders is None:
        return []
    return [folders] if isinstance(folders, (str, os.PathLike)) else list(folders)


class Measures:
    """Where the measures and the decoded audio of folders are kept, and by how many processes they are made.

    Arguments
    ---------
    folder : str or Path
        None takes the user's cache folder.
    workers : int
        None is one for each core.
    cache_gib : float
        Folders whose audio takes no more than this (GiB of disk) are decoded once; others are decoded when wanted.
    """

    def __init__(self, folder: str | os.PathLike | None, workers: int | None = None, cache_gib: float = 4.0) -> None:
        self.folder = Path(folder or Path.home() / ".cache" / "unified_sess")
        self.workers, self.cache_gib = workers or available_cores(), cache_gib

    def recordings(self, folder: str | os.PathLike, speakers: dict | None, noise: bool) -> list[IndexedRecording]:
        """Index a folder under a name that tells it from other folders."""
        return index_folder(folder, self.folder / f"index-{_digest([folder])}.jsonl", speakers, self.workers, noise)

    def reader(self, folders: list[str | os.PathLike], recordings: list[IndexedRecording]) -> AudioReader:
        """Reader of the recordings of folders, cached where they are small enough."""
        small = sum(recording.frames for recording in recordings) * 2 <= self.cache_gib * 2**30
        cache = self.folder / f"audio-{_digest(folders)}.bin" if small else None
        return AudioReader(recordings, cache, self.workers)


def _digest(folders: list[str | os.PathLike]) -> str:
    return hashlib.sha256("\n".join(str(Path(folder).resolve()) for folder in folders).encode()).hexdigest()[:12]


class SpeechPool:
    """Speech of many people.

    Arguments
    ---------
    folders : str, Path or list of them
    measures : Measures
    speakers : str, Path or list of them
        CSV with the columns path,speaker, for all folders or one for each; None takes LibriSpeech's layout or the
        first folder.
    shares : sequence of float
        Share of the drawn people that is from each folder; None draws each person as often as they have utterances.
    speed_factors : sequence of float
        Drawn for each crop (0.95 is slower).
    sample_rate : int
        Rate in Hz of the crops.
    keep : callable
        See `DynamicMixingDataset`.
    needed : int
        People that are needed at least.

    Raises
    ------
    UserError
        Naming the folder or table that cannot be used.
    """

    def __init__(
        self,
        folders: Folders,
        measures: Measures,
        speakers: Folders | None,
        shares: Sequence[float] | None,
        speed_factors: Sequence[float],
        sample_rate: int,
        keep: Keep | None,
        needed: int,
    ) -> None:
        self.speed_factors, self.sample_rate = list(speed_factors), sample_rate
        places = as_list(folders)
        shortest = MIN_ACTIVE_SECONDS * max(self.speed_factors)
        everything = [_of_folder(places, k, measures, table) for k, table in enumerate(_tables(places, speakers))]
        self._read = measures.reader(places, [r for recordings in everything for r in recordings])
        usable = [
            (place, recording)
            for place, recordings in enumerate(everything)
            for recording in recordings
            if np.ptp(recording.activity, axis=1).max() >= shortest
        ]
        if keep is not None:
            kept = keep([recording.speaker for _, recording in usable], "speaker")
            usable = [(place, recording) for place, recording in usable if recording.speaker in kept]
        self.recordings = [recording for _, recording in usable]
        by_speaker: dict[str, list[int]] = {}
        for number, recording in enumerate(self.recordings):
            by_speaker.setdefault(recording.speaker, []).append(number)
        names = sorted(by_speaker)
        self.by_speaker = [np.array(by_speaker[name]) for name in names]
        if len(self.by_speaker) < needed:
            raise UserError(
                f"{', '.join(map(str, places))} has {len(self.by_speaker)} speakers where a mixture needs {needed}: add "
                "speakers, or say who speaks (the first folder tells, LibriSpeech's names, or a CSV with path,speaker)"
            )
        counts = np.array([len(numbers) for numbers in self.by_speaker], float)
        if shares is not None:
            home = np.array([usable[numbers[0]][0] for numbers in self.by_speaker])
            counts *= _weights(shares, places, home, counts)[home]
        self._chances = np.cumsum(counts / counts.sum())

    def draw_speakers(self, random: np.random.Generator, count: int) -> list[int]:
        """Numbers of distinct people, each as likely as they have utterances."""
        drawn: list[int] = []
        if not count:
            return drawn
        for _ in range(count * 20):
            speaker = min(int(np.searchsorted(self._chances, random.random())), len(self.by_speaker) - 1)
            if speaker not in drawn:
                drawn.append(speaker)
                if len(drawn) == count:
                    return drawn
        # One person has nearly all utterances: take the others evenly.
        others = [s for s in range(len(self.by_speaker)) if s not in drawn]
        return drawn + random.choice(others, count - len(drawn), replace=False).tolist()

    def draw_recording(self, random: np.random.Generator, speaker: int) -> IndexedRecording:
        """An utterance of a person."""
        return self.recordings[int(random.choice(self.by_speaker[speaker]))]

    def draw_speed(self, random: np.random.Generator) -> float:
        """A speed factor."""
        return self.speed_factors[int(random.integers(len(self.speed_factors)))]

    def crop(self, random: np.random.Generator, recording: IndexedRecording, length: int) -> np.ndarray:
        """A crop `[length]` that holds voice, at a random speed; an utterance that is shorter ends with zeros."""
        factor = self.draw_speed(random)
        rate, frames = recording.sample_rate, recording.frames
        need = math.ceil(length * rate * factor / self.sample_rate) + 1
        start = 0
        if frames > need:
            # A crop that starts here or there, but holds a voiced segment.
            segments = recording.activity[np.ptp(recording.activity, axis=1) >= MIN_ACTIVE_SECONDS]
            begin, end = segments[int(random.integers(len(segments)))]
            voice = int(random.uniform(begin, max(begin, end - MIN_ACTIVE_SECONDS)) * rate)
            must = min(int(MIN_ACTIVE_SECONDS * rate), need)
            low, high = max(0, voice + must - need), min(voice, frames - need)
            start = int(random.integers(low, high + 1)) if high >= low else frames - need
        signal = self._read(recording, start, start + need)
        return fit(resample(signal, rate * factor, self.sample_rate), length)

    def read(self, recording: IndexedRecording, begin: float, end: float, factor: float) -> np.ndarray:
        """The stretch between two times in s, at a speed, `[time]`."""
        rate = recording.sample_rate
        signal = self._read(recording, round(begin * rate), min(round(end * rate), recording.frames))
        return resample(signal, rate * factor, self.sample_rate)


class NoisePool:
    """Noise of one or several folders; arguments as in `SpeechPool`."""

    def __init__(
        self,
        folders: Folders | None,
        measures: Measures,
        shares: Sequence[float] | None,
        sample_rate: int,
        keep: Keep | None,
    ) -> None:
        self.sample_rate = sample_rate
        places = as_list(folders)
        everything = [measures.recordings(place, None, True) for place in places]
        usable = [(place, r) for place, recordings in enumerate(everything) for r in recordings]
        if usable:
            self._read = measures.reader(places, [r for _, r in usable])
        if keep is not None and usable:
            kept = keep([recording.path for _, recording in usable], "noise")
            usable = [(place, recording) for place, recording in usable if recording.path in kept]
        self.recordings = [recording for _, recording in usable]
        self._chances: np.ndarray | None = None
        if shares is not None:
            home = np.array([place for place, _ in usable])
            weights = _weights(shares, places, home, np.ones(len(home)))[home]
            self._chances = np.cumsum(weights / weights.sum())

    def __len__(self) -> int:
        return len(self.recordings)

    def draw(self, random: np.random.Generator) -> IndexedRecording:
        """A noise."""
        if self._chances is None:
            return self.recordings[int(random.integers(len(self.recordings)))]
        return self.recordings[min(int(np.searchsorted(self._chances, random.random())), len(self.recordings) - 1)]

    def crop(self, random: np.random.Generator, recording: IndexedRecording, length: int) -> np.ndarray:
        """A crop `[length]` of a noise, extended where it is shorter."""
        need = math.ceil(length * recording.sample_rate / self.sample_rate) + 1
        start = int(random.integers(max(0, recording.frames - need) + 1))
        signal = self._read(recording, start, start + need)
        signal = resample(signal, recording.sample_rate, self.sample_rate)
        return mixing.extend_noise(signal, length).astype(np.float32, copy=False)


def _of_folder(
    places: list[str | os.PathLike], number: int, measures: Measures, table: dict[str, str] | None
) -> list[IndexedRecording]:
    """Recordings of one folder; of several, its name tells its people from those of the others."""
    recordings = measures.recordings(places[number], table, False)
    if len(places) == 1:
        return recordings
    name = Path(places[number]).name
    if sum(Path(place).name == name for place in places) > 1:
        name = f"{name}-{number + 1}"
    return [recording._replace(speaker=f"{name}/{recording.speaker}") for recording in recordings]


def _tables(places: list[str | os.PathLike], speakers: Folders | None) -> list[dict[str, str] | None]:
    """The table of speakers of each folder."""
    if speakers is None:
        return [None] * len(places)
    given = as_list(speakers)
    if isinstance(speakers, (str, os.PathLike)):
        given *= len(places)
    if len(given) != len(places):
        raise UserError(
            f"speakers names {len(given)} tables for {len(places)} speech folders: give one, or one for each"
        )
    return [read_speakers(path) if path else None for path in given]


def _weights(
    shares: Sequence[float], places: list[str | os.PathLike], home: np.ndarray, counts: np.ndarray
) -> np.ndarray:
    """Factors on the counts that give each folder its share."""
    numbers = [float(s) for s in shares if isinstance(s, (int, float)) and not isinstance(s, bool) and s >= 0]
    if len(numbers) != len(shares) or len(shares) != len(places) or abs(sum(numbers) - 1) > 1e-6:
        raise UserError(
            f"the shares of {len(places)} folders must be as many numbers that add up to 1, not {list(shares)}"
        )
    totals = np.bincount(home, counts, len(places))
    return np.array(numbers) / np.maximum(totals, 1)


def fit(signal: np.ndarray, length: int) -> np.ndarray:
    """Cut, or pad with zeros at the end."""
    return np.pad(signal[:length], (0, max(0, length - len(signal))))


def resample(signal: np.ndarray, rate: float, new_rate: float) -> np.ndarray:
    """A signal `[time]` at another rate in Hz."""
    return signal if rate == new_rate else soxr.resample(signal, rate, new_rate)
