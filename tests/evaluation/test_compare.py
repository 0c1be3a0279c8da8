"""Comparison: paired, on the same mixtures, with the sign as said."""

import csv

import numpy as np
import pytest

from unified_sess.evaluation.compare import compare, comparison_lines, run_compare
from unified_sess.evaluation.results import Results
from unified_sess.utils.errors import UserError


def write(folder, gains, inputs=None, first=0):
    """Results with the given SI-SNRi; `inputs` is the SI-SNR of the mixtures."""
    inputs = np.linspace(-5, 0, len(gains)) if inputs is None else inputs
    rows = [
        {"ID": f"u{first + k}", "si_snr": x + g, "si_snri": g, "sdri": None if k == 0 else g + 1}
        for k, (g, x) in enumerate(zip(gains, inputs))
    ]
    folder.mkdir()
    Results(rows, ["si_snr", "si_snri", "sdri"]).save(folder)
    return folder


@pytest.fixture
def folders(tmp_path):
    generator = np.random.default_rng(0)
    gains = generator.normal(10, 4, 40)
    return [write(tmp_path / "base", gains), write(tmp_path / "better", gains + generator.normal(0.5, 0.2, 40))]


def test_pairing_finds_a_small_difference_that_the_spread_of_the_utterances_hides(folders):
    table = compare(folders).query("metric == 'si_snri'").set_index("results")
    assert table.loc["better", "difference"] == pytest.approx(0.5, abs=0.1)
    assert 0.35 < table.loc["better", "low"] < table.loc["better", "difference"] < table.loc["better", "high"] < 0.65
    assert np.isnan(table.loc["base", "difference"])


def test_the_difference_turns_its_sign_with_the_order(folders):
    one, two = (compare(order).dropna(subset="low").set_index("metric") for order in (folders, folders[::-1]))
    assert one.loc["si_snri", "difference"] == pytest.approx(-two.loc["si_snri", "difference"])


def test_undefined_utterances_leave_the_pairs(folders):
    table = compare(folders)
    assert set(table.query("metric == 'si_snri'")["utterances"]) == {40}
    assert set(table.query("metric == 'sdri'")["utterances"]) == {39}


def test_only_common_mixtures_count_and_the_others_are_said(folders, tmp_path):
    inputs = np.linspace(-5, 0, 40)
    third = write(tmp_path / "third", np.full(30, 9.0), inputs[10:], first=10)
    table = compare([*folders, third])
    assert set(table.query("metric == 'si_snri'")["utterances"]) == {30}
    assert any("10 mixtures of" in line and "base" in line for line in comparison_lines(table))


def test_other_mixtures_under_the_same_names_are_refused(folders, tmp_path):
    other = write(tmp_path / "other", np.full(40, 9.0), np.linspace(-4, 1, 40))
    with pytest.raises(UserError, match="different mixtures under the name u0"):
        compare([folders[0], other])


@pytest.mark.parametrize(
    "choose, message",
    [
        (lambda f, t: f[:1], "at least two"),
        (lambda f, t: [f[0], f[0]], "named twice"),
        (lambda f, t: [f[0], t / "missing"], "holds no test_results.csv"),
        (lambda f, t: [f[0], write(t / "x", [1.0], first=900)], "no mixture in common"),
    ],
)
def test_what_cannot_be_compared_is_said_in_one_line(folders, tmp_path, choose, message):
    with pytest.raises(UserError, match=message) as error:
        compare(choose(folders, tmp_path))
    assert "\n" not in str(error.value)


def test_the_command_prints_and_writes_the_table(folders, tmp_path, capsys):
    run_compare(folders, tmp_path / "out")
    assert "SI-SNRi (dB), 40 utterances" in capsys.readouterr().out
    rows = list(csv.DictReader((tmp_path / "out" / "comparison.csv").open(encoding="utf-8")))
    assert rows[0]["difference"] == "" and float(rows[1]["low"]) > 0
