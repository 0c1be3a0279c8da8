"""Which files a command separates, and where their results go."""

import glob
import hashlib
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from unified_sess.inference.files.marks import read_mark
from unified_sess.utils.audio import AUDIO_EXTENSIONS, is_audio
from unified_sess.utils.errors import UserError


class Job(NamedTuple):
    """An input file, and the folder (relative to the output folder) and name that its results start with.

    `label` is what messages call the file, where that is not its path.
    """

    source: Path
    folder: Path
    name: str
    label: str = ""

    def shown(self) -> str:
        """What messages call the file."""
        return self.label or str(self.source)


class Plan(NamedTuple):
    """What there is to do.

    jobs : list of Job
        In the order given, each file once.
    problems : list of str
        A line for each path that names nothing to separate.
    notes : list of str
        A line for each path of which something was left out.
    """

    jobs: list[Job]
    problems: list[str]
    notes: list[str]


def find_recordings(
    paths: Sequence[str | os.PathLike], output_dir: str | os.PathLike, further: Sequence[Job] = ()
) -> Plan:
    """Expand files, folders and globs.

    A file's results are named after it; those of a folder keep its tree. Where two inputs would have the same results,
    their extensions, then their folders, tell them apart. Results that this program wrote are never inputs.

    Arguments
    ---------
    paths : sequence of str
        As given on the command line. Folders are searched through, linked ones too, without hidden files and without
        `output_dir`.
    output_dir : str or Path
        Folder of the results.
    further : sequence of Job
        What is separated beside them, such as standard input.
    """
    found: dict[str, Job] = {}
    problems, notes = [], []
    for path in [str(os.fspath(path)) for path in paths]:
        left_out: Counter[str] = Counter()
        try:
            jobs = list(_expand(path, output_dir, left_out))
        except UserError as error:
            problems.append(str(error))
            continue
        for job in jobs:
            place = os.path.realpath(job.source)
            if found.setdefault(place, job) is not job:
                left_out["named twice"] += 1
        if left_out:
            notes.append(f"{path}: left out {', '.join(f'{n} {what}' for what, n in sorted(left_out.items()))}")
    return Plan(_told_apart([*found.values(), *further]), problems, notes)


def in_shard(job: Job, shard: tuple[int, int]) -> bool:
    """Whether a job belongs to shard `(k, n)`, k from 1 to n; of all n, each job belongs to one.

    It goes by the path as it was given, so that it does not matter which other files there are by now. What has no path of
    its own, standard input, belongs to the first.
    """
    number, count = shard
    if job.label:
        return number == 1
    digest = hashlib.blake2b(os.fsencode(os.path.normpath(job.source)), digest_size=8).digest()
    return int.from_bytes(digest, "big") % count == number - 1


def _expand(path, output_dir, left_out):
    """Jobs of one path of the command line; counts in `left_out` what is none, by its kind."""
    if os.path.isdir(path):
        files = _without_results(_audio(_walk(path, output_dir, left_out), left_out), left_out)
        if not files and not left_out["results of this program"]:
            raise UserError(f"{path} holds no audio ({', '.join(AUDIO_EXTENSIONS)})")
        return [_job(file, file.parent.relative_to(path)) for file in files]
    if os.path.exists(path) or not glob.has_magic(path):  # a missing file is reported when it is read
        return [_job(file) for file in _without_results([Path(path)], left_out)]
    matches = sorted(glob.glob(path, recursive=True))
    files = _without_results(_audio([Path(m) for m in matches if os.path.isfile(m)], left_out), left_out)
    jobs = {os.path.realpath(file): _job(file) for file in files}
    # What ends in `**` has found their files already.
    folders = [] if os.path.basename(path) == "**" else filter(os.path.isdir, matches)
    for folder in folders:  # searched through, as if it were named itself
        for file in _without_results(_audio(_walk(folder, output_dir, left_out), left_out), left_out):
            jobs.setdefault(os.path.realpath(file), _job(file, file.parent.relative_to(folder)))
    if not jobs and not left_out["results of this program"]:
        raise UserError(f"no audio file matches {path}")
    return list(jobs.values())


