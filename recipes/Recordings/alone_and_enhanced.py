#!/usr/bin/env python3
"""How well a model cleans noisy speech, and what it leaves on its other outputs where one person talks.

    python recipes/Recordings/alone_and_enhanced.py --data-folder data/mini/Libri2Mix [--model FOLDER]

Both are measured on the first mixtures of the test part: once with their noise brought to an SNR of 5 dB, once with their
first person alone. DNSMOS is measured where speechmos is installed (the extra `metrics`).
"""

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from unified_sess.data.corpora import find_corpus, prepare_manifests, rate_there
from unified_sess.data.dataset import MixtureDataset
from unified_sess.data.manifest import read_manifest
from unified_sess.evaluation.perceptual import dnsmos_metrics, missing_package, stoi_metrics
from unified_sess.evaluation.rates import resampled
from unified_sess.evaluation.signals import Signals
from unified_sess.evaluation.statistics import mean_interval
from unified_sess.inference import UnifiedSeparation
from unified_sess.losses import si_snr
from unified_sess.utils.errors import one_line_errors

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
        model = UnifiedSeparation.from_pretrained(options.model)
        rate = rate_there(options.data_folder, model.sample_rate)
        corpus = find_corpus(options.data_folder, rate, parts=("test",), exact=False)
        manifest = read_manifest(prepare_manifests(corpus, folder, progress=False)["test"], corpus.root)
        mixtures = MixtureDataset(manifest, rate)
        items = [mixtures[k] for k in tqdm(range(min(options.mixtures, len(mixtures))), desc="read", leave=False)]
        show_enhanced([enhanced(model, item, rate, options.snr) for item in tqdm(items, desc="enhance", leave=False)])
        show_alone([alone(model, item, rate) for item in tqdm(items, desc="separate", leave=False)])


def enhanced(model: UnifiedSeparation, item: dict, rate: int, snr: float) -> dict:
    """SI-SNR improvement in dB, STOI and DNSMOS of the enhanced mixture, its noise `snr` dB below the speech."""
    clean = torch.from_numpy(item["clean"])
    noise = torch.from_numpy(item["mixture"]) - clean
    noisy = clean + noise * (clean.square().sum() / noise.square().sum() / 10 ** (snr / 10)).sqrt()
    found = at_the_rate_of(model, noisy, rate, lambda signal: model.enhance_batch(signal)[0])
    signals = Signals(noisy, clean, clean[:, None], found[:, None], found, rate)
    better = float(si_snr(found, clean) - si_snr(noisy, clean))
    scores = dnsmos_metrics(signals) if missing_package("dnsmos") is None else {}
    return {"SI-SNRi": better, **stoi_metrics(signals), **scores}


def alone(model: UnifiedSeparation, item: dict, rate: int) -> float:
    """By how many dB the second loudest output lies below the loudest, where the first person talks in the noise."""
    person, noise = item["sources"][:, 0], item["mixture"] - item["clean"]
    tracks = at_the_rate_of(
        model, torch.from_numpy(person + noise), rate, lambda signal: model.separate_batch(signal)[0]
    )
    levels = 10 * torch.log10(tracks.square().sum(0) + 1e-12).sort(descending=True).values
    return float(levels[0] - levels[1])


def at_the_rate_of(
    model: UnifiedSeparation, signal: torch.Tensor, rate: int, function: Callable[[torch.Tensor], torch.Tensor]
) -> torch.Tensor:
    """What a model makes of a signal of another rate, at that rate again."""
    if rate == model.sample_rate:
        return function(signal[None].to(model.device)).cpu()
    length = round(len(signal) * model.sample_rate / rate)
    raised = torch.from_numpy(resampled(signal.numpy(), rate, model.sample_rate, length))
    found = function(raised[None].to(model.device)).cpu().numpy()
    return torch.from_numpy(resampled(found, model.sample_rate, rate, len(signal)))


def show_enhanced(rows: list[dict]) -> None:
    """Print the means, and the 95 % interval of the SI-SNRi over new mixtures."""
    low, high = mean_interval(np.array([row["SI-SNRi"] for row in rows]))
    interval = "" if low is None else f" [{low:.2f}, {high:.2f}]"
    print(f"enhanced, {len(rows)} mixtures: SI-SNRi {np.mean([row['SI-SNRi'] for row in rows]):.2f} dB{interval}")
    for name in [name for name in rows[0] if f"{name}_mixture" in rows[0]]:
        pairs = np.array([(r[f"{name}_mixture"], r[name]) for r in rows if isinstance(r[name], float)])
        before, after = pairs.mean(0)
        print(f"  {name}: {before:.3f} to {after:.3f}")


def show_alone(gaps: list[float]) -> None:
    """Print how the gaps lie."""
    tenth, median = np.quantile(gaps, [0.1, 0.5])
    share = np.mean(np.array(gaps) >= APART)
    print(f"one person alone: the next output {median:.1f} dB lower (median), {tenth:.1f} dB in the worst tenth")
    print(f"  {APART:g} dB or more in {share:.0%}")


if __name__ == "__main__":
    main()
