"""Writing the results of one recording, in one pass over its tracks."""

import contextlib
import threading
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import soundfile

from unified_sess.inference.activity import activity_of_powers, segments
from unified_sess.inference.files.results import RTTM, NewFiles, ResultFiles
from unified_sess.inference.files.tracks import Tracks
from unified_sess.utils.errors import UserError

FULL_SCALE = 0.999  # below 1, which files of whole numbers cannot hold
LARGEST_WAV = 2**32 - 2**16  # bytes; the header counts in 32 bits
SAMPLE_BYTES = {"PCM_16": 2, "PCM_24": 3, "PCM_32": 4, "FLOAT": 4}
FORMATS = {"wav": "WAV", "flac": "FLAC"}


class Written(NamedTuple):
    """What was written: RMS levels in dB of full scale by kind (None: silence), and how far all were turned down."""

    levels: dict[str, float | None]
    turned_down: float


def write_results(
    tracks: Tracks,
    chosen: np.ndarray,
    results: ResultFiles,
    kinds: Sequence[str],
    subtype: str,
    comment: str,
    turns: bytes = b"",
    target_lufs: float | None = None,
    stop: threading.Event | None = None,
) -> Written:
    """Write the results of a recording; they appear together and whole.

    Arguments
    ---------
    tracks : Tracks
        With the column of the recording where `noise` is among the kinds.
    chosen : numpy.ndarray
        bool `[speakers]`, who is written: as `s1`, `s2`, ... in the order of the tracks.
    results : Results
        Names of the files.
    kinds : sequence of str
        `s1`, ... as many as are chosen, then `enhanced`, `noise`, `rttm` as wanted. The noise is what the people leave
        of the recording.
    subtype : str
        Depth of the files, in libsndfile's names.
    comment : str
        Their mark.
    turns : bytes
        Content of the RTTM file, see `rttm`.
    target_lufs : float
        Loudness that people and the enhanced mixture are brought to; None keeps the level of the recording.
    stop : threading.Event
        Ends the work when set.

    Raises
    ------
    UserError
        When a file cannot be written.
    """
    sounds = [kind for kind in kinds if kind != RTTM]
    mixing = _Mixing(tracks, chosen, sounds, target_lufs)
    peak = 0.0 if subtype == "FLOAT" else mixing.peak()
    gain = np.float32(min(1.0, FULL_SCALE / peak) if peak > 0 else 1.0)
    squares, frames = np.zeros(len(sounds)), 0
    with NewFiles() as files:
        with _sound_files(files, results, sounds, tracks.rate, subtype, comment) as writers:
            for block in mixing.blocks(gain) if sounds else ():
                if stop is not None and stop.is_set():
                    raise UserError(f"{results.name}: interrupted")
                for writer, signal in zip(writers, block.T):
                    writer.write(signal)
                squares += np.square(block, dtype=np.float64).sum(axis=0)
                frames += len(block)
        if RTTM in kinds:
            files.open(results.path(RTTM)).write(turns)
        files.keep()
    levels = {kind: _decibels(square / max(1, frames)) for kind, square in zip(sounds, squares)}
    return Written(levels, float(-20 * np.log10(gain)))


def rttm(powers: np.ndarray, name: str) -> bytes:
    """Who speaks when as the content of a file in NIST's RTTM format.

    Arguments
    ---------
    powers : numpy.ndarray
        Of the speakers in frames of 10 ms, `[frames, speakers]`.
    name : str
        Of the recording; its blanks become `_`, since RTTM separates its columns by them.
    """
    name = "_".join(name.split()) or "recording"
    lines = (
        f"SPEAKER {name} 1 {start:.2f} {duration:.2f} <NA> <NA> s{speaker + 1} <NA> <NA>\n"
        for speaker, start, duration in segments(activity_of_powers(powers))
    )
    return "".join(lines).encode(errors="surrogateescape")


class _Mixing:
    """What goes into each file."""

    def __init__(self, tracks, chosen, sounds, target_lufs) -> None:
        self.tracks, self.sounds = tracks, sounds
        self.people, speakers = np.flatnonzero(chosen), len(chosen)
        self.columns = [*self.people, *[speakers] * ("enhanced" in sounds)]
        self.gains = np.ones(len(self.columns), np.float32)
        if target_lufs is not None:
            gains = tracks.loudness.gains_to(target_lufs, tracks.factors)
            self.gains = gains[self.columns].astype(np.float32)

    def blocks(self, gain: np.float32) -> Iterator[np.ndarray]:
        """Yields what is written, `[time, files]`."""
        for block in self.tracks.blocks():
            parts = [block[:, self.columns] * (self.gains * gain)]
            if "noise" in self.sounds:
                people = (block[:, self.people] * gain).sum(axis=1, dtype=np.float64)
                parts.append((block[:, -1] * gain - people).astype(np.float32)[:, None])
            yield np.concatenate(parts, axis=1)

    def peak(self) -> float:
        """Largest absolute sample; without another pass over the tracks wherever that is enough."""
        peaks = self.tracks.peaks
        largest = float((peaks[self.columns] * self.gains).max(initial=0.0))
        if "noise" not in self.sounds:
            return largest
        if peaks[-1] + peaks[self.people].sum() <= FULL_SCALE:  # the noise cannot be louder
            return max(largest, float(peaks[-1]))
        return max((float(np.abs(block).max(initial=0.0)) for block in self.blocks(np.float32(1))), default=0.0)


@contextlib.contextmanager
def _sound_files(files, results, kinds, rate, subtype, comment):
    """Yields a writer of one channel for each kind; what goes wrong is one line."""
    try:
        with contextlib.ExitStack() as stack:
            writers = []
            for kind in kinds:
                number = files.open(results.path(kind)).fileno()
                options = {"format": FORMATS[results.extension], "subtype": subtype, "closefd": False}
                writers.append(stack.enter_context(soundfile.SoundFile(number, "w", rate, 1, **options)))
                writers[-1].comment = comment
            yield writers
    except (soundfile.SoundFileError, RuntimeError, AssertionError) as error:
        if isinstance(error, RuntimeError) and not isinstance(error, soundfile.SoundFileError):
            raise
        reason = str(error).rpartition(": ")[2].rstrip(".") or "not all was written"
        way_out = "is the disk full? Some rates need --format wav or --model-rate"
        raise UserError(f"cannot write {results.path(kinds[0])} at {rate} Hz ({reason}): {way_out}") from None


def _decibels(power):
    return round(10 * float(np.log10(power)), 2) if power > 0 else None
