"""Results of an evaluation: a row an utterance, their means with intervals, and what is undefined and why."""

import csv
import json
from collections import Counter
from pathlib import Path

import numpy as np

from unified_sess.utils.errors import UserError
from unified_sess.utils.files import atomic_path

CSV_NAME, JSON_NAME = "test_results.csv", "test_results.json"
LABELS = ("genders",)  # columns of text
RESAMPLES = 2000


class Results:
    """Measures of a test part.

    Arguments
    ---------
    rows : list of dict
        `ID`, a float or None for every metric, `reasons` (metric to text), and labels.
    metrics : list of str
        Names of the metrics, in order.
    details : dict
        What else is said of the evaluation, such as `examples`.

    Example
    -------
    >>> results = Results([{"ID": "a", "si_snri": 9.0}, {"ID": "b", "si_snri": 11.0}], ["si_snri"])
    >>> results.means()
    {'si_snri': 10.0}
    """

    def __init__(self, rows, metrics, details=None):
        self.rows = rows
        self.metrics = list(metrics)
        self.details = dict(details or {})

    def __len__(self):
        return len(self.rows)

    def values(self, metric):
        """All values of a metric `[utterances]`, NaN where it is undefined."""
        return np.array([np.nan if row.get(metric) is None else row[metric] for row in self.rows], dtype=float)

    def means(self):
        """Mean of every metric over the utterances where it is defined, None where it never is."""
        return {metric: mean(self.values(metric)) for metric in self.metrics}

    def metric_summary(self):
        """Mean, interval, count and reasons of every metric, as plain data."""
        metrics = {}
        for metric in self.metrics:
            values = self.values(metric)
            undefined = [row for row in self.rows if row.get(metric) is None]
            reasons = Counter(row.get("reasons", {}).get(metric, "unknown") for row in undefined)
            metrics[metric] = {
                "mean": _rounded(mean(values)),
                "interval_95": [_rounded(x) for x in bootstrap_interval(values)],
                "count": int(np.isfinite(values).sum()),
                "undefined": dict(sorted(reasons.items())),
            }
        return metrics

    def summary(self):
        """What `test_results.json` holds."""
        reasons = {row["ID"]: row["reasons"] for row in self.rows if row.get("reasons")}
        return {"utterances": len(self), "metrics": self.metric_summary(), **self.details, "reasons": reasons}

    def save(self, folder):
        """Write `test_results.csv` (last row: the means) and `test_results.json`; each appears whole or not at all."""
        labels = [name for name in LABELS if any(row.get(name) for row in self.rows)]
        path = Path(folder) / CSV_NAME
        with atomic_path(path) as temporary, open(temporary, "w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(["ID", *labels, *self.metrics])
            for row in [*self.rows, {"ID": "mean"} | self.means()]:
                cells = [row.get(name) or "" for name in labels]
                writer.writerow([row["ID"], *cells, *("" if row[m] is None else f"{row[m]:.4f}" for m in self.metrics)])
        with atomic_path(Path(folder) / JSON_NAME) as temporary:
            Path(temporary).write_text(json.dumps(self.summary(), indent=2) + "\n", encoding="utf-8")


def load_results(folder):
    """Read the results of a folder that `Results.save` wrote.

    Raises
    ------
    UserError
        Naming the folder, when it holds no results or damaged ones.
    """
    path = Path(folder) / CSV_NAME
    try:
        with open(path, encoding="utf-8", newline="") as file:
            table = list(csv.DictReader(file))
        metrics = [name for name in table[0] if name != "ID" and name not in LABELS]
        rows = [
            {"ID": row["ID"]}
            | {name: row[name] for name in LABELS if name in row}
            | {name: float(row[name]) if row[name] else None for name in metrics}
            for row in table
            if row["ID"] != "mean"
        ]
    except OSError:
        raise UserError(f"{folder} holds no {CSV_NAME}: give the results folder of a finished evaluation") from None
    except (IndexError, KeyError, TypeError, ValueError):
        raise UserError(f"{path} is no table of results: evaluate again") from None
    summary = Path(folder) / JSON_NAME
    try:
        details = json.loads(summary.read_text(encoding="utf-8")) if summary.is_file() else {}
    except ValueError:
        raise UserError(f"{summary} is no summary of results: evaluate again") from None
    for row in rows:
        row["reasons"] = details.get("reasons", {}).get(row["ID"], {})
    return Results(rows, metrics, {k: v for k, v in details.items() if k not in ("utterances", "metrics", "reasons")})


def mean(values):
    """Mean of the finite values as a float, None where there is none."""
    finite = values[np.isfinite(values)]
    return float(finite.mean()) if len(finite) else None


def bootstrap_interval(values, resamples=RESAMPLES, seed=0):
    """95 % interval of the mean by the percentile bootstrap (Efron 1979).

    Arguments
    ---------
    values : numpy.ndarray
        One value an utterance; NaN are left out.
    resamples, seed : int
        Number of resamples and seed of the draw: the same values give the same interval.

    Returns
    -------
    low, high : float
        None, None where fewer than two values are defined.
    """
    values = values[np.isfinite(values)]
    if len(values) < 2:
        return None, None
    generator = np.random.default_rng(seed)
    means = [generator.choice(values, len(values)).mean() for _ in range(resamples)]
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)


def _rounded(value):
    return None if value is None else round(value, 4)
