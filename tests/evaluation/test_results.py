"""Results: means without the undefined, intervals, groups, files."""

import csv
import json

import pytest

from unified_sess.evaluation.results import Results, read_results
from unified_sess.evaluation.speakers import mixture_genders, mixture_speakers
from unified_sess.evaluation.tables import by_input_snr, by_label
from unified_sess.utils.errors import UserError


def results():
    rows = [
        {"ID": "a", "si_snri": 8.0, "sdri": None, "input_snr": -3.0, "reasons": {"sdri": "too short"}, "genders": "FM"},
        {"ID": "b", "si_snri": 10.0, "sdri": 3.0, "input_snr": 4.99, "reasons": {}, "genders": "FF"},
        {"ID": "c", "si_snri": 12.0, "sdri": 5.0, "input_snr": 5.0, "reasons": {}, "genders": ""},
        {
            "ID": "d",
            "si_snri": 14.0,
            "sdri": None,
            "input_snr": 99.0,
            "reasons": {"sdri": "too short"},
            "genders": "FM",
        },
    ]
    return Results(rows, ["si_snri", "sdri", "input_snr"])


def test_the_table_ends_with_the_means_and_undefined_cells_are_empty(tmp_path):
    results().save(tmp_path)
    table = list(csv.DictReader((tmp_path / "test_results.csv").open(encoding="utf-8")))
    assert [row["ID"] for row in table] == ["a", "b", "c", "d", "mean"]
    assert table[0]["sdri"] == ""
    assert float(table[-1]["si_snri"]) == 11 and float(table[-1]["sdri"]) == 4


def test_the_summary_counts_the_undefined_with_their_reasons(tmp_path):
    results().save(tmp_path)
    summary = json.loads((tmp_path / "test_results.json").read_text(encoding="utf-8"))
    assert summary["utterances"] == 4
    assert summary["metrics"]["sdri"]["undefined"] == {"too short": 2} and summary["metrics"]["sdri"]["count"] == 2
    low, high = summary["metrics"]["si_snri"]["interval_95"]
    assert low < 8 < 11 < 14 < high  # four values say little


def test_a_metric_that_is_never_defined_has_no_mean(tmp_path):
    Results([{"ID": "a", "sdri": None}], ["sdri"]).save(tmp_path)
    assert read_results(tmp_path).means() == {"sdri": None}
    assert "NaN" not in (tmp_path / "test_results.json").read_text(encoding="utf-8")


def test_results_are_read_as_they_were_written(tmp_path):
    results().save(tmp_path)
    loaded = read_results(tmp_path)
    assert loaded.metrics == results().metrics
    assert loaded.means() == results().means()
    assert [row["genders"] for row in loaded.rows] == ["FM", "FF", "", "FM"]
    assert loaded.metric_summary() == results().metric_summary()  # reasons included


@pytest.mark.parametrize("text", ["", "ID,si_snri\n", "ID,si_snri\na,x\n", "name,si_snri\na,1\n"])
def test_a_damaged_table_is_named(tmp_path, text):
    (tmp_path / "test_results.csv").write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match="test_results.csv is no table of results"):
        read_results(tmp_path)
    with pytest.raises(UserError, match="holds no test_results.csv"):
        read_results(tmp_path / "elsewhere")


def test_groups_part_the_utterances_at_five_decibels():
    groups = by_input_snr(results())
    assert [(g.name, g.utterances) for g in groups] == [
        ("-5 to 0 dB", 1), ("0 to 5 dB", 1), ("5 to 10 dB", 1), ("15 dB and more", 1)
    ]  # fmt: skip
    assert groups[1].metrics["si_snri"]["mean"] == 10
    genders = by_label(results(), "genders")
    assert [(g.name, g.utterances, g.metrics["si_snri"]["mean"]) for g in genders] == [("FF", 1, 10), ("FM", 2, 11)]


@pytest.mark.parametrize(
    "ids, speakers",
    [
        (["14-1-0_19-2-0", "19-2-0_7-3-0_14"], [{"14", "19"}, {"19", "7"}]),
        (["050a050h_1.9_22go010r_-1.9", "011a0101_0_01ao030i_0"], [{"050", "22g"}, {"011", "01a"}]),
        (["0000_3-1_12-0", "0001_12-4_3-2"], [{"3", "12"}, {"12", "3"}]),
    ],
)
def test_speakers_are_known_by_the_names_of_corpora(ids, speakers):
    assert mixture_speakers(ids) == speakers
    assert mixture_speakers([*ids, "u7"]) is None  # one that nobody knows: nothing is said of any


def test_speakers_of_the_table_are_kept_and_believed(tmp_path):
    Results([{"ID": "a", "x": 1.0, "speakers": "bob eve"}, {"ID": "b", "x": 2.0, "speakers": "eve"}], ["x"]).save(
        tmp_path
    )
    assert read_results(tmp_path).speakers() == [{"bob", "eve"}, {"eve"}]
    assert results().speakers() is None


def test_genders_come_from_speakers_beside_the_corpus_or_from_metadata(tmp_path):
    root = tmp_path / "Libri2Mix" / "wav8k" / "min"
    root.mkdir(parents=True)
    ids = ["14-1-0_19-2-0", "14-1-0_7-3-0", "19-2-0_19-4-0_14"]  # the last one ends in the mixture's own number
    assert mixture_genders(ids, root) == {}
    (tmp_path / "LibriSpeech").mkdir()
    speakers = tmp_path / "LibriSpeech" / "SPEAKERS.TXT"
    speakers.write_text(
        ";ID  |SEX| SUBSET |MINUTES| NAME\n14   | F | x | 25 | A |B\n19 | M | x | 2 | C\n", encoding="utf-8"
    )
    assert mixture_genders(ids, root) == {"14-1-0_19-2-0": "FM", "19-2-0_19-4-0_14": "MM"}
    metadata = tmp_path / "Libri2Mix" / "metadata"
    metadata.mkdir()
    text = "mixture_ID,speaker_1_ID,speaker_1_sex,speaker_2_ID,speaker_2_sex\n14-1-0_7-3-0,14,F,7,F\n"
    (metadata / "info.csv").write_text(text, encoding="utf-8")
    assert mixture_genders(ids, root) == {"14-1-0_19-2-0": "FM", "14-1-0_7-3-0": "FF", "19-2-0_19-4-0_14": "MM"}
    with pytest.raises(UserError, match="no SPEAKERS.TXT"):
        mixture_genders(ids, root, tmp_path / "nothing.txt")


def test_genders_of_real_speakers(corpora, tmp_path):
    ids = ["60-121082-0000_103-1240-0000"]  # the name of speaker 60 holds the separator
    assert mixture_genders(ids, tmp_path, corpora / "LibriSpeech") == {ids[0]: "FM"}
