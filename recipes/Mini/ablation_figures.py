"""Pictures of the ablation: fronts of separation against enhancement, and differences from the sum."""

import numpy as np
import pandas as pd
from ablation_rows import LAMBDAS, ROWS, front_name
from ablation_table import SETS, Runs, TestSet
from matplotlib.figure import Figure

from unified_sess.evaluation.fronts import front_of
from unified_sess.utils.figures import BLUE, ORANGE, figure_with_axes

MARKERS = "svPX*<>hd^"
HEIGHT = 0.3  # inches a row


def front_figure(runs: Runs) -> Figure:
    """A panel a test set: the points of the sum and of gradient modulation over lambda, and those of other rules."""
    figure, axes = figure_with_axes(12, 5, len(SETS))
    for ax, name in zip(axes, SETS):
        means = TestSet(runs, name).means
        for rule, colour in (("sum", ORANGE), ("gm", BLUE)):
            names = [n for n in (front_name(rule, weight) for weight in LAMBDAS) if n in means]
            _draw_rule(ax, rule, names, means, colour)
        others = [row for row in means if ROWS[row].part == "rule"]
        for k, row in enumerate(others):
            x, y = np.mean(list(means[row].values()), axis=0)
            ax.plot(x, y, MARKERS[k % len(MARKERS)], color="0.35", markersize=6, label=row)
        if "separation alone" in means:
            alone = np.mean([m[1] for m in means["separation alone"].values()])
            ax.axhline(alone, color="0.5", linewidth=0.9, linestyle=":", label="separation alone")
        ax.set_title(name, fontsize=10, loc="left")
        ax.set_xlabel("enhancement: SI-SNRi of the enhanced mixture (dB)")
    axes[0].set_ylabel("separation: SI-SNRi (dB)")
    axes[-1].legend(fontsize=8, frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
    return figure


def _draw_rule(ax, rule, names, means, colour):
    """Means over seeds with their lambda, small dots for the seeds, and the line of the front."""
    if not names:
        return
    points = np.array([np.mean(list(means[n].values()), axis=0) for n in names])
    for n in names:
        if len(means[n]) > 1:
            ax.plot(*np.array(list(means[n].values())).T, ".", color=colour, alpha=0.5, markersize=4)
    if rule == "sum":
        front = points[front_of(points)]
        ends = [[min(points[:, 0].min(), 0), front[0, 1]], *front, [front[-1, 0], points[:, 1].min()]]
        ax.plot(*np.array(ends).T, color=colour, linewidth=1, label="front of the sum")
    ax.plot(*points.T, "o", color=colour, label=f"{rule}, by lambda; dots: seeds")
    for (x, y), n in zip(points, names):
        offset = (5, 5) if rule == "sum" else (5, -11)
        ax.annotate(n.rpartition(" ")[2], (x, y), offset, textcoords="offset points", fontsize=8, color=colour)


def difference_figure(table: pd.DataFrame) -> Figure:
    """Distance from the sum's front of every row that has one, a panel a test set, with intervals where there are seeds."""
    table = table[np.isfinite(table["distance"])]
    names = list(dict.fromkeys(table["row"]))[::-1]
    figure, axes = figure_with_axes(11, 1.4 + HEIGHT * max(len(names), 1), len(SETS), sharey=True)
    for ax, name in zip(axes, SETS):
        for row in table[table["set"] == name].to_dict("records"):
            place = names.index(row["row"])
            ax.plot(row["distance"], place, "o", color=BLUE, alpha=1 if row["seeds"] > 1 else 0.4)
            if np.isfinite(row["distance_low"]):
                reach = [[row["distance"] - row["distance_low"]], [row["distance_high"] - row["distance"]]]
                ax.errorbar(row["distance"], place, xerr=reach, color=BLUE, capsize=3)
        ax.axvline(0, color=ORANGE, linewidth=1)
        ax.set_title(name, fontsize=10, loc="left")
        ax.set_xlabel("distance outside the front of the sum (dB); pale: one seed")
    axes[0].set_yticks(range(len(names)), names, fontsize=8)
    axes[0].set_ylim(-0.6, max(len(names), 1) - 0.4)
    return figure
