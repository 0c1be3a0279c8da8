"""What an interrupted evaluation has finished."""

import contextlib
import json
from pathlib import Path

from unified_sess.utils.files import atomic_path


class Partial:
    """Finished utterances of an interrupted evaluation: a line of JSON each, after a line with the fingerprint.

    Arguments
    ---------
    path : Path
        The file; what it holds under another fingerprint is dropped.
    fingerprint : str
        What the values depend on; None keeps nothing of an earlier run.
    """

    def __init__(self, path: Path, fingerprint: str | None) -> None:
        self.path, self.done = path, {}
        lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
        same = fingerprint is not None and lines[:1] == [json.dumps(fingerprint)]
        for line in lines[1:] if same else []:
            with contextlib.suppress(ValueError):  # the last line may be cut
                measured = json.loads(line)
                self.done[measured["ID"]] = measured
        with atomic_path(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
            for entry in (fingerprint, *self.done.values()):
                print(json.dumps(entry), file=file)

    def __enter__(self) -> "Partial":
        self.file = open(self.path, "a", encoding="utf-8")
        return self

    def add(self, measured: dict) -> None:
        """Keep the measures of an utterance."""
        self.done[measured["ID"]] = measured
        print(json.dumps(measured), file=self.file, flush=True)

    def __exit__(self, *_: object) -> None:
        self.file.close()
