"""Pictures of the conflict of the two gradients over a training."""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from unified_sess.utils.errors import UserError
from unified_sess.utils.figures import new_figure
from unified_sess.utils.files import atomic_path

LONGEST_LABEL = 80  # characters
ROW_HEIGHT = 0.17  # inches a layer: 7 point letters do not touch


def draw_gradient_plots(
    csv_path: str | Path, folder: str | Path, tensorboard: Any = None, epoch: int | None = None
) -> list[Path]:
    """Draw `cosine.png`, a heat map over (layer, epoch), and `conflict_rate.png`, over the epochs.

    Arguments
    ---------
    csv_path : str
        Table with columns epoch, level (`tensor` or `module`), name, conflict_rate, cosine, se_norm, ss_norm; an
        empty cell is a layer without both gradients.
    folder : str
        Where the pictures go.
    tensorboard : torch.utils.tensorboard.SummaryWriter
        Also logs the pictures, at step `epoch`.
    epoch : int
        By default the last of the table.

    Returns
    -------
    paths : list of Path
        The pictures.

    Raises
    ------
    UserError
        The table has no rows of layers.
    """
    names, epochs, values = _read(csv_path)
    figures = {
        "cosine": cosine_figure(names, epochs, values["cosine"]),
        "conflict_rate": conflict_figure(names, epochs, values["conflict_rate"]),
    }
    Path(folder).mkdir(parents=True, exist_ok=True)
    paths = []
    for name, figure in figures.items():
        path = Path(folder) / f"{name}.png"
        with atomic_path(path) as temporary:
            figure.savefig(temporary, dpi=110)
        paths.append(path)
        if tensorboard is not None:
            tensorboard.add_figure(f"gradients/{name}", figure, epochs[-1] if epoch is None else epoch)
    return paths


def cosine_figure(names: Sequence[str], epochs: Sequence[int], cosine: np.ndarray) -> Figure:
    """Heat map of the mean cosine of G_SE and G_SS, `[layers, epochs]`; red is conflict, grey is undefined."""
    labels = [shortened(name) for name in names]
    width = 2.2 + 0.075 * max(map(len, labels)) + min(8.0, max(3.5, 0.3 * len(epochs)))
    figure = new_figure(width, 1.5 + max(1.5, ROW_HEIGHT * len(names)))
    axes = figure.add_subplot()
    finite = np.abs(cosine[np.isfinite(cosine)])
    # A layer of one number has cosine 1 or -1 always: such layers must not bleach the rest.
    limit = max(0.01, min(float(finite.max()), 2.5 * float(np.median(finite)))) if finite.size else 1.0
    image = axes.imshow(
        np.ma.masked_invalid(cosine), cmap="RdBu", vmin=-limit, vmax=limit, aspect="auto", interpolation="nearest",
        extent=(epochs[0] - 0.5, epochs[-1] + 0.5, len(names) - 0.5, -0.5),
    )  # fmt: skip
    axes.set_facecolor("0.75")
    axes.set_yticks(range(len(names)), labels, fontsize=7)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.set_xlabel("epoch")
    axes.tick_params(axis="x", top=len(names) > 40, labeltop=len(names) > 40)  # tall: both ends can be read
    axes.set_title("Cosine of the SE and SS gradients (red: conflict)", fontsize=10, loc="left")
    parts = [name.partition(".")[0] for name in names]
    for row in range(1, len(parts)):
        if parts[row] != parts[row - 1]:
            axes.axhline(row - 0.5, color="black", linewidth=1)
    bar = figure.colorbar(
        image, ax=axes, extend="both", fraction=0.05, pad=0.02, aspect=40, shrink=min(1, 60 / len(names)), anchor=(0, 1)
    )
    bar.set_label("mean cosine")
    return figure


def conflict_figure(names: Sequence[str], epochs: Sequence[int], rate: np.ndarray) -> Figure:
    """Mean conflict rate of each part over the epochs, with the spread of all layers; `rate` is `[layers, epochs]`."""
    figure = new_figure(7.5, 4)
    axes = figure.add_subplot()
    defined = np.isfinite(rate).any(axis=0)
    x = np.asarray(epochs)[defined]
    marker = "o" if len(x) < 30 else None
    low, high = np.nanquantile(rate[:, defined], [0.1, 0.9], axis=0)
    axes.fill_between(x, low, high, color="0.88", label="middle 80 % of the layers", linewidth=0)
    parts = [name.partition(".")[0] for name in names]
    for part in dict.fromkeys(parts):
        rows = rate[[p == part for p in parts]]
        with_values = np.isfinite(rows).any(axis=0)
        label = f"{part} ({len(rows)} layer{'s' * (len(rows) > 1)})"
        axes.plot(
            np.asarray(epochs)[with_values],
            np.nanmean(rows[:, with_values], axis=0),
            marker=marker,
            markersize=3,
            label=label,
        )
    # Dashed: where most layers are in one part, its line stays visible below.
    axes.plot(x, np.nanmean(rate[:, defined], axis=0), color="black", linestyle=(0, (4, 4)), label="mean of all layers")
    axes.axhline(0.5, color="0.5", linewidth=0.8, linestyle=":", zorder=1, label="unrelated gradients")
    axes.set_xlim(epochs[0] - 0.5, epochs[-1] + 0.5)  # as in the heat map
    axes.set_ylim(-0.02, 1.02)  # a line at 0 or 1 stays visible
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.set_xlabel("epoch")
    axes.set_ylabel("conflict rate")
    axes.set_title("How often the SE gradient opposes the SS gradient", fontsize=10, loc="left")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)
    return figure


def _read(csv_path):
    """Names of the modules, epochs, and cosine and conflict rate as `[modules, epochs]` with NaN for no value."""
    with open(csv_path, encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row.get("level") == "module"]
    if not rows:
        raise UserError(f"{csv_path} has no rows of level 'module': is it the gradient table of a training?")
    names = list(dict.fromkeys(row["name"] for row in rows))
    seen = {int(row["epoch"]) for row in rows}
    epochs = list(range(min(seen), max(seen) + 1))
    values = {column: np.full((len(names), len(epochs)), np.nan) for column in ("cosine", "conflict_rate")}
    position = {name: i for i, name in enumerate(names)}
    for row in rows:
        for column, table in values.items():
            if row[column]:
                table[position[row["name"]], int(row["epoch"]) - epochs[0]] = float(row[column])
    return names, epochs, values


def shortened(name: str) -> str:
    """A long name with its middle left out: the part and the layer's own name say most."""
    if len(name) <= LONGEST_LABEL:
        return name
    head = (LONGEST_LABEL - 1) // 3
    return f"{name[:head]}…{name[head + 1 - LONGEST_LABEL :]}"
