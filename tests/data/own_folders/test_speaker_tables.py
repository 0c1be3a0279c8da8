"""Speaker tables as spreadsheets write them, and speakers that paths tell."""

import os

import pytest

from unified_sess.data.own_folders.speaker_tables import read_speakers, speaker_of
from unified_sess.utils.errors import UserError

ROWS = {"anna/day 1/a.wav": "Anna", "a,b/day 1/a.wav": "a,b", "tab\there/b.wav": "tab", "Bärbel/day 1/c.wav": "Bärbel"}


def test_speakers_of_paths():
    assert speaker_of("train/19/198/19-198-0001.flac") == "19"
    assert speaker_of("anna/deep/x.wav") == "anna"
    assert speaker_of("x.wav", {"x.wav": "bert"}) == "bert"
    with pytest.raises(UserError, match="no speaker folder"):
        speaker_of("x.wav")
    with pytest.raises(UserError, match=r"no row for a/x\.wav"):
        speaker_of("a/x.wav", {"y.wav": "bert"})


def test_a_speaker_table(tmp_path):
    table = tmp_path / "speakers.csv"
    table.write_text("\ufeffpath,speaker\n./a/x y.wav,anna\nü,björn\n", encoding="utf-8")  # as spreadsheets save it
    speakers = read_speakers(table)
    assert speaker_of("a/x y.wav", speakers) == "anna"
    assert speaker_of("deep/er/ü.flac", speakers) == "björn"


@pytest.mark.parametrize(
    "text, says",
    [
        (b"path,speaker\na.wav,x\n,y\n", "row 3: no path"),
        (b"path,speaker\na.wav,x\nb.wav\n", "row 3: no speaker"),
        (b"path,speaker\na.wav,x\na.wav,y\n", "row 3: a.wav has the speakers x and y"),
        (b"name;speaker\n", "first row must be path,speaker"),
        (b"", "first row must be path,speaker"),
        (b"path,speaker\n", "has no rows"),
        (b"path,speaker\n\x81.wav,x\n", "UTF-8"),
    ],
)
def test_a_bad_speaker_table_is_one_line(tmp_path, text, says):
    table = tmp_path / "speakers.csv"
    table.write_bytes(text)
    with pytest.raises(UserError, match=says) as caught:
        read_speakers(table)
    assert str(table) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|", ", "])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "cp1252"])
@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
def test_tables_of_every_spreadsheet(tmp_path, delimiter, encoding, newline):
    def quoted(cell):
        return f'"{cell}"' if any(c in cell for c in ",;\t|") else cell

    lines = [delimiter.join(map(quoted, row)) for row in [("Path", "Speaker"), *ROWS.items()]]
    (tmp_path / "t.csv").write_bytes((newline.join(lines) + newline).encode(encoding))
    speakers = read_speakers(tmp_path / "t.csv")
    assert {path: speaker_of(path, speakers, tmp_path) for path in ROWS} == ROWS


@pytest.mark.parametrize(
    "written",
    [
        lambda path, folder: "./" + path,
        lambda path, folder: path.replace("/", "\\"),
        lambda path, folder: os.path.abspath(folder / path),
        lambda path, folder: f"/Users/me/{folder.name}/{path}",
        lambda path, folder: f"/Volumes/moved/and renamed/{path}",
        lambda path, folder: f"D:\\data\\{folder.name}\\" + path.replace("/", "\\"),
    ],
)
def test_paths_of_other_places_and_systems(tmp_path, written):
    folder = tmp_path / "speech"
    lines = ["path;speaker", *(f"{written(path, folder)};{who}" for path, who in ROWS.items())]
    (tmp_path / "t.csv").write_text("\n".join(lines), encoding="utf-8")
    speakers = read_speakers(tmp_path / "t.csv")
    assert {path: speaker_of(path, speakers, folder) for path in ROWS} == ROWS


def test_more_columns_empty_lines_and_a_line_that_names_the_delimiter(tmp_path):
    (tmp_path / "t.csv").write_text("sep=;\nid; SPEAKER ;path\n1;anna;a.wav\n;;\n\n2;bert;b.wav\n;;c.wav\n")
    with pytest.raises(UserError, match="row 7: no speaker"):
        read_speakers(tmp_path / "t.csv")
    (tmp_path / "t.csv").write_text("sep=;\nid; SPEAKER ;path\n1;anna;a.wav\n;;\n\n2;bert;b.wav\n")
    assert read_speakers(tmp_path / "t.csv") == {"a.wav": "anna", "b.wav": "bert"}


def test_the_same_end_of_two_paths_tells_no_speaker(tmp_path):
    (tmp_path / "t.csv").write_text("path,speaker\n/x/anna/day 1/a.wav,anna\n/x/bert/day 1/a.wav,bert\n")
    speakers = read_speakers(tmp_path / "t.csv")
    assert speaker_of("bert/day 1/a.wav", speakers, "elsewhere") == "bert"
    with pytest.raises(UserError, match="no row for day 1/a.wav"):
        speaker_of("day 1/a.wav", speakers, "elsewhere")
