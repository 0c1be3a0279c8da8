"""Summaries of separated files, a line of JSON each, and joining those of many runs."""

import json
import os
from collections.abc import Sequence
from pathlib import Path

from unified_sess.utils.errors import UserError, writable_file
from unified_sess.utils.files import atomic_path

SEPARATED, KEPT, FAILED = "separated", "kept", "failed"


def summary_line(summary: dict) -> str:
    """A summary as a line of JSON; names that are not valid UTF-8 stay readable."""
    return json.dumps(summary, ensure_ascii=True, allow_nan=False)


def read_summaries(paths: Sequence[str | os.PathLike]) -> dict[str, dict]:
    """The summaries of several files of lines by their source; what was done counts more than what was kept.

    Raises
    ------
    UserError
        Naming the file and line that is no summary.
    """
    found: dict[str, dict] = {}
    for path in paths:
        try:
            lines = Path(path).read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"cannot read {path} ({getattr(error, 'strerror', None) or 'no text'})") from None
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                summary = json.loads(line)
            except (ValueError, RecursionError):
                summary = None
            if not isinstance(summary, dict) or not isinstance(summary.get("source"), str):
                if number == len(lines):
                    continue  # the last line of a run that was killed
                raise UserError(f"line {number} of {path} is no summary of unified-sess separate --json")
            before = found.get(summary["source"])
            if before is None or summary.get("status") != KEPT or before.get("status") == FAILED:
                found[summary["source"]] = summary
    return found


def join_summaries(
    paths: Sequence[str | os.PathLike], output: str | os.PathLike | None = None
) -> tuple[list[str], int]:
    """Join the summaries of many runs, such as those of a job array.

    Arguments
    ---------
    paths : sequence of str or Path
        Files that `unified-sess separate --json` wrote.
    output : str or Path
        File of all lines; None writes none.

    Returns
    -------
    lines : list of str
        For the user: how many recordings, how long, how many people, and what failed.
    failed : int
        How many failed.

    Raises
    ------
    UserError
        Naming the file that is no summary or cannot be written.
    """
    summaries = read_summaries(paths)
    if output is not None:
        writable_file(output)
        with atomic_path(output) as temporary:
            text = "".join(summary_line(summary) + "\n" for summary in summaries.values())
            Path(temporary).write_text(text, encoding="utf-8")
    whole = [summary for summary in summaries.values() if summary.get("status") != FAILED]
    seconds = sum(_number(summary.get("duration")) for summary in whole)
    people: dict[int, int] = {}
    for summary in whole:
        count = int(_number(summary.get("people")))
        people[count] = people.get(count, 0) + 1
    kept = sum(summary.get("status") == KEPT for summary in whole)
    lines = [f"{len(whole)} recording{'s' * (len(whole) != 1)} separated, {seconds / 3600:.2f} h of audio"]
    lines[0] += f"; of {kept} only what lies there is known" if kept else ""
    lines += [f"{people[count]} with {count} {'person' if count == 1 else 'people'}" for count in sorted(people)]
    lines += [
        f"failed: {summary['source']}: {summary.get('error', 'for an unknown reason')}"
        for summary in summaries.values()
        if summary.get("status") == FAILED
    ]
    return lines, len(summaries) - len(whole)


def _number(value):
    return value if isinstance(value, (int, float)) and not isinstance(value, bool) else 0
