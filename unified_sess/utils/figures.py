"""Figures of matplotlib without pyplot's global state, and the colours that all of them use."""

import logging
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

BLUE, ORANGE, GREY = "#2a6f97", "#d1495b", "0.6"
SPECTROGRAM_RANGE = 70  # dB that colours span
WINDOW = 0.032  # s of a frame of a spectrogram

logging.getLogger("matplotlib").setLevel(logging.WARNING)  # its search for fonts would fill a training's log.txt


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


def spectrogram(signal: np.ndarray, sample_rate: int) -> np.ndarray:
    """Level in dB of a signal `[time]` at a rate in Hz, `[frequencies, frames]`."""
    from scipy.signal import stft  # slow to import, and most figures do without

    size = max(16, round(WINDOW * sample_rate))
    signal = np.pad(signal, (0, max(0, size - len(signal))))
    _, _, values = stft(signal, sample_rate, nperseg=size, noverlap=size * 3 // 4)
    return 20 * np.log10(np.abs(values) + 1e-9)
