"""Results of an evaluation: a row an utterance, their means with intervals, and what is undefined and why."""

import csv
import json
from collections import Counter
from pathlib import Path

import numpy as np

from unified_sess.evaluation.speakers import mixture_speakers
from unified_sess.evaluation.statistics import mean, mean_interval
from unified_sess.utils.errors import UserError
from unified_sess.utils.files import atomic_path

CSV_NAME, JSON_NAME = "test_results.csv", "test_results.json"
LABELS = ("genders", "people", "room", "speakers")  # columns of text


class Results:
    """Measures of a test part.

    Arguments
    ---------
    rows : list of dict
        `ID`, a float or None for every metric, `reasons` (metric to text), and labels, all of them text: `genders`,
        `people` (how many), `room`, `speakers` (names with a space between; without them the `ID` tells, if it can).
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

    def __init__(self, rows: list[dict], metrics: list[str], details: dict | None = None) -> None:
        self.rows = rows
        self.metrics = list(metrics)
        self.details = dict(details or {})

    def __len__(self) -> int:
        return len(self.rows)

    def values(self, metric: str) -> np.ndarray:
        """All values of a metric `[utterances]`, NaN where it is undefined."""
        return np.array([np.nan if row.get(metric) is None else row[metric] for row in self.rows], dtype=float)

    def speakers(self) -> list[frozenset[str]] | None:
        """Who speaks in each utterance, None where that is not known of all."""
        if self.rows and all(row.get("speakers") for row in self.rows):
            return [frozenset(row["speakers"].split()) for row in self.rows]
        return mixture_speakers([row["ID"] for row in self.rows])

    def count(self, metric: str) -> int:
        """Utterances where a metric is defined."""
        return int(np.isfinite(self.values(metric)).sum())

    def means(self) -> dict[str, float | None]:
        """Mean of every metric over the utterances where it is defined, None where it never is."""
        return {metric: mean(self.values(metric)) for metric in self.metrics}

    def metric_summary(self) -> dict[str, dict]:
        """Mean, interval, count and reasons of every metric, as plain data."""
        metrics, speakers = {}, self.speakers()
        for metric in self.metrics:
            values = self.values(metric)
            undefined = [row for row in self.rows if row.get(metric) is None]
            reasons = Counter(row.get("reasons", {}).get(metric, "unknown") for row in undefined)
            metrics[metric] = {
                "mean": _rounded(mean(values)),
                "interval_95": [_rounded(x) for x in mean_interval(values, speakers)],
                "count": self.count(metric),
                "undefined": dict(sorted(reasons.items())),
            }
        return metrics

    def summary(self) -> dict:
        """What `test_results.json` holds."""
        reasons = {row["ID"]: row["reasons"] for row in self.rows if row.get("reasons")}
        return {"utterances": len(self), "metrics": self.metric_summary(), **self.details, "reasons": reasons}

    def save(self, folder: str | Path) -> None:
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


def read_results(folder: str | Path) -> Results:
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


def _rounded(value):
    return None if value is None else round(value, 4)
