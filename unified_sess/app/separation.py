"""The work on one recording of the page: separated as by `unified-sess separate`, then drawn."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile

from unified_sess.app.pictures import draw_picture, measure_picture
from unified_sess.app.tasks import Task
from unified_sess.inference.files.planning import Job
from unified_sess.inference.files.recordings import Recording
from unified_sess.inference.files.separate_files import Options, separate_or_tell
from unified_sess.inference.passes import InPasses
from unified_sess.inference.separating import Separating
from unified_sess.inference.voices.speakers import SpeakerNetwork
from unified_sess.inference.windows import DEFAULT_WINDOWS
from unified_sess.network import most_effort, set_effort
from unified_sess.utils.errors import UserError

RECORDING, ENHANCED, NOISE = "recording", "enhanced", "noise"
WINDOWS = DEFAULT_WINDOWS._replace(batch=1)  # one at a time: progress is finer, and a cancelled task ends sooner
BLOCK = 1 << 18  # samples added at once


class Sound(NamedTuple):
    """A sound to hear and see.

    kind : str
        `recording`, `enhanced`, `s1`, `s2`, ..., `noise`.
    path, picture : Path
        Of the sound and of its picture.
    speech : float
        Seconds in which a person talks; 0 for what is no person.
    """

    kind: str
    path: Path
    picture: Path
    speech: float


class Separated(NamedTuple):
    """What became of a recording: its sounds, how many people were found in how many seconds, and notes for the user."""

    sounds: list[Sound]
    people: int
    duration: float
    notes: list[str]


def separate_for_page(
    model: Separating,
    path: Path,
    folder: Path,
    num_spks: int | None = None,
    effort: int | None = None,
    passes: int = 1,
    task: Task | None = None,
    voices: SpeakerNetwork | None = None,
) -> Separated | None:
    """Separate an uploaded file into a folder, with pictures.

    Arguments
    ---------
    model : Separating
        The network.
    path : Path
        Of the recording.
    folder : Path
        Takes sounds and pictures.
    num_spks : int
        How many people are wanted; None gives those who are heard.
    effort : int
        Runs of a separator that works in steps; None takes all, and the others do without.
    passes : int
        At how many speeds every window is separated, see `InPasses`.
    task : Task
        Is told what is done, and ends the work; the result is None then.
    voices : SpeakerNetwork
        Recognises voices in the place of the network that ships; None takes that.

    Raises
    ------
    UserError
        In one line, where the recording cannot be separated.
    """
    task = Task() if task is None else task
    most = most_effort(model.mods)
    if most > 1:
        set_effort(model.mods, effort or most)
    task.doing = "Reading the recording"
    duration, done = _duration(path), 0.0

    def progress(seconds):
        nonlocal done
        done = min(duration, done + seconds)
        task.doing, task.share = f"Separating: {_time(done)} of {_time(duration)}", 0.9 * done / max(duration, 1e-9)

    job = Job(path, Path(), path.stem or "recording", path.name)
    options = Options(enhanced=True, noise=True, num_spks=num_spks, windows=WINDOWS, voices=voices)
    network = model if passes == 1 else InPasses(model, passes)
    summary = separate_or_tell(network, job, folder, options, stop=task.stop, progress=progress)
    if task.stop.is_set():
        return None
    if "error" in summary:
        raise UserError(summary["error"])
    paths = {kind: Path(output) for kind, output in summary["outputs"].items()}
    people = [kind for kind in paths if kind not in (ENHANCED, NOISE)]
    paths[RECORDING] = paths[NOISE].with_stem(f"{job.name}_{RECORDING}")
    add_files([*(paths[kind] for kind in people), paths[NOISE]], paths[RECORDING])
    order = [RECORDING, ENHANCED, *people, NOISE]
    sounds = list(_drawn({kind: paths[kind] for kind in order}, summary["speech"], task))
    return None if task.stop.is_set() else Separated(sounds, len(people), duration, summary["notes"])


def add_files(paths: Sequence[Path], output: Path) -> None:
    """Write the sum of sound files of one channel, which are alike: people and noise are the recording again."""
    with soundfile.SoundFile(paths[0]) as first:
        options = {"samplerate": first.samplerate, "channels": 1, "subtype": first.subtype}
    readers = [soundfile.blocks(path, BLOCK, dtype="float64") for path in paths]
    with soundfile.SoundFile(output, "w", **options) as file:
        for blocks in zip(*readers):
            file.write(np.sum(blocks, axis=0))


def _drawn(paths, speech, task):
    """Yields the sounds with their pictures."""
    whole = None
    for number, (kind, path) in enumerate(paths.items()):
        if task.stop.is_set():
            return
        task.doing, task.share = "Drawing", 0.9 + 0.1 * number / len(paths)
        picture = measure_picture(path)
        whole = picture if whole is None else whole
        place = path.with_suffix(".png")
        draw_picture(picture, place, whole)
        yield Sound(kind, path, place, speech.get(kind, 0.0))


def _duration(path):
    try:
        return Recording(path).duration
    except UserError as error:
        raise UserError(str(error).replace(str(path), path.name)) from None


def _time(seconds):
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes} min {seconds} s" if minutes else f"{seconds} s"
