"""Means with intervals that know speakers and seeds.

Mixtures of a test part share speakers: 300 mixtures of 24 people say less of the next person than 300 mixtures of 600
people would. And trainings differ by their seed. Both are random effects here; what a simulation says of the
intervals' coverage stands in tests/evaluation/test_statistics.py.
"""

from collections.abc import Collection, Sequence
from typing import NamedTuple

import numpy as np
from scipy.stats import t as student

CONFIDENCE = 0.95
FEWEST_SEEDS = 5  # fewer trainings are shown as points: an interval of 2 or 3 would be as wide as it is uncertain

Interval = tuple[float | None, float | None]


def mean(values: np.ndarray) -> float | None:
    """Mean of the finite values, None where there is none."""
    finite = values[np.isfinite(values)]
    return float(finite.mean()) if len(finite) else None


def mean_interval(values: np.ndarray, speakers: Sequence[Collection[str]] | None = None) -> Interval:
    """95 % interval of the mean over new mixtures of new speakers.

    A value is a constant, plus an effect of each of its speakers, plus what is the mixture's own. The two variances
    come from the method of moments (as in Searle, Casella and McCulloch 1992, chapter 5), and with c_g, the share of
    the mixtures in which speaker g talks::

        Var(mean) = speaker variance * sum of c_g^2 + own variance / mixtures

    The interval is that of Student's t with a degree of freedom less than there are speakers.

    Arguments
    ---------
    values : numpy.ndarray
        `[utterances]`; NaN are left out.
    speakers : sequence of collections of str
        Who talks in each utterance; None takes all utterances as independent.

    Returns
    -------
    low, high : float
        None, None where fewer than two values are defined, or where all of them have the same speakers: that says
        nothing of others.

    Example
    -------
    >>> low, high = mean_interval(np.array([8.0, 10.0, 9.0, 11.0]))
    >>> round(low, 2), round(high, 2)
    (7.45, 11.55)
    """
    return _interval(*_variance_of_mean(values, speakers))


class SeedVariance(NamedTuple):
    """Variance between trainings that differ by their seed alone, and its degrees of freedom."""

    variance: float
    freedom: int


def pooled_seed_variance(differences: Sequence[np.ndarray]) -> SeedVariance | None:
    """Variance between the seeds of many comparisons together, as if it were the same in all.

    Arguments
    ---------
    differences : list of numpy.ndarray
        `[seeds, utterances]` of each comparison; those of one seed say nothing here.

    Returns
    -------
    pooled : SeedVariance
        None where no comparison has two seeds.
    """
    means = [np.nanmean(values, axis=1) for values in differences if len(values) > 1]
    freedom = sum(len(of_seeds) - 1 for of_seeds in means)
    if not freedom:
        return None
    return SeedVariance(float(sum(len(m) * m.var() for m in means) / freedom), freedom)


def interval_over_trainings(
    values: np.ndarray,
    speakers: Sequence[Collection[str]] | None = None,
    pooled: SeedVariance | None = None,
) -> Interval:
    """95 % interval of the mean over new trainings, new mixtures and new speakers.

    The variance between the means of the trainings is added to that of `mean_interval`; degrees of freedom after
    Satterthwaite (1946).

    Arguments
    ---------
    values : numpy.ndarray
        `[seeds, utterances]`; utterances that one training lacks (NaN) are left out.
    speakers : sequence of collections of str
        As in `mean_interval`.
    pooled : SeedVariance
        The variance between trainings, known from other comparisons too; None takes that of these trainings.

    Returns
    -------
    low, high : float
        None, None with fewer than `FEWEST_SEEDS` trainings and no pooled variance: show those as points.
    """
    error, freedom = error_over_trainings(values, speakers, pooled)
    if error is None:
        return None, None
    values = np.where(np.isfinite(values).all(0), values, np.nan)
    return _interval(float(np.nanmean(values)), error**2, freedom)


def error_over_trainings(
    values: np.ndarray,
    speakers: Sequence[Collection[str]] | None = None,
    pooled: SeedVariance | None = None,
) -> tuple[float, float] | tuple[None, None]:
    """Standard error of the mean of `interval_over_trainings` and its degrees of freedom, arguments as there."""
    seeds = len(values)
    if pooled is None and seeds < FEWEST_SEEDS:
        return None, None
    values = np.where(np.isfinite(values).all(0), values, np.nan)
    _, variance, freedom = _variance_of_mean(values.mean(0), speakers)
    if variance is None:
        return None, None
    of_seeds, known = pooled or (np.nanmean(values, axis=1).var(ddof=1), seeds - 1)
    between = of_seeds / seeds
    total = variance + between
    freedom = total**2 / (variance**2 / freedom + between**2 / known) if total > 0 else freedom
    return float(np.sqrt(total)), float(freedom)


def smallest_detectable(error: float, freedom: float, power: float = 0.8) -> float:
    """The smallest true difference that a two-sided test at 5 % finds with this power, from its standard error.

    Example
    -------
    >>> round(smallest_detectable(0.1, 1000), 2)
    0.28
    """
    return float((student.ppf((1 + CONFIDENCE) / 2, freedom) + student.ppf(power, freedom)) * error)


def _interval(centre, variance, freedom):
    if variance is None:
        return None, None
    reach = student.ppf((1 + CONFIDENCE) / 2, freedom) * np.sqrt(variance)
    return float(centre - reach), float(centre + reach)


def _variance_of_mean(values, speakers):
    """Mean, its variance (None where it cannot be known) and degrees of freedom."""
    known = np.isfinite(values)
    values, count = values[known], int(known.sum())
    if count < 2:
        return None, None, None
    centred = values - values.mean()
    alone = values.mean(), centred @ centred / (count - 1) / count, count - 1
    if speakers is None:
        return alone
    presence = _presence([names for names, finite in zip(speakers, known) if finite])
    people = presence.shape[1]
    if people <= presence.sum(1).max():
        return None, None, None
    # Expected values of two sums of squares, in units of both variances: of the values, and of the speakers' totals.
    deviations = presence - presence.mean(0)
    once, twice = np.square(deviations).sum(), np.square(deviations.T @ deviations).sum()
    equations = np.array([[once, count - 1], [twice, once]])
    if abs(np.linalg.det(equations)) < 1e-9 * (count - 1) * twice:
        return alone  # nobody talks in two mixtures
    sums = centred @ centred, np.square(presence.T @ centred).sum()
    of_speakers, own = np.linalg.solve(equations, sums)
    if of_speakers <= 0:
        of_speakers, own = 0.0, sums[0] / (count - 1)
    shares = presence.mean(0)
    return values.mean(), of_speakers * np.square(shares).sum() + max(own, 0.0) / count, people - 1


def _presence(speakers):
    """1 where a speaker talks in an utterance, `[utterances, speakers]`."""
    names = {name: k for k, name in enumerate(sorted(set().union(*speakers)))}
    presence = np.zeros((len(speakers), len(names)))
    for row, talking in zip(presence, speakers):
        row[[names[name] for name in talking]] = 1
    return presence
