"""Separate files into files: the work of `unified-sess separate`."""

import contextlib
import errno
import operator
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import NamedTuple, TextIO

from tqdm import tqdm

from unified_sess.inference.activity import FRAME, activity_of_powers
from unified_sess.inference.files.marks import Mark, result_digest, text_digest
from unified_sess.inference.files.planning import Job, find_recordings, in_shard
from unified_sess.inference.files.recordings import Recording
from unified_sess.inference.files.results import RTTM, SOUND_EXTRAS, SPEAKER, ResultFiles
from unified_sess.inference.files.standard_input import STANDARD_INPUT, standard_input
from unified_sess.inference.files.summaries import FAILED, KEPT, SEPARATED, summary_line
from unified_sess.inference.files.tracks import TrackOptions, check_voices, separate_to_tracks
from unified_sess.inference.files.writing import LARGEST_WAV, SAMPLE_BYTES, rttm, write_results
from unified_sess.inference.passes import InPasses
from unified_sess.inference.runtime import Runtime
from unified_sess.inference.voices.evidence import voices_digest
from unified_sess.inference.voices.speakers import SpeakerNetwork
from unified_sess.inference.windows import DEFAULT_WINDOWS, Windows
from unified_sess.utils.audio import Channel, result_subtype
from unified_sess.utils.errors import INTERRUPTED, UserError, ended_gently, os_error_line, writable_folder

LOUDNESS_RANGE = (-70.0, 0.0)  # LUFS
ALL_EXTRAS = (*SOUND_EXTRAS, RTTM)


class Options(NamedTuple):
    """How files are separated.

    enhanced : bool
        Also write the enhanced mixture.
    extension : str
        `wav` or `flac`.
    model_rate : bool
        Write at the model's rate instead of the input's.
    overwrite : bool
        Separate again what has results, and replace what is of something else.
    fixed_order : bool
        Trust the network's order of the sources in every window.
    windows : Windows
        How long recordings are cut.
    noise : bool
        Also write what the people leave of the recording.
    rttm : bool
        Also write who speaks when.
    normalize : float
        Loudness in LUFS of people and enhanced mixture; None keeps the level of the recording.
    num_spks : int
        How many people are written, those of most energy; None writes those that are active.
    channel : int or str
        From 1, or `mean`; None lets the rule of `utils.audio` choose.
    stream : int
        Audio stream of a container, from 1; None takes the first.
    subtype : str
        Depth of the results, in libsndfile's names; None keeps the input's.
    effort : int
        Runs of a separator that works in steps; None takes all.
    passes : int
        At how many speeds every window is separated, see `InPasses`.
    voices : SpeakerNetwork
        Recognises voices in the place of the network that ships; None takes that.
    """

    enhanced: bool = False
    extension: str = "wav"
    model_rate: bool = False
    overwrite: bool = False
    fixed_order: bool = False
    windows: Windows = DEFAULT_WINDOWS
    noise: bool = False
    rttm: bool = False
    normalize: float | None = None
    num_spks: int | None = None
    channel: Channel = None
    stream: int | None = None
    subtype: str | None = None
    effort: int | None = None
    passes: int = 1
    voices: SpeakerNetwork | None = None

    def extras(self) -> list[str]:
        """Kinds of results beside the people."""
        return ["enhanced"] * self.enhanced + ["noise"] * self.noise + [RTTM] * self.rttm

    def settings(self, subtype: str) -> dict:
        """What changes samples, for the mark of a result."""
        return {
            "model_rate": self.model_rate,
            "windows": [self.windows.length, self.windows.overlap],
            "voices": None if self.fixed_order else voices_digest(self.voices),
            "normalize": self.normalize,
            "num_spks": self.num_spks,
            "channel": self.channel if self.channel is None or self.channel == "mean" else operator.index(self.channel),
            "stream": self.stream or 1,
            "subtype": subtype,
            "effort": self.effort,
        }

    def check(self, model: Runtime) -> None:
        """Raise `UserError` for values that cannot be."""
        self.windows.samples(model.sample_rate)
        if self.num_spks is not None and not 1 <= self.num_spks <= model.num_spks:
            raise UserError(f"--num-spks {self.num_spks}: {model.name} gives from 1 to {model.num_spks} people")
        if self.normalize is not None and not LOUDNESS_RANGE[0] <= self.normalize <= LOUDNESS_RANGE[1]:
            raise UserError(f"--normalize {self.normalize}: give a loudness from -70 to 0 LUFS, such as -23")
        if self.voices is not None and self.fixed_order:
            raise UserError(f"--voices {self.voices.name}: --fixed-order keeps voices as they are, leave one out")
        check_voices(self.voices, model)
        if self.extension == "flac" and self.subtype in ("FLOAT", "PCM_32"):
            raise UserError(f"--subtype {self.subtype}: flac holds 16 or 24 bits, give --format wav")


