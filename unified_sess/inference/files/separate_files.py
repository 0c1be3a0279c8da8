"""Separate files into files: the work of `unified-sess separate`."""

import contextlib
import os
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile
import torch
from tqdm import tqdm

from unified_sess.inference.files.marks import is_of_another, mark_of_recording
from unified_sess.inference.files.planning import find_recordings
from unified_sess.inference.files.recordings import Recording, Spool, of_length, resample
from unified_sess.inference.scale import MixtureScale
from unified_sess.inference.windows import DEFAULT_WINDOWS, Windows, separate_stream
from unified_sess.utils.audio import sound_path
from unified_sess.utils.errors import UserError, os_error_line, writable_folder
from unified_sess.utils.files import atomic_path

FULL_SCALE = 0.999  # below 1, which 16-bit files cannot hold
LARGEST_WAV = 2**32 - 2**16  # bytes; the header counts in 32 bits


class Options(NamedTuple):
    """How files are separated.

    enhanced : bool
        Also write the enhanced mixture.
    extension : str
        `wav` or `flac`, of 16 bits.
    model_rate : bool
        Write at the model's rate instead of the input's.
    overwrite : bool
        Separate again what has results.
    fixed_order : bool
        Trust the network's order of the sources in every window.
    windows : Windows
        How long recordings are cut.
    """

    enhanced: bool = False
    extension: str = "wav"
    model_rate: bool = False
    overwrite: bool = False
    fixed_order: bool = False
    windows: Windows = DEFAULT_WINDOWS


DEFAULT_OPTIONS = Options()


class Done(NamedTuple):
    """What was made of a recording: its duration in s, and what the user should know of it."""

    duration: float
    notes: list


