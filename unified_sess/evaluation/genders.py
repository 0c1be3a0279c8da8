"""Which genders speak in a mixture, as far as the corpus says."""

import csv
import re
from pathlib import Path

from unified_sess.utils.errors import UserError

# A mixture may carry a number of its own behind the utterances.
UTTERANCE = re.compile(r"(?:^|_)(\d+)-\d+-\d+(?=_|$)")
SEARCH_DEPTH = 4  # folders above the mixtures, far enough from `.../Libri2Mix/wav8k/min` to its neighbours


def mixture_genders(ids, data_root, speakers=None):
    """Genders of each mixture, sorted, such as `FM`.

    Known from LibriSpeech's `SPEAKERS.TXT` (the speaker is the first number of an utterance) or from the columns
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
                known = _of_speakers(ids, read_speakers(path)) | known
        for path in sorted(folder.glob("metadata/*.csv")):
            known = _of_metadata(path) | known
    return {name: known[name] for name in ids if name in known}


def read_speakers(path):
    """Sex of every speaker in a `SPEAKERS.TXT`, by id."""
    lines = Path(path).read_text(encoding="utf-8", errors="replace").splitlines()
    cells = [[cell.strip() for cell in line.split("|")] for line in lines if line and not line.startswith(";")]
    return {row[0]: row[1] for row in cells if len(row) > 1 and row[1] in ("F", "M")}


def _given_speakers(path):
    path = path / "SPEAKERS.TXT" if path.is_dir() else path
    sexes = read_speakers(path) if path.is_file() else {}
    if not sexes:
        raise UserError(f"{path} is no SPEAKERS.TXT of LibriSpeech: give that file")
    return sexes


def _of_speakers(ids, sexes):
    speakers = {name: UTTERANCE.findall(name) for name in ids}
    speakers = {name: found for name, found in speakers.items() if found and all(s in sexes for s in found)}
    return {name: "".join(sorted(sexes[s] for s in found)) for name, found in speakers.items()}


def _of_metadata(path):
    with open(path, encoding="utf-8", errors="replace", newline="") as file:
        reader = csv.DictReader(file)
        columns = [name for name in reader.fieldnames or [] if name.startswith("speaker_") and name.endswith("_sex")]
        if not columns or "mixture_ID" not in reader.fieldnames:
            return {}
        return {row["mixture_ID"]: "".join(sorted((row[name] or "?")[0].upper() for name in columns)) for row in reader}