DEFAULT_OPTIONS = Options()


def separate_files(
    model: Runtime,
    paths: Sequence[str | os.PathLike],
    output_dir: str | os.PathLike,
    options: Options = DEFAULT_OPTIONS,
    jobs: int = 1,
    shard: tuple[int, int] | None = None,
    summaries: TextIO | None = None,
) -> None:
    """Separate recordings into `<name>_s1`, `<name>_s2`, ... below a folder, with progress bars and a summary.

    Arguments
    ---------
    model : Runtime
        The network.
    paths : sequence of str
        Files, folders (searched through, their tree is kept), globs, and `-` for standard input.
    output_dir : str or Path
        Folder of the results; made where it is missing.
    options : Options
        What to write and how.
    jobs : int
        Recordings at a time.
    shard : tuple of int
        `(k, n)` takes the k-th of n shares of the recordings, the same ones each time.
    summaries : file
        Takes a line of JSON a recording; the last line for the user goes to stderr then.

    Raises
    ------
    UserError
        At once when nothing can be done; at the end, after all other files, when some could not be separated.
    """
    options.check(model)
    if options.effort is not None:
        model.set_effort(options.effort)
    stop = threading.Event()
    if options.passes != 1:
        model = InPasses(model, options.passes, stop)
    if jobs < 1:
        raise UserError(f"--jobs {jobs} is too small: give 1 or more")
    if shard is not None and not 1 <= shard[0] <= shard[1]:
        raise UserError(f"--shard {shard[0]}/{shard[1]} is none: give K/N with K from 1 to N")
    with contextlib.ExitStack() as stack:
        piped = stack.enter_context(standard_input(output_dir)) if STANDARD_INPUT in map(str, paths) else []
        _Run(model, output_dir, options, summaries, stop).go(
            [p for p in paths if str(p) != STANDARD_INPUT], piped, jobs, shard
        )