def separate_files(model, paths, output_dir, options=DEFAULT_OPTIONS, jobs=1):
    """Separate recordings into `<name>_s1`, `<name>_s2`, ... below a folder, with progress bars and a summary.

    Arguments
    ---------
    model : UnifiedSeparation
        The network.
    paths : list of str
        Files, folders (searched through, their tree is kept) and globs.
    output_dir : str or Path
        Folder of the results; made where it is missing.
    options : Options
        What to write and how.
    jobs : int
        Recordings at a time.

    Raises
    ------
    UserError
        At once when nothing can be done; at the end, after all other files, when some could not be separated.
    """
    options.windows.samples(model.sample_rate)
    if jobs < 1:
        raise UserError(f"--jobs {jobs} is too small: give 1 or more")
    mixed = [path for path in paths if os.path.isdir(path) and os.path.realpath(path) == os.path.realpath(output_dir)]
    work, problems = find_recordings([path for path in paths if path not in mixed], output_dir)
    problems += [
        f"{path} is the output folder as well: results would be separated again, give another" for path in mixed
    ]
    for problem in problems:
        _report(problem)
    if not work:
        raise UserError("there is nothing to separate: give audio files or folders that hold some")
    output_dir = Path(writable_folder(output_dir))
    inputs = {os.path.realpath(job.source) for job in work}
    start, seconds, skipped, failed, stop = time.monotonic(), 0.0, 0, len(problems), threading.Event()
    threads = torch.get_num_threads()
    torch.set_num_threads(max(1, threads // min(jobs, len(work))))
    pool = ThreadPoolExecutor(min(jobs, len(work)))
    bar = tqdm(total=len(work), desc="Separating", unit="file", dynamic_ncols=True)
    try:
        futures = {pool.submit(_separate_one, model, job, output_dir, inputs, options, stop): job for job in work}
        for future in as_completed(futures):
            done, problem = future.result()
            bar.update()
            if problem is not None:
                failed += 1
                _report(problem)
            elif done is None:
                skipped += 1
            else:
                seconds += done.duration
                for note in done.notes:
                    _report(f"{futures[future].source} {note}", "")
    except KeyboardInterrupt:
        stop.set()
        raise
    finally:
        pool.shutdown(cancel_futures=True)
        bar.close()
        torch.set_num_threads(threads)
    elapsed = time.monotonic() - start
    count = len(work) + len(problems) - skipped - failed
    parts = [f"separated {count} file{'s' * (count != 1)}, {seconds:.1f} s of audio in {elapsed:.1f} s"]
    parts += [f"real-time factor {elapsed / seconds:.3f}"] if seconds else []
    parts += [f"{skipped} skipped because of results that exist (--overwrite makes them again)"] if skipped else []
    print("; ".join(parts))
    if failed:
        raise UserError(f"{failed} of {len(work) + len(problems)} inputs could not be separated, see above")


def _separate_one(model, job, output_dir, inputs, options, stop):
    """Separate a file; returns `(Done, None)`, `(None, None)` when it has results, or `(None, line)` on failure."""
    try:
        return separate_recording(model, job, output_dir, inputs, options, stop), None
    except UserError as error:
        return None, str(error)
    except OSError as error:
        error.filename = error.filename or output_dir  # what has no name is the temporary file there
        return None, f"{job.source}: {os_error_line(error) or error}"
    except (RuntimeError, ValueError, MemoryError) as error:  # the device's memory, mostly
        return None, f"{job.source}: {str(error).splitlines()[0] if str(error) else 'out of memory'}"


def separate_recording(model, job, output_dir, inputs=(), options=DEFAULT_OPTIONS, stop=None):
    """Separate one file; its results appear together and whole.

    Arguments
    ---------
    model : UnifiedSeparation
        The network.
    job : Job
        The recording and the name of its results.
    output_dir : Path
        Results are `<output_dir>/<folder>/<name>_s1.wav`, ...
    inputs : set of str
        Real paths that must not be overwritten.
    options : Options
    stop : threading.Event
        Ends the work when set.

    Returns
    -------
    Done, or None when all results exist already.

    Raises
    ------
    UserError
        When the recording cannot be read or a result not be written.
    """
    names = [f"s{k + 1}" for k in range(model.num_spks)] + ["enhanced"] * options.enhanced
    folder = output_dir / job.folder
    outputs = [folder / f"{job.name}_{name}.{options.extension}" for name in names]
    if not folder.resolve().is_relative_to(output_dir.resolve()):
        raise UserError(f"{folder} leads out of {output_dir}: remove that link")
    recording = Recording(job.source)
    mark = mark_of_recording(job.source)
    if not options.overwrite:
        strange = next((path for path in outputs if path.exists() and is_of_another(path, mark)), None)
        if strange is not None:
            raise UserError(
                f"{strange} is of another recording than {job.source}: give --overwrite or another --output-dir"
            )
        if all(path.exists() for path in outputs):
            return None
    clash = next((path for path in outputs if os.path.realpath(path) in inputs), None)
    if clash is not None:
        raise UserError(f"the results of {job.source} would overwrite the input {clash}: give another --output-dir")
    rate = model.sample_rate if options.model_rate else recording.sample_rate
    if options.extension == "wav" and 2 * recording.duration * rate > LARGEST_WAV:
        raise UserError(
            f"{job.source}: results of {recording.duration:.0f} s are too large for wav files: use --format flac"
        )
    writable_folder(folder)
    with tempfile.TemporaryFile(dir=output_dir) as file:
        spool = Spool(file, len(names))
        factors = _separate_to_spool(model, recording, spool, options, stop)

        def final():
            blocks = (block * factors for block in spool.blocks(model.sample_rate))
            blocks = resample(blocks, model.sample_rate, rate)
            return blocks if options.model_rate else of_length(blocks, recording.frames)

        peak = max((float(np.abs(block).max()) for block in final() if block.size), default=0.0)
        gain = min(1.0, FULL_SCALE / peak) if peak > 0 else 1.0
        _write(outputs, (block * np.float32(gain) for block in final()), rate, mark)
    notes = [f"was louder than full scale: results turned down by {-20 * np.log10(gain):.1f} dB"] if gain < 1 else []
    notes += recording.notes()
    return Done(recording.duration, notes)


def _separate_to_spool(model, recording, spool, options, stop):
    """Separate into the spool; returns the factors `[channels]` that bring it to the mixture's scale."""
    scales = (MixtureScale(), MixtureScale())
    waiting = []  # pieces of the mixture that are not separated yet
    long = recording.duration > options.windows.length
    with tqdm(total=round(recording.duration, 1), desc=Path(recording.path).name, unit="s", leave=False,
              disable=None if long else True, dynamic_ncols=True) as bar:  # fmt: skip

        def mixture():
            for block in recording.blocks(model.sample_rate, bar.update):
                if stop is not None and stop.is_set():
                    raise UserError(f"{recording.path}: interrupted")
                waiting.append(block)
                yield block

        for sources in separate_stream(model, mixture(), options.windows, options.enhanced, options.fixed_order):
            if not np.isfinite(sources).all():
                raise UserError(f"{recording.path}: the network's output is not finite; is the model broken?")
            mix = _take(waiting, len(sources))
            scales[0].add(mix, sources[:, : model.num_spks])
            if options.enhanced:
                scales[1].add(mix, sources[:, model.num_spks :])
            spool.write(sources)
    factors = [
        np.broadcast_to(scales[0].factors, model.num_spks),
        np.broadcast_to(scales[1].factors, int(options.enhanced)),
    ]
    return np.concatenate(factors).astype(np.float32)


def _take(pieces, count):
    """Remove `count` samples from the front of a list of arrays and return them as one."""
    taken = []
    while count:
        piece = pieces.pop(0)
        taken.append(piece[:count])
        if len(piece) > count:
            pieces.insert(0, piece[count:])
        count -= len(taken[-1])
    return np.concatenate(taken) if taken else np.zeros(0, np.float32)


def _write(paths, blocks, rate, comment):
    """Write a stream `[time, channels]` as one 16-bit file a channel."""
    with contextlib.ExitStack() as stack:
        temporary = [stack.enter_context(atomic_path(path)) for path in paths]
        try:
            with contextlib.ExitStack() as files:
                writers = [
                    files.enter_context(soundfile.SoundFile(sound_path(path), "w", rate, 1, subtype="PCM_16"))
                    for path in temporary
                ]
                for writer in writers:
                    writer.comment = comment
                for block in blocks:
                    for writer, channel in zip(writers, block.T):
                        writer.write(channel)
        except (soundfile.SoundFileError, RuntimeError) as error:
            reason = str(error).rpartition(": ")[2].rstrip(".")
            way_out = "is the disk full? Some rates need --format wav or --model-rate"
            raise UserError(f"cannot write {paths[0]} at {rate} Hz ({reason}): {way_out}") from None


def _report(text, kind="error: "):
    with tqdm.external_write_mode(file=sys.stderr):
        print(f"unified-sess: {kind}{' '.join(str(text).split())}", file=sys.stderr)
