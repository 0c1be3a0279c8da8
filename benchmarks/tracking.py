"""How well speakers stay on their tracks: windows put right in conversations of five minutes, from real speech.

    python -m benchmarks.tracking --corpora ../shared/corpora [--model FOLDER] [--pairs 20]

Run from the repository's folder. Each conversation (`tests/inference/conversation.py`) has turns, both at once and pauses
longer than a window; the order of the sources is drawn anew for each window of 16 s. The tracker gets the true sources,
sources with a share of each other and noise, and what a model makes of their sum.
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tests.inference.conversation import conversation, leaky, recorded_pairs, windows_right
from unified_sess.inference import UnifiedSeparation


def main() -> None:
    """Print a row for each kind of sources."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--corpora", type=Path, required=True, help="folder with LibriSpeech in it")
    parser.add_argument("--model", help="exported folder or hub id, of two speakers at 8 kHz")
    parser.add_argument("--pairs", type=int, default=20, help="conversations, half of them of one gender")
    options = parser.parse_args()
    kinds = {"true sources": None}
    for decibels in (-10, -6, -4):
        kinds[f"leak of {decibels} dB, noise of -14 dB"] = leaky(10 ** (decibels / 20), 0.2)
    if options.model:
        kinds[options.model] = separator(UnifiedSeparation.from_pretrained(options.model))
    print(
        "| sources | windows right | one gender | two genders | worst conversation | all right |\n|---|---|---|---|---|---|"
    )
    for name, separate in kinds.items():
        shares = np.array([
            windows_right(conversation(pair, seed=seed), seed=seed, separate=separate)
            for seed, pair in enumerate(recorded_pairs(options.corpora, options.pairs))
        ])  # fmt: skip
        means = [f"{100 * part.mean():.1f} %" for part in (shares, shares[::2], shares[1::2])]
        print(
            f"| {name} | {' | '.join(means)} | {100 * shares.min():.0f} % | {(shares == 1).sum()} of {len(shares)} |",
            flush=True,
        )


def separator(model: Any) -> Callable[[np.ndarray], np.ndarray]:
    """What a model makes of the sum of sources `[time, 2]`."""
    return lambda window: model.separate_batch(torch.from_numpy(window.sum(1)[None]))[0].cpu().numpy()


if __name__ == "__main__":
    main()
