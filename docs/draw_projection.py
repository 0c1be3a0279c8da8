#!/usr/bin/env python3
"""Draw how gradient modulation works, in two dimensions, by the class itself: python docs/draw_projection.py docs/projection.png"""

import sys

import matplotlib
import torch

from unified_sess.gradient_modulation import GradientModulation

matplotlib.use("Agg")
from matplotlib import pyplot  # noqa: E402  after the choice of the backend
from matplotlib.axes import Axes  # noqa: E402

SEPARATION = torch.tensor([2.0, 0.0])  # G_SS
CASES = {
    "They agree: both are added": torch.tensor([0.9, 1.1]),
    "They conflict: the enhancement gradient gives way": torch.tensor([-1.2, 1.1]),
}
COLOURS = {"ss": "#2266aa", "se": "#cc5522", "projected": "#228844", "step": "#111111"}


def arrow(axes: Axes, end: list[float], colour: str, label: str, place: tuple[int, int]) -> None:
    """An arrow from the origin to `end`, with its name `place` points beside the head."""
    shape = {"arrowstyle": "-|>", "color": colour, "linewidth": 2.2, "shrinkA": 0, "shrinkB": 0}
    axes.annotate("", end, (0, 0), arrowprops=shape)
    axes.annotate(label, end, place, textcoords="offset points", color=colour, fontsize=11)


def draw_case(axes: Axes, title: str, enhancement: torch.Tensor) -> None:
    """One pair of gradients, and the step that `gm` makes of it."""
    modulation = GradientModulation("gm")
    (projected,), (separation,) = modulation.modulate([enhancement], [SEPARATION])
    step = projected + separation
    conflict = modulation.statistics()["conflict_rate"] > 0
    axes.axvline(0, color="0.75", linewidth=1, linestyle="--")
    axes.annotate("normal plane of $G_{SS}$", (0, 1.72), (5, 0), textcoords="offset points", color="0.5", fontsize=9)
    if conflict:
        axes.axvspan(-2, 0, color="#cc5522", alpha=0.06, linewidth=0)
        axes.annotate("against separation", (-1.9, -0.42), color="#cc5522", fontsize=9)
        axes.plot(*zip(enhancement.tolist(), projected.tolist()), color="0.5", linewidth=1, linestyle=":")
        arrow(axes, projected.tolist(), COLOURS["projected"], "$G_{SE}'$", (6, 4))
        lost = enhancement + SEPARATION
        axes.plot(*lost.tolist(), marker="x", color="0.5")
        axes.annotate("plain sum", lost.tolist(), (-26, 8), textcoords="offset points", color="0.5", fontsize=9)
    arrow(axes, separation.tolist(), COLOURS["ss"], "$G_{SS}$", (-22, -17))
    arrow(axes, enhancement.tolist(), COLOURS["se"], "$G_{SE}$", (-8, 8))
    arrow(axes, step.tolist(), COLOURS["step"], "step", (4, 2))
    axes.plot(0, 0, "o", color="black", markersize=4)
    axes.set_title(title, fontsize=11, loc="left")
    axes.set(xlim=(-2, 3.4), ylim=(-0.55, 1.95), aspect="equal", xticks=[], yticks=[])
    for side in axes.spines.values():
        side.set_visible(False)


def main(picture: str) -> None:
    """Both cases side by side."""
    figure, axes = pyplot.subplots(1, 2, figsize=(11, 3.1), layout="constrained")
    for part, (title, enhancement) in zip(axes, CASES.items()):
        draw_case(part, title, enhancement)
    figure.savefig(picture, dpi=90)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    main(sys.argv[1])
