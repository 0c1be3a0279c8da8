"""The runs of the ablation that are finished as points, their distances from the sum's front, and the table of them."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from ablation_rows import LAMBDAS, ROWS, front_name

from unified_sess.evaluation.evaluate import last_conflict_rate
from unified_sess.evaluation.fronts import front_distance
from unified_sess.evaluation.results import Results, read_results
from unified_sess.evaluation.statistics import (
    SeedVariance,
    error_over_trainings,
    interval_over_trainings,
    pooled_seed_variance,
    smallest_detectable,
)
from unified_sess.model_io.results_folder import load_trained_network
from unified_sess.utils.errors import UserError

SETS = ("Libri2Mix", "Rooms")
ENHANCEMENT, SEPARATION = "se_si_snri", "si_snri"  # the axes of a front
DETECTED = {"distance": "distance from the front", "separation_to_sum": "separation against the sum"}
Runs = dict[str, dict[int, Path]]  # folder of each row and seed


class Comparison(NamedTuple):
    """A paired difference in dB over seeds and mixtures.

    values : `[seeds, mixtures]`.
    low, high : 95 % interval over new trainings, mixtures and speakers; NaN where one seed gives a point only.
    detectable : smallest true difference that so many seeds and mixtures find with a power of 80 %; NaN without an interval.
    """

    values: np.ndarray
    low: float
    high: float
    detectable: float

    @property
    def mean(self) -> float:
        """Over seeds and mixtures."""
        return float(np.nanmean(self.values))


def finished_runs(folder: str | Path) -> Runs:
    """Folders of the finished runs of each row, in the order of `ROWS`."""
    found: Runs = {}
    for note in sorted(Path(folder).glob("*/*/run.json")):
        if all((note.parent / name / "test_results.json").is_file() for name in SETS):
            said = json.loads(note.read_text(encoding="utf-8"))
            found.setdefault(said["row"], {})[int(said["seed"])] = note.parent
    return {name: found[name] for name in ROWS if name in found}


class TestSet:
    """What the finished runs gave on one test set.

    Attributes
    ----------
    means : dict
        Row to seed to `[2]`, enhancement and separation, SI-SNRi in dB.
    """

    __test__ = False  # no class of tests

    def __init__(self, runs: Runs, name: str) -> None:
        self.results = {
            row: {seed: read_results(folder / name) for seed, folder in seeds.items()} for row, seeds in runs.items()
        }
        every = [results for seeds in self.results.values() for results in seeds.values()]
        if any([r["ID"] for r in a.rows] != [r["ID"] for r in every[0].rows] for a in every):
            raise UserError(
                "the runs measured different mixtures: give every one the same --data and --test-mixtures, or another --output"
            )
        self.mixtures = len(every[0])
        self.speakers = every[0].speakers()
        self.means = {
            row: {seed: np.array([np.nanmean(v) for v in _values(r)]) for seed, r in seeds.items()}
            for row, seeds in self.results.items()
        }

    def differences(self, row: str, other: str | None, metric: str) -> np.ndarray | None:
        """A row minus another, `[seeds of both, mixtures]`; None where they share no seed."""
        seeds = sorted(self.results[row].keys() & self.results.get(other or "", {}).keys())
        pairs = [(self.results[row][s].values(metric), self.results[other][s].values(metric)) for s in seeds]
        return np.array([a - b for a, b in pairs]) if pairs else None

    def distances(self, row: str) -> np.ndarray | None:
        """Signed distance of each mixture from the sum's front, `[seeds, mixtures]`, whose mean is that of the point.

        Every seed has a front of its own, of the same lambdas: those that the sum has in all seeds of the row. None for
        what the front is no measure of: sums, controls, and rows whose sum is trained in another way.
        """
        names = [front_name("sum", weight) for weight in LAMBDAS]
        if ROWS[row].sum_row not in names:
            return None
        seeds = sorted(s for s in self.results[row] if sum(s in self.results.get(n, {}) for n in names) > 1)
        names = [n for n in names if seeds and all(s in self.results.get(n, {}) for s in seeds)]
        if len(names) < 2:
            return None
        rows = []
        for seed in seeds:
            points = np.array([self.means[n][seed] for n in names])
            found = front_distance(self.means[row][seed], points)
            own = _values(self.results[row][seed])
            nearest = sum(w * _values(self.results[n][seed]) for w, n in zip(found.weights, names) if w)
            rows.append(found.normal @ (own - nearest))
        return np.array(rows)

    def comparison(self, values: np.ndarray | None, pooled: SeedVariance | None) -> Comparison | None:
        """A paired difference with its interval."""
        if values is None or not np.isfinite(values).any():
            return None
        low, high, detectable = np.nan, np.nan, np.nan
        if len(values) > 1 and pooled is not None:
            error, freedom = error_over_trainings(values, self.speakers, pooled)
            if error is not None:
                low, high = interval_over_trainings(values, self.speakers, pooled)
                detectable = smallest_detectable(error, freedom)
        return Comparison(values, low, high, detectable)


def _values(results: Results) -> np.ndarray:
    """`[2, mixtures]`: enhancement and separation."""
    return np.array([results.values(ENHANCEMENT), results.values(SEPARATION)])


def ablation_table(runs: Runs) -> pd.DataFrame:
    """A line a row and test set.

    Returns
    -------
    table : pandas.DataFrame
        row, part, set, mixtures, seeds, parameters, separation, enhancement (means in dB), std (of separation between
        seeds), conflict_rate of the last epoch, and three paired comparisons: `distance` from the sum's front,
        `separation_to_sum` and `enhancement_to_sum`, each with `_low`, `_high`, `_detectable`.
    """
    lines = []
    sizes = {row: count_parameters(next(iter(seeds.values()))) for row, seeds in runs.items()}
    for name in SETS:
        test_set = TestSet(runs, name)
        compared = {
            "distance": {row: test_set.distances(row) for row in runs},
            "separation_to_sum": {row: test_set.differences(row, ROWS[row].sum_row, SEPARATION) for row in runs},
            "enhancement_to_sum": {row: test_set.differences(row, ROWS[row].sum_row, ENHANCEMENT) for row in runs},
        }
        pooled = {
            what: pooled_seed_variance([v for v in of_rows.values() if v is not None])
            for what, of_rows in compared.items()
        }
        for row, seeds in runs.items():
            means = np.array(list(test_set.means[row].values()))
            line = {"row": row, "part": ROWS[row].part, "set": name, "mixtures": test_set.mixtures, "seeds": len(seeds)}
            line |= {"parameters": sizes[row], "enhancement": means[:, 0].mean(), "separation": means[:, 1].mean()}
            line["std"] = means[:, 1].std(ddof=1) if len(means) > 1 else np.nan
            rates = [rate for rate in map(last_conflict_rate, seeds.values()) if rate is not None]
            line["conflict_rate"] = np.mean(rates) if rates else np.nan
            for what, of_rows in compared.items():
                line |= _cells(what, test_set.comparison(of_rows[row], pooled[what]))
            lines.append(line)
    return pd.DataFrame(lines)


def _cells(what: str, comparison: Comparison | None) -> Mapping[str, float]:
    if comparison is None:
        return dict.fromkeys([what, f"{what}_low", f"{what}_high", f"{what}_detectable"], np.nan)
    return {
        what: comparison.mean,
        f"{what}_low": comparison.low,
        f"{what}_high": comparison.high,
        f"{what}_detectable": comparison.detectable,
    }


def count_parameters(folder: Path) -> int:
    """Parameters of the network of a run."""
    _, modules = load_trained_network(folder)
    return sum(p.numel() for module in modules.values() for p in module.parameters())


def markdown(table: pd.DataFrame) -> str:
    """The table for a README, a table a test set, and what the design could have detected."""
    names = ["row", "seeds", "parameters", "separation", "enhancement", "outside the sum's front"]
    names += ["separation vs. sum", "enhancement vs. sum"]
    parts = []
    for name, of_set in table.groupby("set", sort=False):
        lines = [f"{name}, {of_set['mixtures'].iloc[0]} mixtures, SI-SNRi in dB:", ""]
        lines += [f"| {' | '.join(names)} |", "|---" * len(names) + "|"]
        for row in of_set.to_dict("records"):
            deviation = f" ± {row['std']:.2f}" if np.isfinite(row["std"]) else ""
            cells = [row["row"], str(row["seeds"]), f"{row['parameters'] / 1e6:.2f} M"]
            cells += [f"{row['separation']:.2f}{deviation}", _enhancement(row)]
            cells += [_difference(row, what) for what in ("distance", "separation_to_sum", "enhancement_to_sum")]
            lines.append(f"| {' | '.join(cells)} |")
        found = {what: of_set[f"{what}_detectable"].dropna() for what in ("distance", "separation_to_sum")}
        said = [f"{DETECTED[what]} {values.median():.2f} dB" for what, values in found.items() if len(values)]
        if said:
            lines += ["", f"Smallest difference that rows with an interval could detect: {', '.join(said)}."]
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def _enhancement(row):
    return "" if row["row"].startswith("separation alone") else f"{row['enhancement']:.2f}"


def _difference(row, what):
    """A cell: the mean and its interval; of one seed the mean alone."""
    if not np.isfinite(row[what]):
        return ""
    if np.isfinite(row[f"{what}_low"]):
        return f"{row[what]:+.2f} [{row[f'{what}_low']:+.2f}, {row[f'{what}_high']:+.2f}]"
    return f"{row[what]:+.2f}"


def total_seconds(runs: Runs) -> float:
    """Wall time of all finished runs together, training and test."""
    notes = [folder / "seconds.txt" for seeds in runs.values() for folder in seeds.values()]
    return sum(float(note.read_text(encoding="utf-8")) for note in notes if note.is_file())
