"""Sound examples of an evaluation, loud as the mixture they come from."""

import contextlib
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np

from unified_sess.evaluation.measuring import read_references
from unified_sess.evaluation.results import JSON_NAME, Results
from unified_sess.evaluation.signals import match_estimates, mixture_scale
from unified_sess.utils.audio import read_audio, write_audio

PEAK = 0.99


def write_examples(
    network: Callable, rows: list, results: Results, output_folder: str | Path, sample_rate: int, count: int
) -> None:
    """Write `audio/<id>_{mixture,enhanced,s1_estimate,...,s1,...}.wav` of some rows and note them in the results.

    Arguments
    ---------
    network : callable
        Mixture `[time]` to estimates `[time, speakers]` and enhanced mixture `[time]`.
    rows, results : list of Row, Results
        Utterances and their measures; `results.details["examples"]` becomes the ids from best to worst.
    output_folder : Path
    sample_rate, count : int
        In Hz; number of utterances, in even ranks of SI-SNRi from best to worst.
    """
    folder = Path(output_folder) / "audio"
    remove_examples(output_folder)
    chosen = choose_examples(results, count)
    results.details["examples"] = [row.id for row in (rows[k] for k in chosen)]
    if chosen:
        folder.mkdir(exist_ok=True)
    for k in chosen:
        for name, signal in _example(network, rows[k], sample_rate).items():
            write_audio(folder / f"{rows[k].id}_{name}.wav", signal, sample_rate)


def remove_examples(output_folder: str | Path) -> None:
    """Delete the sounds that the results in a folder name, before others take their place."""
    folder = Path(output_folder) / "audio"
    for name in _earlier_examples(output_folder):
        for path in folder.glob("*.wav"):
            if path.name.startswith(f"{name}_"):
                path.unlink()
    with contextlib.suppress(OSError):  # where something else lies there, too
        folder.rmdir()


def choose_examples(results: Results, count: int) -> list[int]:
    """Indices of `count` utterances in even ranks from the best SI-SNRi to the worst; the median is among them."""
    scores = results.values("si_snri")
    order = [k for k in np.argsort(-scores, kind="stable") if np.isfinite(scores[k])]
    order += [k for k in range(len(scores)) if not np.isfinite(scores[k])]
    ranks = np.linspace(0, len(order) - 1, max(count, 0))
    if count not in (0, 2):
        ranks[count // 2] = len(order) // 2
    return list(dict.fromkeys(int(order[round(rank)]) for rank in ranks))


def _example(network, row, sample_rate):
    mixture = read_audio(row.mixture, sample_rate=sample_rate)[0]
    sources, _ = read_references(row, mixture, sample_rate)
    estimates, enhanced = (np.nan_to_num(x) for x in network(mixture))
    estimates = mixture_scale(mixture, estimates[:, match_estimates(estimates, sources)])
    signals = {"mixture": mixture, "enhanced": mixture_scale(mixture, enhanced[:, None])[:, 0]}
    signals |= {f"s{k + 1}_estimate": signal for k, signal in enumerate(estimates.T)}
    signals |= {f"s{k + 1}": signal for k, signal in enumerate(sources.T)}
    # One factor for all, so that their loudness can be compared.
    factor = min(1.0, PEAK / max(np.abs(signal).max() for signal in signals.values()))
    return {name: factor * signal for name, signal in signals.items()}


def _earlier_examples(output_folder):
    path = Path(output_folder) / JSON_NAME
    return json.loads(path.read_text(encoding="utf-8")).get("examples", []) if path.is_file() else []
