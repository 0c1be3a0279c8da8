"""Table and pictures of the ablation, from the runs that are finished."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
from ablation_rows import BASELINE, ROWS, baseline_of, sum_of
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from unified_sess.evaluation.evaluate import last_conflict_rate
from unified_sess.evaluation.plots import read_train_log
from unified_sess.evaluation.results import Results, read_results
from unified_sess.evaluation.statistics import FEWEST_SEEDS, interval_over_trainings
from unified_sess.model_io.results_folder import load_trained_network
from unified_sess.utils.errors import UserError
from unified_sess.utils.figures import BLUE, ORANGE, figure_with_axes
from unified_sess.utils.files import atomic_path

METRICS = ("si_snri", "sdri", "se_si_snri")


def write_ablation(folder: str | Path) -> str:
    """Write `ablation.csv`, `ablation.md`, `ablation.png` and `curves.png`; returns the table as Markdown.

    Raises
    ------
    UserError
        When no run is finished, or runs measured different mixtures.
    """
    folder = Path(folder)
    runs = finished_runs(folder)
    if not runs:
        raise UserError(f"{folder} holds no finished run yet: run the ablation without --table-only")
    table = ablation_table(runs)
    text = markdown(table)
    with atomic_path(folder / "ablation.csv") as temporary:
        table.to_csv(temporary, index=False, float_format="%.4f")
    with atomic_path(folder / "ablation.md") as temporary:
        Path(temporary).write_text(text + "\n", encoding="utf-8")
    for name, figure in (("ablation.png", difference_figure(table)), ("curves.png", curve_figure(runs))):
        with atomic_path(folder / name) as temporary:
            figure.savefig(temporary, dpi=120, format="png")
    return text


def finished_runs(folder: str | Path) -> dict[str, list[Path]]:
    """Folders of the finished runs of each row, `{name: [folder, ...]}`, in the order of `ROWS`."""
    found = {}
    for note in sorted(Path(folder).glob("*/*/run.json")):
        if (note.parent / "test_results.json").is_file():
            found.setdefault(json.loads(note.read_text(encoding="utf-8"))["row"], []).append(note.parent)
    return {name: found[name] for name in ROWS if name in found}


def ablation_table(runs: dict[str, list[Path]]) -> pd.DataFrame:
    """A row a row of the ablation.

    Returns
    -------
    table : pandas.DataFrame
        row, seeds, parameters, means over seeds and mixtures (dB), std (of SI-SNRi between seeds), conflict_rate of
        the last epoch, gradient_ratio (||G_SE|| / ||G_SS|| of the shared parameters, last epoch), and the paired
        differences of SI-SNRi to the baseline and to the sum of both losses (`sum_...`) over the seeds of both: their
        mean, that of each seed (`points`, text), and with enough seeds the 95 % interval over new trainings, mixtures
        and speakers.
    """
    results = {name: {int(run.name): read_results(run) for run in folders} for name, folders in runs.items()}
    rows = []
    for name, folders in runs.items():
        seeds = results[name]
        means = {m: [r.means().get(m) for r in seeds.values()] for m in METRICS}
        row = {"row": name, "seeds": len(seeds), "parameters": count_parameters(folders[0])}
        row |= {m: np.nan if None in values else np.mean(values) for m, values in means.items()}
        row["std"] = np.std(means["si_snri"], ddof=1) if len(seeds) > 1 else np.nan
        rates = [rate for rate in map(last_conflict_rate, folders) if rate is not None]
        row["conflict_rate"] = np.mean(rates) if rates else np.nan
        ratios = [ratio for ratio in map(gradient_ratio, folders) if ratio is not None]
        row["gradient_ratio"] = np.mean(ratios) if ratios else np.nan
        for prefix, other in (("", baseline_of(name)), ("sum_", sum_of(name))):
            differences = paired_differences(seeds, results.get(other, {})) if other != name else None
            known = differences is not None
            of_seeds = np.nanmean(differences, axis=1) if known else np.array([])
            row[f"{prefix}difference"] = of_seeds.mean() if known else np.nan
            row[f"{prefix}points"] = " ".join(f"{value:+.2f}" for value in of_seeds)
            speakers = next(iter(seeds.values())).speakers()
            interval = interval_over_trainings(differences, speakers) if known else (None, None)
            row[f"{prefix}low"], row[f"{prefix}high"] = (np.nan if end is None else end for end in interval)
        rows.append(row)
    return pd.DataFrame(rows)


def count_parameters(folder: Path) -> int:
    """Parameters of the network of a run."""
    _, modules = load_trained_network(folder)
    return sum(p.numel() for module in modules.values() for p in module.parameters())


def gradient_ratio(folder: Path) -> float | None:
    """||G_SE|| / ||G_SS|| of the shared parameters, means of the last epoch of a run; None where it was not measured."""
    log = read_train_log(folder / "train_log.txt")
    lengths = [log[f"train {name}_norm"][-1] if f"train {name}_norm" in log else np.nan for name in ("se", "ss")]
    return lengths[0] / lengths[1] if np.isfinite(lengths).all() and lengths[1] > 0 else None


def paired_differences(results: dict[int, Results], baseline: dict[int, Results]) -> np.ndarray | None:
    """SI-SNRi minus that of the baseline, `[seeds of both, mixtures]`; None where they share no seed."""
    shared = sorted(results.keys() & baseline.keys())
    if not shared:
        return None
    pairs = [(results[seed], baseline[seed]) for seed in shared]
    if any([r["ID"] for r in a.rows] != [r["ID"] for r in pairs[0][0].rows] for pair in pairs for a in pair):
        raise UserError("the runs measured different mixtures: give every one the same --data")
    return np.array([a.values("si_snri") - b.values("si_snri") for a, b in pairs])


def markdown(table: pd.DataFrame) -> str:
    """The table for a README."""
    names = ["row", "seeds", "parameters", "SI-SNRi (dB)", "SDRi (dB)", "enhanced SI-SNRi (dB)", "conflict rate"]
    names += ["gradient-norm ratio SE to SS", "vs. baseline (dB)", "vs. sum (dB)"]
    lines = [f"| {' | '.join(names)} |", "|---" * len(names) + "|"]
    for row in table.itertuples():
        cells = [row.row, str(row.seeds), f"{row.parameters / 1e6:.2f} M"]
        cells.append(f"{row.si_snri:.2f}" + (f" ± {row.std:.2f}" if np.isfinite(row.std) else ""))
        cells += [f"{row.sdri:.2f}", f"{row.se_si_snri:.2f}" if has_enhancer(row.row) else ""]
        cells.append(f"{100 * row.conflict_rate:.0f} %" if np.isfinite(row.conflict_rate) else "")
        cells.append(f"{row.gradient_ratio:.2g}" if np.isfinite(row.gradient_ratio) else "")
        cells.append(_difference(row.difference, row.points, row.low, row.high))
        cells.append(_difference(row.sum_difference, row.sum_points, row.sum_low, row.sum_high))
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _difference(difference, points, low, high):
    """A cell: the mean and its interval, or with few seeds the difference of each."""
    if not np.isfinite(difference):
        return ""
    if np.isfinite(low):
        return f"{difference:+.2f} [{low:+.2f}, {high:+.2f}]"
    return f"{difference:+.2f}" + (f" ({points})" if " " in points else "")


def has_enhancer(name: str) -> bool:
    """Whether a row's network enhances."""
    return BASELINE not in name


