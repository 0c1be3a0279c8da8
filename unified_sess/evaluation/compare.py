"""Several models on the same mixtures: paired differences with intervals."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from unified_sess.evaluation.results import Results, read_results
from unified_sess.evaluation.statistics import mean, mean_interval
from unified_sess.utils.errors import UserError, writable_folder
from unified_sess.utils.files import atomic_path
from unified_sess.utils.metric_names import HEADLINES, metric_label

CSV_NAME = "comparison.csv"
FURTHER_METRICS = ("stoi", "dnsmos_ovrl")  # beside the headlines
INPUT_TOLERANCE = 0.02  # dB between two measurements of one mixture's own SI-SNR


def compare(results_folders: Sequence[str | Path], metrics: Sequence[str] | None = None) -> pd.DataFrame:
    """Compare results on the utterances that all of them measured.

    Arguments
    ---------
    results_folders : list of str or Path
        Folders with `test_results.csv`; the first is the one that the others are compared with.
    metrics : list of str
        Names of metrics; None takes the headlines, STOI and DNSMOS, as far as every folder has them.

    Returns
    -------
    table : pandas.DataFrame
        A row for each metric and folder: metric, results, utterances (measured by all), mean, difference (mean of
        the paired differences to the first folder), and low and high, its 95 % interval over new mixtures and
        speakers (`statistics.mean_interval`): of these models, not of further trainings with other seeds. Its
        attributes: `attrs["left_out"]` counts the utterances of each folder that not all measured,
        `attrs["speakers_known"]` is whether the intervals know who speaks.

    Raises
    ------
    UserError
        When there are less than two folders, or they hold no common mixtures or different ones under one name.
    """
    folders = [str(folder) for folder in results_folders]
    if len(folders) < 2:
        raise UserError("a comparison needs at least two results folders")
    if len(set(folders)) < len(folders):
        raise UserError("a results folder is named twice: give each once")
    results = {folder: read_results(folder) for folder in folders}
    tables = {folder: {row["ID"]: row for row in found.rows} for folder, found in results.items()}
    first = tables[folders[0]]
    common = [name for name in first if all(name in table for table in tables.values())]
    if not common:
        raise UserError(f"{' and '.join(folders)} have no mixture in common: evaluate on the same data")
    for folder in folders[1:]:
        _check_same_mixtures(common, first, tables[folder], folders[0], folder)
    wanted = metrics or (*HEADLINES, *FURTHER_METRICS)
    known = [m for m in wanted if all(m in table[common[0]] for table in tables.values())]
    if not known or (metrics and len(known) < len(metrics)):
        raise UserError(f"not every results folder has {', '.join(wanted)}: evaluate with the same metrics")
    speakers = Results([first[name] for name in common], []).speakers()
    rows = []
    for metric in known:
        values = np.array([[_value(tables[folder][name], metric) for name in common] for folder in folders])
        values = np.where(np.isfinite(values).all(0), values, np.nan)
        for folder, own in zip(short_names(folders), values):
            low, high = mean_interval(own - values[0], speakers)
            count = int(np.isfinite(own).sum())
            rows.append((metric, folder, count, mean(own), mean(own - values[0]), low, high))
    table = pd.DataFrame(rows, columns=["metric", "results", "utterances", "mean", "difference", "low", "high"])
    table = table.astype({"low": float, "high": float})
    first_rows = table["results"] == table["results"].iloc[0]
    table.loc[first_rows, ["difference", "low", "high"]] = np.nan
    table.attrs["speakers_known"] = speakers is not None
    table.attrs["left_out"] = {folder: len(tables[folder]) - len(common) for folder in folders}
    return table


def run_compare(results_folders: Sequence[str | Path], output: str | Path | None = None) -> pd.DataFrame:
    """What `unified-sess compare` does: print the comparison, and write `comparison.csv` into the folder `output`."""
    table = compare(results_folders)
    if output is not None:
        with atomic_path(Path(writable_folder(output)) / CSV_NAME) as temporary:
            table.to_csv(temporary, index=False, float_format="%.4f")
    print("\n".join(comparison_lines(table)))
    return table


def comparison_lines(table: pd.DataFrame) -> list[str]:
    """The table as lines of text for a terminal."""
    width = max(len(name) for name in table["results"])
    lines = []
    for metric, part in table.groupby("metric", sort=False):
        lines.append(f"{metric_label(metric)}, {part['utterances'].iloc[0]} utterances")
        for row in part.itertuples():
            said = f"  {row.results:{width}}  {row.mean:8.3f}"
            if np.isfinite(row.difference):
                said += f"   difference {row.difference:+.3f}"
                said += f"  95 % [{row.low:+.3f}, {row.high:+.3f}]" if np.isfinite(row.low) else ""
            lines.append(said)
    left_out = {folder: count for folder, count in table.attrs.get("left_out", {}).items() if count}
    lines += [f"left out: {count} mixtures of {folder} that not all measured" for folder, count in left_out.items()]
    kind = "of new mixtures and speakers" if table.attrs.get("speakers_known") else "of new mixtures; speakers unknown"
    lines.append(f"intervals: {kind}, for these models; trainings with another seed differ besides")
    return lines


def short_names(folders: list[str]) -> list[str]:
    """The shortest ends of the paths that tell all of them apart; `UserError` where one is named twice."""
    parts = [Path(folder).resolve().parts for folder in folders]
    for depth in range(1, max(map(len, parts)) + 1):
        names = ["/".join(part[-depth:]) for part in parts]
        if len(set(names)) == len(names):
            return names
    raise UserError("a results folder is named twice: give each once")


def _check_same_mixtures(common, first, other, first_folder, folder):
    """The mixture's own SI-SNR tells whether two rows of one id measured one mixture."""
    for name in common:
        own = [_value(table[name], "si_snr") - _value(table[name], "si_snri") for table in (first, other)]
        if abs(own[0] - own[1]) > INPUT_TOLERANCE:
            raise UserError(
                f"{first_folder} and {folder} measured different mixtures under the name {name} "
                f"(input SI-SNR {own[0]:.2f} and {own[1]:.2f} dB): evaluate on the same data"
            )


def _value(row, metric):
    value = row.get(metric)
    return np.nan if value is None else value
