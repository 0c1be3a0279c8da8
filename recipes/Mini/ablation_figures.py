"""Pictures of the ablation: fronts of separation against enhancement, and differences from the sum."""

import numpy as np
import pandas as pd
from ablation_rows import ALONE, LAMBDAS, ROWS, front_name
from ablation_table import SETS, Runs, TestSet
from matplotlib.figure import Figure

from unified_sess.evaluation.fronts import front_of
from unified_sess.utils.figures import BLUE, ORANGE, figure_with_axes

MARKERS = "svPX*<>hd^"
HEIGHT = 0.3  # inches a row


def front_figure(runs: Runs) -> Figure:
    """A panel a test set: the points of the sum and of gradient modulation over lambda, and those of other rules.

    Every seed has its own front, which its other points are compared with; later seeds are paler.
    """
    figure, axes = figure_with_axes(12, 5, len(SETS))
    for ax, name in zip(axes, SETS):
        means = TestSet(runs, name).means
        for place, seed in enumerate(sorted({seed for of_row in means.values() for seed in of_row})):
            for rule, colour in (("sum", ORANGE), ("gm", BLUE)):
                names = [n for n in (front_name(rule, weight) for weight in LAMBDAS) if seed in means.get(n, {})]
                _draw_rule(ax, rule, {n: means[n][seed] for n in names}, colour, first=place == 0)
        for k, row in enumerate(row for row in means if ROWS[row].part == "rule"):
            x, y = next(iter(means[row].values()))
            ax.plot(x, y, MARKERS[k % len(MARKERS)], color="0.35", markersize=6, label=row)
        if ALONE in means:
            alone = next(iter(means[ALONE].values()))[1]
            ax.axhline(alone, color="0.5", linewidth=0.9, linestyle=":", label=ALONE)
        ax.set_title(name, fontsize=10, loc="left")
        ax.set_xlabel("enhancement: SI-SNRi of the enhanced mixture (dB)")
    axes[0].set_ylabel("separation: SI-SNRi (dB)")
    axes[-1].legend(fontsize=8, frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
    return figure


def _draw_rule(ax, rule, of_lambda, colour, first):
    """The points of a rule and a seed with their lambda, and for the sum the line of its front."""
    if not of_lambda:
        return
    points, alpha = np.array(list(of_lambda.values())), 1 if first else 0.4
    if rule == "sum" and len(points) > 1:
        front = points[front_of(points)]
        ends = [[min(points[:, 0].min(), 0), front[0, 1]], *front, [front[-1, 0], points[:, 1].min()]]
        ax.plot(*np.array(ends).T, color=colour, linewidth=1, alpha=alpha, label="front of the sum" if first else None)
    label = f"{rule}, by lambda; pale: other seeds" if first else None
    ax.plot(*points.T, "o", color=colour, alpha=alpha, markersize=6 if first else 4, label=label)
    for (x, y), n in zip(points, of_lambda):
        offset = (5, 5) if rule == "sum" else (5, -11)
        text = n.rpartition(" ")[2]
        ax.annotate(text, (x, y), offset, textcoords="offset points", fontsize=8, color=colour, alpha=alpha)


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
