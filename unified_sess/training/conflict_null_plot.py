"""Picture of the two tasks' conflict beside what it would be by chance."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from unified_sess.training.conflict_null import COMPARISONS
from unified_sess.training.gradient_plots import ROW_HEIGHT, shortened
from unified_sess.utils.figures import new_figure
from unified_sess.utils.files import atomic_path

MOST_EPOCHS = 8  # columns of a comparison in the heat map, evenly spread over the epochs
COLOURS = dict(zip(COMPARISONS, ("#d1495b", "#e09f3e", "#2a6f97", "#5f8f5f", "#7b5ea7")))


def draw_conflict_null(csv_path: str | Path, path: str | Path, tensorboard: Any = None) -> Path:
    """Draw the table of `ConflictNull` as `path`, and log it at its last epoch where a SummaryWriter is given."""
    table = pd.read_csv(csv_path)
    figure = null_figure(table)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=110, format="png")
    if tensorboard is not None:
        tensorboard.add_figure("gradients/conflict_null", figure, int(table["epoch"].max()))
    return Path(path)


def null_figure(table: pd.DataFrame) -> Figure:
    """Conflict rate and cosine over the epochs, a line a comparison, and the cosine of each layer below."""
    layers = table[table["level"] == "module"]
    names = list(dict.fromkeys(layers["name"]))
    comparisons = [name for name in COMPARISONS if name in set(table["comparison"])]
    heat = 1.6 + max(1.2, ROW_HEIGHT * len(names))
    figure = new_figure(11, 3.6 + heat)
    grid = figure.add_gridspec(2, 3, height_ratios=(3.6, heat), width_ratios=(1, 1, 0.7))
    _draw_lines(
        figure.add_subplot(grid[0, 0]), table, comparisons, "conflict_rate", "conflict rate of the tensors", 0.5
    )
    _draw_lines(figure.add_subplot(grid[0, 1]), table, comparisons, "cosine", "mean cosine of the tensors", 0.0)
    beside = figure.add_subplot(grid[0, 2])
    beside.axis("off")
    beside.legend(*figure.axes[0].get_legend_handles_labels(), fontsize=8, frameon=False, loc="upper left")
    _draw_layers(figure, figure.add_subplot(grid[1, :]), layers, names, comparisons)
    return figure


def _draw_lines(axes, table, comparisons, column, label, unrelated):
    means = table[table["level"] == "tensor"].groupby(["comparison", "epoch"])[column].mean()
    for name in comparisons:
        line = means[name].dropna()
        axes.plot(line.index, line, "o-", markersize=3, color=COLOURS[name], label=COMPARISONS[name])
    axes.axhline(unrelated, color="0.5", linewidth=0.8, linestyle=":", zorder=1, label="unrelated gradients")
    axes.set_xlabel("epoch")
    axes.set_ylabel(label)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.grid(alpha=0.3)


def _draw_layers(figure, axes, layers, names, comparisons):
    """Heat map of the cosine: a row a layer, a group of columns a comparison, a column an epoch."""
    epochs = np.array(sorted(layers["epoch"].unique()))
    if len(epochs) > MOST_EPOCHS:
        epochs = epochs[np.linspace(0, len(epochs) - 1, MOST_EPOCHS).round().astype(int)]
    cells = layers.pivot_table("cosine", "name", ["comparison", "epoch"]).reindex(names)
    columns = [(name, epoch) for name in comparisons for epoch in epochs]
    values = np.column_stack([cells[c] if c in cells.columns else np.full(len(names), np.nan) for c in columns])
    finite = np.abs(values[np.isfinite(values)])
    limit = max(0.01, min(float(finite.max()), 2.5 * float(np.median(finite)))) if finite.size else 1.0
    image = axes.imshow(
        np.ma.masked_invalid(values), cmap="RdBu", vmin=-limit, vmax=limit, aspect="auto", interpolation="nearest"
    )
    axes.set_facecolor("0.75")
    axes.set_yticks(range(len(names)), [shortened(name) for name in names], fontsize=7)
    for group in range(1, len(comparisons)):
        axes.axvline(group * len(epochs) - 0.5, color="black", linewidth=1)
    middles = [(group + 0.5) * len(epochs) - 0.5 for group in range(len(comparisons))]
    labels = [COMPARISONS[name].replace(", ", "\n") for name in comparisons]
    axes.set_xticks(middles, labels, fontsize=7)
    axes.set_title(f"cosine of each layer, epochs {epochs[0]} to {epochs[-1]} (red: conflict)", fontsize=10, loc="left")
    figure.colorbar(image, ax=axes, extend="both", fraction=0.03, pad=0.01)
