#!/usr/bin/env python3
"""Draw the README's picture from a results folder: python docs/draw_example.py results/unified/1234 docs/example.png"""

import sys
from pathlib import Path

import matplotlib
import soundfile

from unified_sess.utils.figures import spectrogram

matplotlib.use("Agg")
import matplotlib.pyplot as plt

TITLES = {
    "mixture": "Two people in noise: the recording",
    "enhanced": "Cleaned: both people",
    "s1_estimate": "Separated: first voice",
    "s2_estimate": "Separated: second voice",
}


def main(results: str | Path, picture: str | Path) -> None:
    """Spectrograms of the first sound example: recording, enhanced mixture, both estimates."""
    found = sorted((Path(results) / "audio").glob("*_mixture.wav"))
    if not found:
        raise SystemExit(
            f"draw_example.py: error: {results} has no sound examples: test with --audio_examples 1 or more"
        )
    first = found[0]
    figure, axes = plt.subplots(2, 2, figsize=(10, 4.6), sharex=True, sharey=True, layout="constrained")
    for axis, (kind, title) in zip(axes.flat, TITLES.items()):
        signal, rate = soundfile.read(str(first).replace("_mixture.wav", f"_{kind}.wav"))
        levels = spectrogram(signal, rate)
        axis.imshow(
            levels,
            origin="lower",
            aspect="auto",
            cmap="magma",
            vmin=levels.max() - 65,
            vmax=levels.max(),
            extent=(0, len(signal) / rate, 0, rate / 2000),
        )
        axis.set_title(title, fontsize=10)
    for axis in axes[1]:
        axis.set_xlabel("time (s)")
    for axis in axes[:, 0]:
        axis.set_ylabel("frequency (kHz)")
    figure.savefig(picture, dpi=72)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        raise SystemExit(__doc__)
    main(*sys.argv[1:])
