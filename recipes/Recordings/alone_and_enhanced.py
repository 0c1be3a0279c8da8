#!/usr/bin/env python3
"""How well a model cleans noisy speech, and what it leaves on its other outputs where one person talks.

    python recipes/Recordings/alone_and_enhanced.py --data-folder data/mini/Libri2Mix [--model FOLDER]

Both are measured on the first mixtures of the test part: once with their noise brought to an SNR of 5 dB, once with their
first person alone. DNSMOS is measured where speechmos is installed (the extra `metrics`).
"""

import argparse
import functools
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from unified_sess.data.corpora import find_corpus, prepare_manifests, rate_there
from unified_sess.data.dataset import MixtureDataset
from unified_sess.data.manifest import read_manifest
from unified_sess.evaluation.evaluate import run_network
from unified_sess.evaluation.perceptual import dnsmos_metrics, missing_package, stoi_metrics
from unified_sess.evaluation.signals import Signals
from unified_sess.evaluation.statistics import mean_interval
from unified_sess.inference import UnifiedSeparation
from unified_sess.inference.activity import active_tracks, frame_powers
from unified_sess.inference.voices.placing import placed
from unified_sess.inference.voices.turns import MOST_TRACKS
from unified_sess.losses import si_snr
from unified_sess.network import UnifiedNetwork
from unified_sess.utils.errors import UserError, one_line_errors

Run = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]  # a mixture to its sources and the enhanced mixture
APART = 20.0  # dB that everything else should lie below a person who talks alone


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-folder", type=Path, required=True, help="corpus with a test part")
    parser.add_argument("--model", type=Path, help="exported folder; default: the model that ships")
    parser.add_argument("--mixtures", type=int, default=40, help="of the test part, from its start")
    parser.add_argument("--snr", type=float, default=5.0, help="dB, of the speech to the noise")
    options = parser.parse_args()
    with one_line_errors("alone_and_enhanced.py"), tempfile.TemporaryDirectory() as folder:
        if not np.isfinite(options.snr):
            raise UserError(f"--snr {options.snr}: give a number of dB")
        if any(options.data_folder.glob("wav*/*/*/rooms.csv")):
            raise UserError(
                f"{options.data_folder} holds rooms, where the mixture less the direct paths is no noise: give Libri2Mix"
            )
        if options.mixtures < 1:
            raise UserError(f"--mixtures must be at least 1, not {options.mixtures}")
        model = UnifiedSeparation.from_pretrained(options.model)
        if model.num_spks < 2:
            raise UserError("the model has one output: give --model one that separates")
        rate = rate_there(options.data_folder, model.sample_rate)
        corpus = find_corpus(options.data_folder, rate, parts=("test",), exact=False)
        manifest = read_manifest(prepare_manifests(corpus, folder, progress=False)["test"], corpus.root)
        mixtures = MixtureDataset(manifest, rate)
        items = [mixtures[k] for k in tqdm(range(min(options.mixtures, len(mixtures))), desc="read", leave=False)]
        network = UnifiedNetwork(model.mods, model.enhanced_from)
        rates = None if rate == model.sample_rate else (rate, model.sample_rate)
        run = functools.partial(run_network, network, device=model.device, rates=rates)
        show_enhanced([enhanced(run, item, rate, options.snr) for item in tqdm(items, desc="enhance", leave=False)])
        found = [alone(run, item, rate, model.silence_threshold) for item in tqdm(items, desc="separate", leave=False)]
        show_alone(*zip(*found))


def enhanced(run: Run, item: dict, rate: int, snr: float) -> dict:
    """SI-SNR improvement in dB, STOI and DNSMOS of the enhanced mixture, its noise `snr` dB below the speech."""
    clean, noise = item["clean"], item["mixture"] - item["clean"]
    if not noise.any() or not clean.any():
        raise UserError(f"mixture {item['id']} has no noise or no speech: give a noisy corpus")
    noisy = clean + noise * np.sqrt(np.square(clean).sum() / np.square(noise).sum() / 10 ** (snr / 10))
    found = run(noisy)[1]
    signals = Signals(noisy, clean, clean[:, None], found[:, None], found, rate)
    before, after = (float(si_snr(torch.as_tensor(x), torch.as_tensor(clean))) for x in (noisy, found))
    scores = dnsmos_metrics(signals) if missing_package("dnsmos") is None else {}
    return {"SI-SNRi": after - before, **stoi_metrics(signals), **scores}


def alone(run: Run, item: dict, rate: int, threshold: float | None) -> tuple[float, int]:
    """Where the first person talks in the noise: dB of the second loudest output below the loudest; people found.

    The levels are those of the network's outputs, the people those of whom `separate` writes tracks. `threshold` is the
    model's `silence_threshold`.
    """
    mixture = item["sources"][:, 0] + item["mixture"] - item["clean"]
    tracks = run(mixture)[0]
    levels = np.sort(10 * np.log10(np.square(tracks).sum(0) + 1e-12))
    if threshold is not None and tracks.shape[1] <= MOST_TRACKS:
        tracks = placed(tracks, rate)
    active = active_tracks(frame_powers(tracks, rate), frame_powers(mixture[:, None], rate)[:, 0], threshold)
    return float(levels[-1] - levels[-2]), int(active.sum())


def show_enhanced(rows: list[dict]) -> None:
    """Print the means, and the 95 % interval of the SI-SNRi over new mixtures."""
    low, high = mean_interval(np.array([row["SI-SNRi"] for row in rows]))
    interval = "" if low is None else f" [{low:.2f}, {high:.2f}]"
    print(f"enhanced, {len(rows)} mixtures: SI-SNRi {np.mean([row['SI-SNRi'] for row in rows]):.2f} dB{interval}")
    for name in [name for name in rows[0] if f"{name}_mixture" in rows[0]]:
        pairs = np.array([(r[f"{name}_mixture"], r[name]) for r in rows if isinstance(r[name], float)])
        if len(pairs):
            print(f"  {name}: {pairs[:, 0].mean():.3f} to {pairs[:, 1].mean():.3f}")


def show_alone(gaps: Sequence[float], people: Sequence[int]) -> None:
    """Print how the gaps lie, and for how many recordings `separate` writes one person."""
    tenth, median = np.quantile(gaps, [0.1, 0.5])
    share = np.mean(np.array(gaps) >= APART)
    print(f"one person alone: the next output {median:.1f} dB lower (median), {tenth:.1f} dB in the worst tenth")
    print(
        f"  {APART:g} dB or more in {share:.0%}; one output alone is taken to hold somebody in {np.mean(np.array(people) == 1):.0%}"
    )


if __name__ == "__main__":
    main()
