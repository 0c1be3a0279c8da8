"""Who speaks in a mixture, and of which gender, as far as its name and the corpus say."""

import csv
import re
from pathlib import Path

from unified_sess.utils.errors import UserError

# LibriMix: speaker-chapter-utterance of each; a mixture may carry a number of its own behind the utterances.
UTTERANCE = re.compile(r"(?:^|_)(\d+)-\d+-\d+(?=_|$)")
DEMO = re.compile(r"(?<=_)(\d+)-\d+(?=_|$)")  # the demo corpus: number, then speaker-sentence of each
NAMES = (
    UTTERANCE,
    re.compile(r"(?:^|_)([0-9a-z]{3})[0-9a-z]{5}_-?\d+(?:\.\d+)?(?=_|$)"),  # WHAM!: utterance of WSJ, level
    DEMO,
)
SEARCH_DEPTH = 4  # folders above the mixtures, far enough from `.../Libri2Mix/wav8k/min` to its neighbours


def mixture_speakers(ids: list[str]) -> list[frozenset[str]] | None:
    """Who speaks in each mixture, by the names of LibriMix, WHAM! and the demo corpus.

    None where not every name is of one such kind: then nothing is known of whom mixtures share.

    Example
    -------
    >>> [sorted(people) for people in mixture_speakers(["14-1-0_19-2-0", "19-2-0_19-4-0_7"])]
    [['14', '19'], ['19']]
    """
    for pattern in NAMES:
        speakers = [frozenset(pattern.findall(name)) for name in ids]
        if speakers and all(speakers):
            return speakers
    return None


def mixture_genders(ids: list[str], data_root: str | Path, speakers: str | Path | None = None) -> dict[str, str]:
    """Genders of each mixture, sorted, such as `FM`.

    Known from a `SPEAKERS.TXT` as LibriSpeech has it (the speaker is the first number of an utterance) or from the columns
    `speaker_1_sex`, ... of a LibriMix metadata file, found in the data folder, above it or beside it.

    Arguments
    ---------
    ids : list of str
        Ids of mixtures, such as `4077-13754-0001_5142-33396-0065`.
    data_root : str or Path
        Folder of the corpus.
    speakers : str or Path
        A `SPEAKERS.TXT` elsewhere, or the folder that holds it.

    Returns
    -------
    genders : dict
        Of the mixtures that are known.

    Raises
    ------
    UserError
        When `speakers` is no such file.
    """
    known = {} if speakers is None else _of_speakers(ids, _given_speakers(Path(speakers)))
    folders = [Path(data_root).resolve()]
    folders += list(folders[0].parents)[:SEARCH_DEPTH]
    for folder in folders:
        for path in (folder / "SPEAKERS.TXT", folder / "LibriSpeech" / "SPEAKERS.TXT"):
            if path.is_file():
                known = _of_speakers(ids, read_sexes(path)) | known
        for path in sorted(folder.glob("metadata/*.csv")):
            known = _of_metadata(path) | known
    return {name: known[name] for name in ids if name in known}


def read_sexes(path: str | Path) -> dict[str, str]:
    """Sex of every speaker in a `SPEAKERS.TXT`, by id."""
    lines = Path(path).read_text(encoding="utf-8", errors="replace").splitlines()
    cells = [[cell.strip() for cell in line.split("|")] for line in lines if line and not line.startswith(";")]
    return {row[0]: row[1] for row in cells if len(row) > 1 and row[1] in ("F", "M")}


def _given_speakers(path):
    path = path / "SPEAKERS.TXT" if path.is_dir() else path
    sexes = read_sexes(path) if path.is_file() else {}
    if not sexes:
        raise UserError(f"{path} is no SPEAKERS.TXT of LibriSpeech: give that file")
    return sexes


def _of_speakers(ids, sexes):
    speakers = {name: next(filter(None, (p.findall(name) for p in (UTTERANCE, DEMO))), []) for name in ids}
    speakers = {name: found for name, found in speakers.items() if found and all(s in sexes for s in found)}
    return {name: "".join(sorted(sexes[s] for s in found)) for name, found in speakers.items()}


def _of_metadata(path):
    with open(path, encoding="utf-8", errors="replace", newline="") as file:
        reader = csv.DictReader(file)
        columns = [name for name in reader.fieldnames or [] if name.startswith("speaker_") and name.endswith("_sex")]
        if not columns or "mixture_ID" not in reader.fieldnames:
            return {}
        return {row["mixture_ID"]: "".join(sorted((row[name] or "?")[0].upper() for name in columns)) for row in reader}