def difference_figure(table: pd.DataFrame) -> Figure:
    """Differences to the baseline and to the sum of both losses: a dot a seed, and where known the interval."""
    panels = (("", "separation-only"), ("sum_", "the same with the sum of both losses"))
    table = table[np.isfinite(table["difference"])].iloc[::-1]
    figure, axes = figure_with_axes(11, 1.2 + 0.32 * max(len(table), 1), 2, sharey=True)
    for ax, (prefix, other) in zip(axes, panels):
        for place, row in enumerate(table.to_dict("records")):
            difference, low, high = (row[prefix + name] for name in ("difference", "low", "high"))
            points = [float(value) for value in row[prefix + "points"].split()]
            ax.plot(points, [place] * len(points), "o", color=BLUE, alpha=0.6)
            if np.isfinite(low):
                ax.errorbar(difference, place, xerr=[[difference - low], [high - difference]], color=BLUE, capsize=3)
        ax.axvline(0, color=ORANGE, linewidth=1)
        ax.set_title(f"minus {other}", fontsize=9, loc="left")
        ax.set_xlabel(f"difference of SI-SNRi (dB), a dot a seed; 95 % interval from {FEWEST_SEEDS} seeds on")
    axes[0].set_yticks(range(len(table)), table["row"], fontsize=8)
    axes[0].set_ylim(-0.6, max(len(table), 1) - 0.4)
    return figure


def curve_figure(runs: dict[str, list[Path]]) -> Figure:
    """SI-SNRi of the validation part over the epochs: a line a row, the mean of its seeds."""
    figure, axes = figure_with_axes(13, 4.2, 2, sharey=True)
    for name, folders in runs.items():
        curves = [read_train_log(folder / "train_log.txt").get("valid si_snri", np.array([])) for folder in folders]
        epochs = min(map(len, curves))
        if not epochs or ROWS[name].speakers != 2:
            continue
        ax = axes[0 if len(ROWS[name].seeds) > 2 else 1]
        style = {"marker": "o", "markersize": 3, "linestyle": "-" if len(ax.lines) < 10 else "--"}  # ten colours
        ax.plot(range(1, epochs + 1), np.mean([c[:epochs] for c in curves], axis=0), label=name, **style)
    for ax, title in zip(axes, ("core rows, mean of the seeds", "further rows")):
        ax.set_title(title, fontsize=9, loc="left")
        ax.set_xlabel("epoch")
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        if ax.lines:
            ax.legend(fontsize=7, frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
    axes[0].set_ylabel("SI-SNRi, validation (dB)")
    return figure