def _job(file, folder=Path()):
    name, dot, _ = file.name.rpartition(".")
    return Job(file, folder, name if dot else file.name)


def _walk(folder: str, output_dir: str | os.PathLike, left_out: Counter) -> Iterator[Path]:
    """Files below a folder in order of their names, without hidden ones and without those in `output_dir`.

    Linked files and folders come after all others, so that what can be reached in two ways goes by its own name.
    """

    def unreadable(error):
        left_out["folders that cannot be read"] += 1

    results, seen, links = os.path.realpath(output_dir), set(), [folder]
    while links:
        linked_files = []
        for root, folders, files in os.walk(links.pop(0), onerror=unreadable):
            place = os.path.realpath(root)
            if place == results or place in seen:
                if place != results:
                    left_out["links to what is searched anyway"] += 1
                folders.clear()
                continue
            seen.add(place)
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            links += [os.path.join(root, name) for name in folders if os.path.islink(os.path.join(root, name))]
            paths = [Path(root, name) for name in sorted(files) if not name.startswith(".")]
            linked_files += [path for path in paths if path.is_symlink()]
            yield from _new([path for path in paths if not path.is_symlink()], seen, left_out)
        yield from _new(linked_files, seen, left_out)


def _new(paths, seen, left_out):
    """The files that were not seen yet, in whatever way they were reached."""
    for path in paths:
        place = os.path.realpath(path)
        if place in seen:
            left_out["links to what is searched anyway"] += 1
        else:
            seen.add(place)
            yield path


def _audio(files, left_out):
    """The files with an extension of audio."""
    others = []
    for file in files:
        if is_audio(file.name):
            yield file
        else:
            others.append(file.suffix.lower() or "without extension")
    if others:
        kinds = sorted(set(others))
        shown = ", ".join(kinds[:6]) + (", ..." if len(kinds) > 6 else "")
        left_out[f"that {'is' if len(others) == 1 else 'are'} no audio ({shown})"] += len(others)


def _without_results(files, left_out):
    """The files that do not bear the mark of this program's results."""
    kept = []
    for file in files:
        if os.path.isfile(file) and read_mark(file) is not None:
            left_out["results of this program"] += 1
        else:
            kept.append(file)
    return kept


def _told_apart(jobs):
    """Jobs with results of different names: by extension, else by folder, else by number."""
    # In one folder, extensions may tell them apart again.
    for change in (_with_extension, _with_folder, _with_extension):
        jobs = [change(job, same) if len(same) > 1 else job for job, same in _with_rivals(jobs)]
    taken = set()
    for number, job in enumerate(jobs):
        repeat = 2
        while _key(jobs[number]) in taken:
            jobs[number] = job._replace(name=f"{job.name}_{repeat}")
            repeat += 1
        taken.add(_key(jobs[number]))
    return jobs


def _with_rivals(jobs):
    groups = {}
    for job in jobs:
        groups.setdefault(_key(job), []).append(job)
    return [(job, groups[_key(job)]) for job in jobs]


def _key(job):
    return str(job.folder / job.name).lower()  # some file systems take a.wav and A.wav for one name


def _with_extension(job, same):
    name, dot, _ = job.source.name.rpartition(".")
    if len({other.source.suffix for other in same}) < len(same) or job.name != (name if dot else job.source.name):
        return job  # no help, or done before
    return job._replace(name=job.name + job.source.suffix.replace(".", "_"))


def _with_folder(job, same):
    if job.label:  # standard input lies in no folder
        return job
    common = os.path.commonpath([os.path.realpath(other.source.parent) for other in same if not other.label])
    return job._replace(folder=Path(os.path.relpath(os.path.realpath(job.source.parent), common)) / job.folder)
