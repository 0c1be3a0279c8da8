"""Who speaks in a file: a table as spreadsheets write it, LibriSpeech's file names, or the first folder."""

import csv
import io
import itertools
import os
import re
from pathlib import Path

from unified_sess.utils.errors import UserError

DELIMITERS = ",;\t|"
COLUMNS = ("path", "speaker")
DRIVE = re.compile(r"[A-Za-z]:/")


def speaker_of(path: str, speakers: dict[str, str] | None = None, folder: str | os.PathLike | None = None) -> str:
    """Speaker of a path relative to a folder: from a table, from LibriSpeech's file names, else the first folder.

    Arguments
    ---------
    path : str
        Relative to the folder.
    speakers : dict
        From `read_speakers`; None goes by names and folders.
    folder : str or Path
        The speech folder, for tables with absolute paths.

    Raises
    ------
    UserError
        When the path tells no speaker.
    """
    parts = path.split(os.sep)
    name = parts[-1]
    stem = os.path.splitext(name)[0]
    if speakers is not None:
        found = next((speakers[key] for key in _keys(path, folder) if key in speakers), None)
        if found is None:
            raise UserError(
                f"the speaker table has no row for {path}: add one, or move the file away "
                "(letters beyond ASCII need a table saved as UTF-8)"
            )
        return found
    fields = stem.split("-")
    if len(parts) >= 3 and len(fields) == 3 and parts[-3:-1] == fields[:2]:
        return fields[0]
    if len(parts) < 2:
        raise UserError(f"{path} has no speaker folder: use one folder a speaker, or give a CSV with path,speaker")
    return parts[0]


def _keys(path, folder):
    """Ways in which a table may name a file, the most certain one first."""
    yield path
    if folder is not None:
        full = os.path.join(folder, path)
        yield from dict.fromkeys((os.path.abspath(full), os.path.realpath(full), os.path.normpath(full)))
        yield f"{os.path.basename(os.path.abspath(folder))}/{path}"  # a table of several folders beside each other
        # A table made where the folder lay elsewhere, or on another system, names the same end of the path.
        yield f"*/{os.path.basename(os.path.abspath(folder))}/{path}"
        yield f"*/{path}"
    yield os.path.basename(path)
    yield os.path.splitext(os.path.basename(path))[0]


def read_speakers(path: str | os.PathLike) -> dict[str, str]:
    """Read a table of two columns, path and speaker, as a dictionary.

    A path is relative to the speech folder, or absolute; a file name alone, with or without extension, will do where it
    is unique. Read are UTF-8, UTF-16 and Windows-1252, with commas, semicolons, tabs or bars, any case of the headings,
    and either kind of slash.

    Raises
    ------
    UserError
        Naming the file, and the row that cannot be used.
    """
    speakers: dict[str, str] = {}
    others: dict[str, str | None] = {}  # None where two speakers have the same
    try:
        rows = _rows(_text(path))
        columns = [name.strip().lower() for _, row in itertools.islice(rows, 1) for name in row]
        if not set(COLUMNS) <= set(columns):
            raise UserError(f"{path} is no speaker table: its first row must be path,speaker")
        places = [columns.index(name) for name in COLUMNS]
        for number, row in rows:
            if not any(cell.strip() for cell in row):
                continue
            name, speaker = (row[k].strip() if k < len(row) else "" for k in places)
            if not name or not speaker:
                raise UserError(f"{path} row {number}: no {'speaker' if name else 'path'}")
            name = os.path.normpath(name)
            if speakers.setdefault(name, speaker) != speaker:
                raise UserError(f"{path} row {number}: {name} has the speakers {speakers[name]} and {speaker}")
            for key in _other_spellings(name):
                if others.setdefault(key, speaker) != speaker:
                    others[key] = None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"cannot read the speaker table {path} ({reason}): give a CSV in UTF-8") from None
    if not speakers:
        raise UserError(f"{path} has no rows: name the speaker of every file")
    return {key: speaker for key, speaker in others.items() if speaker} | speakers


def _text(path):
    data = Path(path).read_bytes()
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return data.decode("utf-16")
    if b"\0" in data[:4]:
        return data.decode("utf-16-le" if data[1:2] == b"\0" else "utf-16-be")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return data.decode("cp1252")


def _rows(text):
    """Yields `(line, cells)`; the delimiter is the one that parts the headings."""
    skip = 0
    start = re.match(r"sep=(.)\r?\n?", text, re.IGNORECASE)  # how some spreadsheets say it
    if start:
        text, skip = text[start.end() :], 1
    heading = re.split("[\r\n]", text.lstrip(), maxsplit=1)[0].lower()
    delimiter = start.group(1) if start else max(DELIMITERS, key=heading.count)
    rows = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=delimiter != "\t")
    for row in rows:
        yield rows.line_num + skip, row


def _other_spellings(name):
    """A row's path with slashes, and the ends of an absolute one, which hold where its folder lies elsewhere."""
    slashed = os.path.normpath(name.replace("\\", "/"))
    yield slashed
    if slashed.startswith("/") or DRIVE.match(slashed):
        parts = slashed.split("/")
        yield from ("*/" + "/".join(parts[k:]) for k in range(1, len(parts) - 1))
