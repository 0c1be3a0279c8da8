"""Measure a network on every mixture of a manifest: the forward pass here, the metrics in worker processes."""

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import soxr
import torch
from tqdm import tqdm

from unified_sess.data.corpora import find_corpus, prepare_manifests, rate_there
from unified_sess.data.manifest import Manifest, read_manifest
from unified_sess.evaluation.conversation_set import (
    conversation_lines,
    evaluate_conversations,
    find_conversations,
    read_conversations,
)
from unified_sess.evaluation.examples import write_examples
from unified_sess.evaluation.measuring import default_jobs, measure_all
from unified_sess.evaluation.metrics import choose_families, metric_names
from unified_sess.evaluation.partial import Partial
from unified_sess.evaluation.plots import read_train_log
from unified_sess.evaluation.rates import resampled
from unified_sess.evaluation.report import REPORT_NAME, write_report
from unified_sess.evaluation.results import Results
from unified_sess.evaluation.speakers import mixture_genders
from unified_sess.evaluation.tables import result_tables
from unified_sess.inference.files.tracks import check_voices
from unified_sess.inference.passes import InPasses, checked_passes
from unified_sess.inference.voices.speakers import SpeakerNetwork
from unified_sess.model_io.results_folder import is_results_folder
from unified_sess.network import UnifiedNetwork, separate_and_enhance
from unified_sess.utils.audio import read_audio
from unified_sess.utils.errors import UserError, writable_folder
from unified_sess.utils.metric_names import METRIC_NAMES

if TYPE_CHECKING:
    from unified_sess.inference.separation import UnifiedSeparation

PARTIAL_NAME = "test_results.partial"


def evaluate_network(
    network: "UnifiedNetwork | UnifiedSeparation | InPasses",
    manifest: Manifest,
    output_folder: str | Path,
    sample_rate: int,
    device: str | torch.device = "cpu",
    audio_examples: int = 4,
    limit: int | None = None,
    metrics: Sequence[str] | None = None,
    jobs: int | None = None,
    progress: bool = True,
    title: str | None = None,
    training_folder: str | Path | None = None,
    speakers: str | Path | None = None,
    network_rate: int | None = None,
) -> Results:
    """Measure every mixture; write `test_results.csv`, `test_results.json`, `report.html` and sound examples.

    Finished utterances are kept in `test_results.partial`: after a kill, the same call goes on behind them.

    Arguments
    ---------
    network : UnifiedNetwork, InPasses or object
        The last with `separate_batch` `[batch, time]` to `[batch, time, speakers]` and `enhance_batch` `[batch, time]` to
        `[batch, time]`. It may give more outputs than there are sources: those of most energy are measured.
    manifest : unified_sess.data.manifest.Manifest
        The test part.
    output_folder : str or Path
        Where the results go.
    sample_rate : int
        In Hz; files at another rate are refused.
    device : str or torch.device
        Where the network runs.
    audio_examples : int
        Number of mixtures written as sound, from the worst to the best SI-SNRi in even ranks.
    limit : int
        Measure only so many mixtures, the first ones; None measures all.
    metrics : sequence of str
        Families, keys of `metrics.FAMILIES`; see `metrics.choose_families` for None.
    jobs : int
        Worker processes; None takes one a core where there is enough to do. A script that asks for several keeps its
        own work under `if __name__ == "__main__"`.
    progress : bool
        Show a progress bar.
    title, training_folder : str, str or Path
        Of the report, see `write_report`.
    speakers : str or Path
        LibriSpeech's `SPEAKERS.TXT`, where it does not lie in, above or beside the corpus.
    network_rate : int
        In Hz, where it is another than that of the files: mixtures are resampled on the way in, results on the way out.

    Returns
    -------
    Results

    Raises
    ------
    UserError
        Naming the file that cannot be read, the folder that cannot be written or the metric that is unknown.
    """
    metrics = choose_families(metrics)
    output_folder = Path(writable_folder(output_folder))
    rows = [manifest[k] for k in range(len(manifest) if limit is None else min(limit, len(manifest)))]
    if not rows:
        raise UserError("the test part holds no mixtures: nothing to evaluate")
    genders = mixture_genders([row.id for row in rows], manifest.data_root, speakers)
    if isinstance(network, torch.nn.Module):
        network.eval()
    rates = None if network_rate in (None, sample_rate) else (sample_rate, network_rate)

    def run(mixture):
        return run_network(network, mixture, device, rates)

    partial = Partial(output_folder / PARTIAL_NAME, _fingerprint(network, rows, rates or sample_rate, metrics))
    waiting = [row for row in rows if row.id not in partial.done]
    bar = tqdm(total=len(rows), initial=len(rows) - len(waiting), desc="Evaluating", disable=not progress)
    mixtures = ((row, read_audio(row.mixture, sample_rate=sample_rate)[0]) for row in waiting)
    tasks = ((row, x, *run(x), sample_rate, metrics) for row, x in mixtures)
    with partial, bar:
        for measured in measure_all(tasks, jobs or default_jobs(len(waiting))):
            partial.add(measured)
            bar.update()
    labelled = [partial.done[row.id] | {"genders": genders.get(row.id, "")} for row in rows]
    names = metric_names(metrics) + [name for name in ("rest_level",) if name in labelled[0]]
    details = {"sample_rate": sample_rate, "speakers": len(rows[0].sources)} | (
        {"network_rate": network_rate} if rates else {}
    )
    results = Results(labelled, names, details)
    results.details["groups"] = {name: [g._asdict() for g in table] for name, table in result_tables(results).items()}
    write_examples(run, rows, results, output_folder, sample_rate, audio_examples)
    results.save(output_folder)
    write_report(output_folder, title, training_folder)
    partial.path.unlink(missing_ok=True)
    return results


