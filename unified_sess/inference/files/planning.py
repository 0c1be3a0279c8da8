"""Which files a command separates, and where their results go."""

import glob
import os
from pathlib import Path
from typing import NamedTuple

from unified_sess.utils.audio import AUDIO_EXTENSIONS
from unified_sess.utils.errors import UserError


class Job(NamedTuple):
    """An input file, and the folder (relative to the output folder) and name that its results start with."""

    source: Path
    folder: Path
    name: str


def find_recordings(paths, output_dir):
    """Expand files, folders and globs.

    A file's results are named after it; those of a folder keep its tree. Where two inputs would have the same results,
    their extensions, then their folders, tell them apart.

    Arguments
    ---------
    paths : list of str
        As given on the command line. Folders are searched through, without hidden files and without `output_dir`.
    output_dir : str or Path
        Folder of the results.

    Returns
    -------
    jobs : list of Job
        In the order given, each file once.
    problems : list of str
        A line for each path that names nothing to separate.
    """
    found, problems = {}, []
    for path in paths:
        try:
            for job in _expand(str(path), output_dir):
                found.setdefault((os.path.realpath(job.source), job.folder, job.name), job)
        except UserError as error:
            problems.append(str(error))
    return _told_apart(list(found.values())), problems


def _expand(path, output_dir):
    """Jobs of one path of the command line."""
    if os.path.isdir(path):
        files = list(_walk(path, output_dir))
        if not files:
            raise UserError(f"{path} holds no audio ({', '.join(AUDIO_EXTENSIONS)})")
        return [_job(file, file.parent.relative_to(path)) for file in files]
    if os.path.exists(path) or not glob.has_magic(path):  # a missing file is reported when it is read
        return [_job(Path(path))]
    files = [Path(match) for match in sorted(glob.glob(path, recursive=True)) if os.path.isfile(match)]
    files = [file for file in files if _is_audio(file.name)]
    if not files:
        raise UserError(f"no audio file matches {path}")
    return [_job(file) for file in files]


def _job(file, folder=Path()):
    name, dot, _ = file.name.rpartition(".")
    return Job(file, folder, name if dot else file.name)


def _walk(folder, output_dir):
    """Audio files below a folder in order of their names, without hidden ones and without those in `output_dir`."""
    output_dir = os.path.realpath(output_dir)
    for root, folders, files in os.walk(folder):
        folders[:] = sorted(
            name
            for name in folders
            if not name.startswith(".") and os.path.realpath(os.path.join(root, name)) != output_dir
        )
        yield from (Path(root, name) for name in sorted(files) if not name.startswith(".") and _is_audio(name))


def _is_audio(name):
    return name.lower().endswith(AUDIO_EXTENSIONS)


def _told_apart(jobs):
    """Jobs with results of different names: by extension, else by folder, else by number."""
    for change in (
        _with_extension,
        _with_folder,
        _with_extension,
    ):  # in one folder, extensions may tell them apart again
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
    if len({other.source.suffix for other in same}) < len(same):
        return job
    return job._replace(name=job.name + job.source.suffix.replace(".", "_"))


def _with_folder(job, same):
    common = os.path.commonpath([os.path.realpath(other.source.parent) for other in same])
    return job._replace(folder=Path(os.path.relpath(os.path.realpath(job.source.parent), common)) / job.folder)
