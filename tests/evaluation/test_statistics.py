"""Intervals: how often they hold the truth when speakers and seeds have effects of their own."""

import numpy as np
import pytest

from unified_sess.evaluation.compare import compare
from unified_sess.evaluation.results import Results
from unified_sess.evaluation.statistics import FEWEST_SEEDS, interval_over_trainings, mean_interval

TRIALS = 300  # of which 95 % are 285, give or take 4


def talkers(random, speakers, mixtures, at_once):
    """Who talks in each mixture, as numbers `[mixtures, at_once]`."""
    return np.argsort(random.random((mixtures, speakers)), axis=1)[:, :at_once]


def coverage(speakers, mixtures, at_once, of_speakers, own, seed=0):
    """Share of the trials in which the interval holds 0, the mean of all that could be drawn."""
    random, hits = np.random.default_rng(seed), 0
    for _ in range(TRIALS):
        people = talkers(random, speakers, mixtures, at_once)
        effects = random.normal(0, of_speakers, speakers)
        values = effects[people].sum(1) + random.normal(0, own, mixtures)
        low, high = mean_interval(values, [set(map(str, row)) for row in people.tolist()])
        hits += low < 0 < high
    return hits / TRIALS


@pytest.mark.parametrize(
    "speakers, mixtures, at_once, of_speakers, own",
    [(24, 300, 2, 1.0, 3.0), (24, 300, 2, 2.0, 2.0), (24, 300, 3, 1.0, 3.0), (24, 300, 2, 0.0, 3.0), (40, 60, 2, 1.0, 2.0)],
)  # fmt: skip
def test_300_mixtures_of_24_speakers_are_not_300_of_600(speakers, mixtures, at_once, of_speakers, own):
    assert 0.915 <= coverage(speakers, mixtures, at_once, of_speakers, own) <= 0.99


def test_eight_speakers_are_few_and_their_interval_is_wide():
    assert coverage(8, 60, 2, 1.0, 2.0) > 0.87  # drawing mixtures alone: 52 %


def test_taking_the_mixtures_as_independent_is_what_was_wrong():
    random, hits, wider = np.random.default_rng(0), 0, []
    for _ in range(TRIALS):
        people = talkers(random, 24, 300, 2)
        values = random.normal(0, 1, 24)[people].sum(1) + random.normal(0, 3, 300)
        alone, known = mean_interval(values), mean_interval(values, [set(map(str, row)) for row in people.tolist()])
        hits += alone[0] < 0 < alone[1]
        wider.append(np.diff(known)[0] / np.diff(alone)[0])
    assert hits / TRIALS < 0.75 and np.median(wider) > 1.5


@pytest.mark.parametrize("seeds", [5, 8])
def test_seeds_and_speakers_are_both_drawn_anew(seeds):
    random, hits = np.random.default_rng(0), 0
    for _ in range(TRIALS):
        people = talkers(random, 24, 100, 2)
        values = random.normal(0, 0.5, 24)[people].sum(1) + random.normal(0, 0.3, (seeds, 1))
        values = values + random.normal(0, 1, (seeds, 100))
        low, high = interval_over_trainings(values, [set(map(str, row)) for row in people.tolist()])
        hits += low < 0 < high
    assert 0.92 <= hits / TRIALS <= 0.995


def test_two_or_three_seeds_have_no_interval():
    for seeds in range(1, FEWEST_SEEDS):
        assert interval_over_trainings(np.random.default_rng(0).normal(size=(seeds, 50))) == (None, None)


def test_independent_values_have_students_interval():
    from scipy.stats import bootstrap, ttest_1samp

    values = np.random.default_rng(0).normal(3, 2, 60)
    expected = ttest_1samp(values, 0).confidence_interval(0.95)
    assert mean_interval(values) == pytest.approx((expected.low, expected.high))
    assert mean_interval(values, [{f"a{k}", f"b{k}"} for k in range(60)]) == pytest.approx(mean_interval(values))
    drawn = bootstrap((values,), np.mean, rng=0).confidence_interval  # a peer's, which needs independence
    assert mean_interval(values) == pytest.approx((drawn.low, drawn.high), abs=0.1)


def test_a_speaker_who_talks_always_gives_no_interval_of_others():
    values = np.array([1.0, 2.0, 3.0, 2.5])
    assert mean_interval(values, [{"a", "b"}] * 4) == (None, None)
    assert mean_interval(np.array([1.0, np.nan])) == (None, None)
    assert mean_interval(np.full(4, 7.0), [{"a"}, {"a"}, {"b"}, {"c"}]) == pytest.approx((7, 7))


def test_undefined_values_and_the_order_of_mixtures_do_not_matter():
    random = np.random.default_rng(0)
    values, people = random.normal(size=50), [set(map(str, row)) for row in talkers(random, 9, 50, 2).tolist()]
    order = random.permutation(50)
    shuffled = mean_interval(values[order], [people[k] for k in order])
    assert mean_interval(values, people) == pytest.approx(shuffled)
    holes = mean_interval(np.append(values, np.nan), [*people, {"stranger"}])
    assert holes == pytest.approx(shuffled)


def test_a_comparison_knows_the_speakers(tmp_path):
    random = np.random.default_rng(0)
    people = talkers(random, 10, 200, 2)
    better = random.normal(0, 1, 10)[people].sum(1)
    for name, gain in (("one", 0 * better), ("two", better)):
        (tmp_path / name).mkdir()
        rows = [
            {"ID": f"{a}-1-{k}_{b}-1-{k}", "si_snr": g, "si_snri": g} for k, ((a, b), g) in enumerate(zip(people, gain))
        ]
        Results(rows, ["si_snr", "si_snri"]).save(tmp_path / name)
    row = compare([tmp_path / "one", tmp_path / "two"]).query("metric == 'si_snri'").iloc[1]
    assert row["high"] - row["low"] > 3 * np.diff(mean_interval(better))[0]