@torch.no_grad()
def run_network(
    network: "UnifiedNetwork | UnifiedSeparation | InPasses",
    mixture: np.ndarray,
    device: str | torch.device = "cpu",
    rates: tuple[int, int] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Mixture `[time]` to estimates `[time, speakers]` and the enhanced mixture `[time]`, as numpy arrays.

    `rates` are those of the mixture and of the network in Hz, where they differ.
    """
    heard = mixture if rates is None else soxr.resample(mixture, *rates)
    if isinstance(network, InPasses):
        both = network.separate_windows(heard[None], enhanced=True)[0]
        estimates, cleaned = both[:, :-1], both[:, -1]
    else:
        batch = torch.as_tensor(heard).unsqueeze(0).to(device)
        if isinstance(network, UnifiedNetwork):  # both from one pass
            sources, enhanced = separate_and_enhance(network, batch, network.enhanced_from)
        else:
            sources, enhanced = network.separate_batch(batch), network.enhance_batch(batch)
        estimates, cleaned = sources[0].float().cpu().numpy(), enhanced[0].float().cpu().numpy()
    if rates is None:
        return estimates, cleaned
    back = rates[1], rates[0], len(mixture)
    return resampled(estimates, *back), resampled(cleaned, *back)


def _fingerprint(network, rows, sample_rate, metrics):
    """What the measured values depend on; None where the parameters are not known."""
    digest = hashlib.sha256(json.dumps([sample_rate, list(metrics)]).encode())
    if isinstance(network, InPasses):
        digest.update(network.digest().encode())
    elif isinstance(network, torch.nn.Module):
        for name, tensor in sorted(network.state_dict().items()):
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    else:
        return None
    for row in rows:
        for path in (row.mixture, row.clean, *row.sources):
            digest.update(f"{path} {os.stat(path).st_mtime_ns if path and os.path.exists(path) else ''}\n".encode())
    return digest.hexdigest()


def evaluate_command(
    data_folder: str | Path,
    model: str | Path | None = None,
    output: str | Path = "evaluation",
    part: str = "test",
    mode: str | None = None,
    metrics: Sequence[str] = ("all",),
    jobs: int | None = None,
    limit: int | None = None,
    device: str | None = None,
    audio_examples: int = 3,
    progress: bool = True,
    speakers: str | Path | None = None,
    passes: int = 1,
    voices: SpeakerNetwork | None = None,
) -> Results:
    """What `unified-sess evaluate` does: measure a model on a corpus.

    Arguments
    ---------
    data_folder : str or Path
        LibriMix, WHAM! or WHAMR! corpus, or a set of conversations (see `conversation_set.py`, which has measures of
        its own); of it only `part` has to be there.
    model : str or Path
        Exported folder, results folder of a training, or hub id; None takes the model shipped with the package. Where
        the corpus is not there at its rate, mixtures and results are resampled.
    output : str or Path
        Folder of the results.
    part : str
        `test` or `valid` (`train` too, if you must).
    mode : str
        `min` or `max`; None takes the one that is there, `min` first.
    metrics, jobs, limit, audio_examples, progress, speakers
        As in `evaluate_network`.
    device : str
        `cpu`, `cuda`, ...; None takes a GPU where there is one.
    passes : int
        At how many speeds every mixture is separated, see `InPasses`.
    voices : SpeakerNetwork
        Recognises voices in conversations in the place of the network that ships; None takes that.

    Returns
    -------
    Results

    Raises
    ------
    UserError
        Naming what is missing or does not fit, such as a model of two speakers on a corpus of three. (More outputs
        than speakers fit: those of most energy are measured.)
    """
    from unified_sess.inference.separation import UnifiedSeparation  # takes seconds, and training does without

    metrics, passes = choose_families(metrics), checked_passes(passes)
    if limit is not None and limit < 1 or audio_examples < 0:
        raise UserError(f"limit {limit} and audio examples {audio_examples}: give at least 1, or None, and at least 0")
    model_folder = Path(model) if model is not None and is_results_folder(model) else None
    separation = UnifiedSeparation.from_pretrained(model, device=device)
    rate = rate_there(data_folder, separation.sample_rate)
    check_voices(voices, separation)
    title = f"{Path(str(model)).name if model else 'shipped model'} on {Path(data_folder).resolve().name}"
    title += "" if voices is None else f", voices by {Path(voices.name).name}"
    conversations = find_conversations(data_folder, rate, part)
    if conversations is not None:
        rows = read_conversations(conversations)
        named = title, model_folder, rate
        return evaluate_conversations(separation, rows, output, limit, progress, *named, passes, voices)
    if voices is not None:
        raise UserError(
            f"--voices {voices.name}: {data_folder} holds mixtures, of which the network's outputs are measured as they "
            "are; leave it out, or give a set of conversations"
        )
    corpus = find_corpus(data_folder, rate, mode, separation.num_spks, parts=(part,), exact=False)
    if corpus.num_spks > separation.num_spks:
        raise UserError(
            f"{corpus.root} holds mixtures of {corpus.num_spks} speakers and the model separates {separation.num_spks}: "
            f"give --model one for {corpus.num_spks} or more, or another --data-folder"
        )
    network = UnifiedNetwork(separation.mods, separation.enhanced_from) if passes == 1 else InPasses(separation, passes)
    manifests = prepare_manifests(corpus, Path(writable_folder(output)) / "manifests", progress)
    return evaluate_network(
        network,
        read_manifest(manifests[part], corpus.root),
        output,
        rate,
        device=separation.device,
        audio_examples=audio_examples,
        limit=limit,
        metrics=metrics,
        jobs=jobs,
        progress=progress,
        title=title,
        training_folder=model_folder,
        speakers=speakers,
        network_rate=separation.sample_rate,
    )


def summary_lines(results: Results, output_folder: str | Path) -> list[str]:
    """What a training run says at its end: separation, enhancement, conflict of the gradients, where report and sounds are."""
    report = f"Report, a page with all numbers, pictures and sounds: {Path(output_folder) / REPORT_NAME}"
    if results.details.get("unit") == "conversations":
        return [*conversation_lines(results), report.replace(", pictures and sounds", " and pictures")]
    means = results.means()

    def line(name, key, gain):
        if means.get(key) is None:
            return []
        improvement = "" if means.get(gain) is None else f" (improvement {means[gain]:.2f} dB)"
        count = min(results.count(metric) for metric in (key, gain) if means.get(metric) is not None)
        of = f", of {count} mixtures" if count < len(results) else ""  # the others have no value
        return [f"{name} {means[key]:.2f} dB{improvement}{of}"]

    lines = [f"Test: {len(results)} mixtures, means"]
    lines += line("  separation   SI-SNR", "si_snr", "si_snri") + line("  separation   SDR   ", "sdr", "sdri")
    lines += line("  enhancement  SI-SNR", "se_si_snr", "se_si_snri")
    for metric in ("stoi", "estoi"):
        if means.get(metric) is not None:
            name = METRIC_NAMES[metric].name
            lines.append(
                f"  intelligibility  {name:5} {means[metric]:.2f} (of the mixture: {means[f'{metric}_mixture']:.2f})"
            )
    if means.get("rest_level") is not None:
        lines.append(
            f"  outputs beyond the {results.details['speakers']} of most energy: {means['rest_level']:.1f} dB of all"
        )
    conflict = last_conflict_rate(output_folder)
    if conflict is not None:
        lines.append(f"  conflict rate of the two gradients in the last epoch: {100 * conflict:.1f} %")
    lines.append(report)
    if results.details.get("examples"):
        lines.append(f"Sounds to listen to: {Path(output_folder) / 'audio'}")
    return lines


def last_conflict_rate(output_folder: str | Path) -> float | None:
    """Share of conflicting pairs of gradients in the last epoch's log line, None where it was not logged."""
    rates = read_train_log(Path(output_folder) / "train_log.txt").get("train conflict_rate", np.array([]))
    rates = rates[np.isfinite(rates)]
    return float(rates[-1]) if len(rates) else None
