"""Figures of matplotlib without pyplot's global state, and the colours that all of them use."""

from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

BLUE, ORANGE, GREY = "#2a6f97", "#d1495b", "0.6"


def new_figure(width: float, height: float) -> Figure:
    """An empty figure, in inches."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def figure_with_axes(width: float, height: float, columns: int = 1, **kwargs: Any) -> tuple[Figure, np.ndarray]:
    """A figure in inches and its axes side by side; `kwargs` are those of `Figure.subplots`."""
    figure = new_figure(width, height)
    axes = figure.subplots(1, columns, squeeze=False, **kwargs)[0]
    for ax in axes:
        ax.grid(alpha=0.25)
        ax.spines[["top", "right"]].set_visible(False)
    return figure, axes