class _Run:
    """The state of `separate_files`."""

    def __init__(self, model, output_dir, options, summaries, stop) -> None:
        self.model, self.output_dir, self.options, self.summaries = model, output_dir, options, summaries
        self.stop = stop
        self.seconds, self.kept, self.separated, self.failed = 0.0, 0, 0, 0

    def go(self, paths, piped, jobs, shard):
        mixed = [path for path in paths if _is_same_folder(path, self.output_dir)]
        plan = find_recordings([path for path in paths if path not in mixed], self.output_dir, piped)
        problems = plan.problems + [
            f"{path} is the output folder as well: give another, or the recordings by name" for path in mixed
        ]
        for problem in problems:
            _report(problem)
        for note in plan.notes:
            _report(note, "")
        inputs = {os.path.realpath(job.source) for job in plan.jobs}
        work = [job for job in plan.jobs if shard is None or in_shard(job, shard)]
        if not plan.jobs and (problems or not plan.notes):
            raise UserError("there is nothing to separate: give audio files or folders that hold some")
        self.failed = len(problems)
        start = time.monotonic()
        if work:
            self._separate(work, inputs, jobs)
        elapsed = time.monotonic() - start
        print(self._last_line(elapsed, shard), file=sys.stdout if self.summaries is None else sys.stderr)
        if self.failed:
            raise UserError(f"{self.failed} of {len(work) + len(problems)} inputs could not be separated, see above")

    def _separate(self, work, inputs, jobs):
        self.output_dir = Path(writable_folder(self.output_dir))
        digest = self.model.digest()
        at_a_time = min(jobs, len(work))
        pool = ThreadPoolExecutor(at_a_time)
        bar = tqdm(total=len(work), desc="Separating", unit="file", dynamic_ncols=True)
        try:
            with ended_gently(), self.model.shared_by(at_a_time):
                arguments = self.output_dir, self.options, digest, inputs, self.stop
                futures = {pool.submit(separate_or_tell, self.model, job, *arguments): job for job in work}
                for future in as_completed(futures):
                    bar.update()
                    self._note(futures[future], future.result())
        except KeyboardInterrupt:
            self.stop.set()
            _report("ending after the windows at hand; Ctrl-C once more ends at once", "")
            raise
        finally:
            try:
                pool.shutdown(cancel_futures=True)
            except KeyboardInterrupt:  # threads of torch would make Python's own end a crash
                _report("interrupted")
                os._exit(INTERRUPTED)
            bar.close()

    def _note(self, job, summary):
        source = summary["source"]
        if summary["status"] == FAILED:
            self.failed += 1
            _report(summary["error"])
        elif summary["status"] == KEPT:
            self.kept += 1
        else:
            self.separated += 1
            self.seconds += summary["duration"]
            for note in summary["notes"]:
                _report(f"{source} {note}", "")
        if self.summaries is not None:
            with tqdm.external_write_mode(file=sys.stderr):
                print(summary_line(summary), file=self.summaries, flush=True)

    def _last_line(self, elapsed, shard):
        count = self.separated
        parts = [f"separated {count} file{'s' * (count != 1)}, {self.seconds:.1f} s of audio in {elapsed:.1f} s"]
        parts += [f"real-time factor {elapsed / self.seconds:.3f}"] if self.seconds else []
        if self.kept:
            parts.append(f"{self.kept} skipped because of results that exist (--overwrite makes them again)")
        parts += [f"share {shard[0]} of {shard[1]}"] if shard is not None else []
        return "; ".join(parts)


def separate_or_tell(
    model: Runtime,
    job: Job,
    output_dir: Path,
    options: Options = DEFAULT_OPTIONS,
    digest: str | None = None,
    inputs: Collection[str] = (),
    stop: threading.Event | None = None,
    progress: Callable[[float], object] | None = None,
) -> dict:
    """Separate one file as `separate_recording` does; where that fails, the summary tells it in one line, `error`."""
    try:
        return separate_recording(model, job, output_dir, options, digest, inputs, stop, progress)
    except UserError as problem:
        line = str(problem)
    except OSError as error:
        error.filename = error.filename or output_dir  # what has no name is the temporary file there
        line = f"{job.source}: {os_error_line(error) or error}"
        if error.errno == errno.ENAMETOOLONG:
            line = f"{job.source}: the names of its results are longer than the disk allows, rename it"
    except (RuntimeError, ValueError, MemoryError) as error:  # the device's memory, mostly
        line = f"{job.source}: {str(error).splitlines()[0] if str(error) else 'out of memory'}"
    line = line.replace(str(job.source), job.shown())
    return {"source": job.shown(), "status": FAILED, "error": " ".join(line.split())}


