"""Distance from a front: known geometry, first-order sums over mixtures, and intervals that hold the truth."""

import numpy as np
import pytest

from unified_sess.evaluation.fronts import front_distance, front_of
from unified_sess.evaluation.statistics import (
    SeedVariance,
    error_over_trainings,
    interval_over_trainings,
    pooled_seed_variance,
    smallest_detectable,
)

POINTS = np.array([[0.0, 3.0], [1.0, 2.5], [2.0, 1.0], [1.5, 0.3], [0.5, 1.0]])  # the last two lie well inside


def test_the_front_is_what_no_point_beats():
    assert front_of(POINTS) == [0, 1, 2]
    assert front_of(POINTS[::-1]) == [4, 3, 2]
    assert front_of(np.zeros((3, 2))) == [0]  # of equal points one


@pytest.mark.parametrize(
    "point, distance",
    [
        ((1.0, 2.5), 0),  # a corner
        ((-1.0, 3.5), 0.5),  # above the level part
        ((-1.0, 1.0), -2.0),  # below it
        ((2.5, 0.0), 0.5),  # right of the part that goes straight down
        ((2.0, 0.5), 0),
        ((1.5, 1.75), 0),  # on the line between two points
        ((1.5, 2.0), 0.25 * 2 / np.sqrt(13)),  # a quarter above it, whose slope is -3/2
        ((1.0, 2.0), -0.5 * 2 / np.sqrt(13)),
    ],
)
def test_distances_of_known_geometry(point, distance):
    assert front_distance(np.array(point), POINTS).distance == pytest.approx(distance, abs=1e-9)


def test_one_point_alone_is_a_corner():
    assert front_distance(np.array([1.0, 1.0]), np.zeros((1, 2))).distance == pytest.approx(np.sqrt(2))
    assert front_distance(np.array([-1.0, 5.0]), np.zeros((1, 2))).distance == pytest.approx(5)
    assert front_distance(np.array([-1.0, -2.0]), np.zeros((1, 2))).distance == pytest.approx(-1)


def test_the_distance_is_a_sum_that_holds_to_first_order():
    random = np.random.default_rng(0)
    for _ in range(200):
        point, points = random.normal(1, 2, 2), POINTS + random.normal(0, 0.1, POINTS.shape)
        found = front_distance(point, points)
        assert found.weights.sum() == pytest.approx(1) and np.hypot(*found.normal) == pytest.approx(1)
        if abs(found.distance) < 0.05:
            continue
        ends = found.weights.max() == 1  # beyond an end the front goes on, which the sum need not know
        assert found.normal @ (point - found.weights @ points) == pytest.approx(found.distance) or ends
        moved = points + random.normal(0, 1e-4, points.shape)
        again = front_distance(point, moved)
        change = found.normal @ (found.weights @ (points - moved))
        assert again.distance - found.distance == pytest.approx(change, abs=1e-6)


def test_moving_a_point_outwards_moves_it_away():
    for point in np.random.default_rng(0).normal(1, 2, (100, 2)):
        near = front_distance(point, POINTS)
        assert front_distance(point + 0.1 * near.normal, POINTS).distance > near.distance


def pooled_coverage(seeds, comparisons=6, trials=200):
    """How often the interval of a comparison of few seeds holds 0 when others lend their variance between seeds."""
    random, hits = np.random.default_rng(0), 0
    for _ in range(trials):
        people = np.argsort(random.random((60, 24)), axis=1)[:, :2]
        groups = []
        for _ in range(comparisons):
            of_speakers = random.normal(0, 0.3, 24)[people].sum(1)
            groups.append(of_speakers + random.normal(0, 0.2, (seeds, 1)) + random.normal(0, 1, (seeds, 60)))
        names = [set(map(str, row)) for row in people.tolist()]
        low, high = interval_over_trainings(groups[0], names, pooled_seed_variance(groups))
        hits += low < 0 < high
    return hits / trials


@pytest.mark.parametrize("seeds", [2, 3])
def test_few_seeds_have_an_interval_where_other_comparisons_lend_their_variance(seeds):
    assert 0.91 <= pooled_coverage(seeds) <= 0.995


def test_the_pooled_variance_is_that_of_all_seeds():
    random = np.random.default_rng(0)
    groups = [random.normal(k, 0.5, (3, 1)) * np.ones((3, 40)) for k in range(300)]
    pooled = pooled_seed_variance([*groups, np.ones((1, 40))])
    assert pooled.freedom == 600 and pooled.variance == pytest.approx(0.25, rel=0.15)
    assert pooled_seed_variance([np.ones((1, 40))]) is None


def test_the_smallest_detectable_difference_is_found_four_times_in_five():
    random, found, trials = np.random.default_rng(0), 0, 400
    for _ in range(trials):
        values = random.normal(0, 1, (5, 80))
        error, freedom = error_over_trainings(values, None, SeedVariance(0.0, 100))
        low, high = interval_over_trainings(values + smallest_detectable(error, freedom), None, SeedVariance(0.0, 100))
        found += not low < 0 < high
    assert 0.72 < found / trials < 0.88
