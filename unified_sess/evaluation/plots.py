"""Pictures of an evaluation and of a training, as matplotlib figures."""

import re
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from unified_sess.evaluation.results import Results
from unified_sess.evaluation.statistics import mean_interval
from unified_sess.utils.figures import BLUE, ORANGE, SPECTROGRAM_RANGE, figure_with_axes, spectrogram
from unified_sess.utils.metric_names import headlines, metric_label

BIN_WIDTH = 2.5  # dB of a mean in the scatter plots
FEWEST_UTTERANCES = 5  # under which a bin has no mean


def improvement_figure(results: Results) -> Figure | None:
    """SI-SNRi of every utterance against the input SI-SNR and the input SNR, with means and 95 % intervals."""
    gain = results.values("si_snri")
    inputs = [("input SI-SNR of the mixture (dB), mean over the sources", results.values("si_snr") - gain)]
    inputs.append(("input SNR (dB), clean mixture against noise", results.values("input_snr")))
    inputs = [(name, x) for name, x in inputs if np.isfinite(x + gain).any()]
    if not inputs:
        return None
    figure, axes = figure_with_axes(10, 3.8, len(inputs), sharey=True)
    for ax, (name, x) in zip(axes, inputs):
        _scatter_with_means(ax, x, gain, results.speakers())
        ax.axhline(0, color="black", linewidth=0.8)
        ax.set_xlabel(name)
    axes[0].set_ylabel("SI-SNRi (dB)")
    axes[0].legend(fontsize=8, loc="best")
    return figure


def _scatter_with_means(ax, x, y, speakers):
    size = np.clip(4000 / len(x), 4, 20)
    ax.scatter(x, y, s=size, color=BLUE, alpha=0.6, linewidths=0, label="an utterance")
    bins = np.floor(x / BIN_WIDTH)
    found = [b for b in sorted(set(bins[np.isfinite(bins)])) if np.isfinite(y[bins == b]).sum() >= FEWEST_UTTERANCES]
    if not found:
        return
    middles = [np.nanmean(x[bins == b]) for b in found]
    means = np.array([np.nanmean(y[bins == b]) for b in found])
    ends = np.array([mean_interval(np.where(bins == b, y, np.nan), speakers) for b in found], dtype=float).T
    errors = np.nan_to_num(np.abs(ends - means))
    style = {"color": ORANGE, "marker": "o", "markersize": 4, "capsize": 2}
    ax.errorbar(middles, means, errors, label=f"mean of each {BIN_WIDTH} dB", **style)


def distribution_figure(results: Results) -> Figure | None:
    """Histograms with mean and median."""
    metrics = [metric for metric in headlines(results.metrics) if results.count(metric)]
    if not metrics:
        return None
    figure, axes = figure_with_axes(11, 2.9, len(metrics), sharey=True)
    for ax, metric in zip(axes, metrics):
        values = results.values(metric)
        values = values[np.isfinite(values)]
        ax.hist(values, bins=min(30, 5 + len(values) // 8), color=BLUE, alpha=0.6)
        ax.axvline(values.mean(), color=ORANGE)
        ax.axvline(np.median(values), color="black", linestyle=":")
        ax.set_xlabel(metric_label(metric))
        ax.set_title(f"mean {values.mean():.2f} (red)\nmedian {np.median(values):.2f} (dots)", fontsize=8, loc="left")
    axes[0].set_ylabel("utterances")
    return figure


def enhancement_figure(results: Results) -> Figure | None:
    """SI-SNR of the mixture after enhancement against before."""
    before, after = results.values("se_si_snr_noisy"), results.values("se_si_snr")
    if not np.isfinite(before + after).any():
        return None
    figure, (ax,) = figure_with_axes(4.8, 3.8)
    _scatter_with_means(ax, before, after, results.speakers())
    low, high = np.nanmin(before), np.nanmax(before)
    ax.plot([low, high], [low, high], color="black", linewidth=0.8, label="no change")
    ax.set_xlabel("SI-SNR of the noisy mixture (dB)")
    ax.set_ylabel("SI-SNR of the enhanced mixture (dB)")
    ax.legend(fontsize=8)
    return figure


def read_train_log(path: str | Path) -> dict[str, np.ndarray]:
    """Curves of SpeechBrain's text log: name such as `valid si_snri` to `[epochs]`, NaN where it lacks."""
    text = Path(path).read_text(encoding="utf-8") if Path(path).is_file() else ""
    epochs = []
    for line in text.splitlines():
        if not line.startswith("epoch:"):
            continue
        values = {}
        for part in re.split(r", | - ", line):
            name, _, number = part.rpartition(": ")
            try:
                values[name] = float(number)
            except ValueError:
                continue
        epochs.append(values)
    names = dict.fromkeys(name for values in epochs for name in values)
    return {name: np.array([values.get(name, np.nan) for values in epochs]) for name in names}


def training_figure(curves: dict[str, np.ndarray]) -> Figure | None:
    """Losses, validation SI-SNRi, learning rate and conflict rate over the epochs; None without a log."""
    panels: list[tuple[str, tuple[str, ...], str]] = [
        ("L_SS (dB, negative SI-SNR)", ("train loss_ss", "valid loss_ss"), "linear"),
        ("L_SE (distance of features)", ("train loss_se", "valid loss_se"), "log"),
        ("SI-SNRi (dB), validation", ("valid si_snri",), "linear"),
        ("conflict rate of the gradients", ("train conflict_rate",), "linear"),
        ("learning rate", ("lr",), "log"),
    ]
    panels = [(title, tuple(n for n in names if n in curves), scale) for title, names, scale in panels]
    panels = [panel for panel in panels if any(_drawable(curves[n], panel[2]).any() for n in panel[1])]
    if "epoch" not in curves or not panels:
        return None
    figure, axes = figure_with_axes(2.7 * max(len(panels), 2), 2.7, len(panels))
    for ax, (title, names, scale) in zip(axes, panels):
        for name, color in zip(names, (BLUE, ORANGE)):
            marker = "o" if len(curves["epoch"]) < 30 else None
            ax.plot(curves["epoch"], curves[name], color=color, marker=marker, markersize=3, label=name.split()[0])
        drawn = np.concatenate([curves[name][_drawable(curves[name], scale)] for name in names])
        ax.set_yscale(scale if drawn.max() > 10 * drawn.min() else "linear")  # less than a decade has no readable ticks
        ax.set_title(title, fontsize=9, loc="left")
        ax.set_xlabel("epoch")
        ax.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=5))
        if len(names) > 1:
            ax.legend(fontsize=8, frameon=False)
    return figure


def _drawable(values, scale):
    return np.isfinite(values) & ((values > 0) | (scale != "log"))


def spectrogram_figure(signal: np.ndarray, sample_rate: int, loudest: float | None = None) -> Figure:
    """Spectrogram of a signal `[time]`; `loudest` (dB) is the top of the colours, by default that of the signal."""
    level = spectrogram(signal, sample_rate)
    loudest = level.max() if loudest is None else loudest
    figure, (ax,) = figure_with_axes(5, 1.7)
    ax.grid(False)
    extent = (0, len(signal) / sample_rate, 0, sample_rate / 2000)
    colours = {"vmin": loudest - SPECTROGRAM_RANGE, "vmax": loudest, "cmap": "magma"}
    ax.imshow(level, origin="lower", aspect="auto", extent=extent, interpolation="nearest", **colours)
    ax.set_ylabel("kHz", fontsize=8)
    ax.set_xlabel("s", fontsize=8, labelpad=0)
    ax.tick_params(labelsize=7)
    return figure