def separate_recording(
    model: Runtime,
    job: Job,
    output_dir: Path,
    options: Options = DEFAULT_OPTIONS,
    digest: str | None = None,
    inputs: Collection[str] = (),
    stop: threading.Event | None = None,
    progress: Callable[[float], object] | None = None,
) -> dict:
    """Separate one file; its results appear together and whole.

    Arguments
    ---------
    model : Runtime
        The network.
    job : Job
        The recording and the name of its results.
    output_dir : Path
        Results are `<output_dir>/<folder>/<name>_s1.wav`, ...
    options : Options
    digest : str
        Of the model, see `Runtime.digest`; None computes it.
    inputs : set of str
        Real paths that must not be overwritten.
    stop : threading.Event
        Ends the work when set.
    progress : callable
        Is told how many s were separated, piece by piece; without it long recordings show a bar.

    Returns
    -------
    dict
        The summary: `source`, `status` (`separated`, or `kept` where the results were there), `outputs` (path by kind),
        `duration` (s), `sample_rate` (Hz), `people`, `notes`, and of what was separated `levels` (RMS in dB of full
        scale by kind, None for silence) and `speech` (s by person).

    Raises
    ------
    UserError
        When the recording cannot be read or a result not be written.
    """
    folder = output_dir / job.folder
    if not folder.resolve().is_relative_to(output_dir.resolve()):
        raise UserError(f"{folder} leads out of {output_dir}: remove that link")
    recording = Recording(job.source, options.channel, options.stream)
    subtype = options.subtype or result_subtype(recording.subtype, options.extension)
    digest = result_digest(job.source, digest or model.digest(), options.settings(subtype))
    results, extras = ResultFiles(folder, job.name, options.extension), options.extras()
    possible = options.num_spks or model.num_spks
    found = results.find(digest, extras, possible, options.overwrite)
    if found.whole:
        people = sorted(kind for kind in found.kinds if SPEAKER.fullmatch(kind))
        return _summary(job, KEPT, recording, results, [*people, *extras])
    # What was made before of the same is written anew with the rest, so that all have one level.
    extras = [kind for kind in ALL_EXTRAS if kind in extras or kind in found.kinds]
    places = [results.path(kind) for kind in [*(f"s{k + 1}" for k in range(possible)), *extras]]
    clash = next((path for path in places if os.path.realpath(path) in inputs), None)
    if clash is not None:
        raise UserError(f"the results of {job.source} would overwrite the input {clash}: give another --output-dir")
    rate = model.sample_rate if options.model_rate else recording.sample_rate
    if options.extension == "wav" and SAMPLE_BYTES[subtype] * recording.duration * rate > LARGEST_WAV:
        raise UserError(
            f"{job.source}: results of {recording.duration:.0f} s are too large for wav files: use --format flac"
        )
    writable_folder(folder)
    with tempfile.TemporaryFile(dir=output_dir) as file:
        loudness = options.normalize is not None
        several = options.num_spks is not None and options.num_spks > 1
        enhanced, recorded = "enhanced" in extras, "noise" in extras
        track_options = TrackOptions(
            enhanced, recorded, loudness, options.fixed_order, options.windows, several, options.voices
        )
        tracks = separate_to_tracks(model, recording, file, rate, track_options, stop, progress, output_dir)
        chosen = tracks.active if options.num_spks is None else tracks.loudest(options.num_spks)
        people = [f"s{k + 1}" for k in range(int(chosen.sum()))]
        kinds, turns = [*people, *extras], rttm(tracks.powers[:, chosen], results.name)
        if RTTM not in kinds and text_digest(turns) == found.old_rttm:
            kinds.append(RTTM)
        turns_digest = text_digest(turns) if RTTM in kinds else ""
        if turns_digest and found.others_rttm not in ("", turns_digest):
            results.refuse_rttm()
        comment = Mark(digest, tuple(sorted(kinds)), turns_digest).comment()
        written = write_results(tracks, chosen, results, kinds, subtype, comment, turns, options.normalize, stop)
    for path in found.stale:  # of another recording, model or other options
        if path not in map(results.path, kinds):
            path.unlink(missing_ok=True)
    summary = _summary(job, SEPARATED, recording, results, kinds)
    if written.turned_down > 0:
        loud = "results" if options.normalize is None else f"results at {options.normalize:g} LUFS"
        summary["notes"].append(f"has {loud} beyond full scale: all turned down by {written.turned_down:.1f} dB")
    if not people:
        summary["notes"].append("holds nobody: no speech was found")
    frames = activity_of_powers(tracks.powers[:, chosen])
    speech = {kind: round(float(track.sum() * FRAME), 2) for kind, track in zip(people, frames.T)}
    return summary | {"levels": written.levels, "speech": speech}


def _summary(job, status, recording, results, kinds):
    return {
        "source": job.shown(),
        "status": status,
        "duration": round(recording.duration, 3),
        "sample_rate": recording.sample_rate,
        "people": sum(SPEAKER.fullmatch(kind) is not None for kind in kinds),
        "outputs": {kind: str(results.path(kind)) for kind in kinds},
        "notes": list(recording.notes()) if status == SEPARATED else [],
    }


def _is_same_folder(path, output_dir):
    return os.path.isdir(path) and os.path.realpath(path) == os.path.realpath(output_dir)


def _report(text, kind="error: "):
    with tqdm.external_write_mode(file=sys.stderr):
        print(f"unified-sess: {kind}{' '.join(str(text).split())}", file=sys.stderr)
