"""Measure a network on every mixture of a manifest: the forward pass here, the metrics in worker processes."""

import contextlib
import hashlib
import json
import os
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from unified_sess.audio import read_audio
from unified_sess.errors import UserError, writable_folder
from unified_sess.evaluation.examples import write_examples
from unified_sess.evaluation.genders import mixture_genders
from unified_sess.evaluation.metrics import choose_families, metric_names, utterance_metrics
from unified_sess.evaluation.plots import read_train_log
from unified_sess.evaluation.report import write_report
from unified_sess.evaluation.results import Results
from unified_sess.evaluation.tables import by_genders, by_input_snr
from unified_sess.network import UnifiedNetwork, enhanced_mixture

PARTIAL_NAME = "test_results.partial"
ROWS_A_WORKER = 16  # a worker takes seconds to start: not worth it for less
THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


def evaluate_network(
    network,
    manifest,
    output_folder,
    sample_rate,
    device="cpu",
    audio_examples=4,
    limit=None,
    metrics=None,
    jobs=None,
    progress=True,
):
    """Measure every mixture; write `test_results.csv`, `test_results.json`, `report.html` and sound examples.

    Finished utterances are kept in `test_results.partial`: after a kill, the same call goes on behind them.

    Arguments
    ---------
    network : UnifiedNetwork or object
        With `separate_batch` `[batch, time]` to `[batch, time, speakers]` and `enhance_batch` `[batch, time]` to
        `[batch, time]`.
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
    if isinstance(network, torch.nn.Module):
        network.eval()
    partial = _Partial(output_folder / PARTIAL_NAME, _fingerprint(network, rows, sample_rate, metrics))
    waiting = [row for row in rows if row.id not in partial.done]
    jobs = jobs or min(_cores(), len(waiting) // ROWS_A_WORKER)
    bar = tqdm(total=len(rows), initial=len(rows) - len(waiting), desc="Evaluating", disable=not progress)
    with partial, bar:
        for measured in _measure_all(network, waiting, sample_rate, device, metrics, jobs):
            partial.add(measured)
            bar.update()
    genders = mixture_genders([row.id for row in rows], manifest.data_root)
    labelled = [partial.done[row.id] | {"genders": genders.get(row.id, "")} for row in rows]
    results = Results(labelled, metric_names(metrics), {"sample_rate": sample_rate, "speakers": len(rows[0].sources)})
    groups = {"by_input_snr": by_input_snr(results), "by_genders": by_genders(results)}
    results.details |= {name: [group._asdict() for group in table] for name, table in groups.items()}
    write_examples(lambda x: run_network(network, x, device), rows, results, output_folder, sample_rate, audio_examples)
    results.save(output_folder)
    write_report(output_folder)
    partial.path.unlink(missing_ok=True)
    return results


@torch.no_grad()
def run_network(network, mixture, device="cpu"):
    """Mixture `[time]` to estimates `[time, speakers]` and the enhanced mixture `[time]`, as numpy arrays."""
    batch = torch.as_tensor(mixture).unsqueeze(0).to(device)
    if isinstance(network, UnifiedNetwork):  # both from one pass
        sources, features = network(batch)
        enhanced = enhanced_mixture(network, features, batch.shape[-1])
    else:
        sources, enhanced = network.separate_batch(batch), network.enhance_batch(batch)
    return sources[0].float().cpu().numpy(), enhanced[0].float().cpu().numpy()


def read_references(row, mixture, sample_rate):
    """Sources `[time, speakers]` and clean mixture `[time]` of a row; the latter is their sum where it has no file."""
    sources = np.stack([read_audio(path, sample_rate=sample_rate)[0] for path in row.sources], axis=1)
    clean = sources.sum(1) if row.clean is None else read_audio(row.clean, sample_rate=sample_rate)[0]
    for path, signal in ((row.sources[0], sources), (row.clean, clean)):
        if len(signal) != len(mixture):
            raise UserError(
                f"{path} has {len(signal)} samples where its mixture {row.mixture} has {len(mixture)}: "
                "make the corpus again"
            )
    return sources, clean


def _measure_all(network, rows, sample_rate, device, metrics, jobs):
    """Yield the metrics of each row, in the order of completion."""

    def tasks():
        for row in rows:
            mixture = read_audio(row.mixture, sample_rate=sample_rate)[0]
            yield row, mixture, *run_network(network, mixture, device), sample_rate, metrics

    if jobs <= 1:
        yield from (_measure(*task) for task in tasks())
        return
    # Forked processes inherit torch's threads in an unknown state, so workers start afresh, one thread each.
    with _one_thread(), ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        try:
            pending = set()
            for task in tasks():
                pending.add(pool.submit(_measure, *task))
                if len(pending) >= 3 * jobs:  # signals in flight stay few
                    done, pending = wait(pending, return_when=FIRST_COMPLETED)
                    yield from (future.result() for future in done)
            yield from (future.result() for future in pending)
        except BrokenProcessPool:
            raise UserError(
                "a process that measures was stopped (out of memory?): run the same command again, it goes on; "
                "fewer --jobs need less memory"
            ) from None
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _measure(row, mixture, estimates, enhanced, sample_rate, metrics):
    sources, clean = read_references(row, mixture, sample_rate)
    return {"ID": row.id} | utterance_metrics(mixture, clean, sources, estimates, enhanced, sample_rate, metrics)


@contextlib.contextmanager
def _one_thread():
    """Processes started inside use one thread each."""
    before = {name: os.environ.get(name) for name in THREAD_VARIABLES}
    os.environ.update(dict.fromkeys(THREAD_VARIABLES, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


def _cores():
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _fingerprint(network, rows, sample_rate, metrics):
    """What the measured values depend on; None where the parameters are not known."""
    if not isinstance(network, torch.nn.Module):
        return None
    digest = hashlib.sha256(json.dumps([sample_rate, list(metrics)]).encode())
    for name, tensor in sorted(network.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    for row in rows:
        for path in (row.mixture, row.clean, *row.sources):
            digest.update(f"{path} {os.stat(path).st_mtime_ns if path and os.path.exists(path) else ''}\n".encode())
    return digest.hexdigest()


class _Partial:
    """Finished utterances of an interrupted evaluation: a line of JSON each, after a line with the fingerprint."""

    def __init__(self, path, fingerprint):
        self.path, self.done = path, {}
        lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
        same = fingerprint is not None and lines[:1] == [json.dumps(fingerprint)]
        for line in lines[1:] if same else []:
            with contextlib.suppress(ValueError):  # the last line may be cut
                measured = json.loads(line)
                self.done[measured["ID"]] = measured
        self.head = [fingerprint, *self.done.values()]

    def __enter__(self):
        self.file = open(self.path, "w", encoding="utf-8")
        for entry in self.head:
            print(json.dumps(entry), file=self.file, flush=True)
        return self

    def add(self, measured):
        """Keep the measures of an utterance."""
        self.done[measured["ID"]] = measured
        print(json.dumps(measured), file=self.file, flush=True)

    def __exit__(self, *_):
        self.file.close()


def summary_lines(results, output_folder):
    """What a training run says at its end: separation, enhancement, conflict of the gradients, where the sounds are."""
    means = results.means()

    def line(name, key, gain):
        if means.get(key) is None:
            return []
        improvement = "" if means.get(gain) is None else f" (improvement {means[gain]:.2f} dB)"
        return [f"{name} {means[key]:.2f} dB{improvement}"]

    lines = [f"Test: {len(results)} mixtures, means"]
    lines += line("  separation   SI-SNR", "si_snr", "si_snri") + line("  separation   SDR   ", "sdr", "sdri")
    lines += line("  enhancement  SI-SNR", "se_si_snr", "se_si_snri")
    conflict = last_conflict_rate(output_folder)
    if conflict is not None:
        lines.append(f"  conflict rate of the two gradients in the last epoch: {100 * conflict:.1f} %")
    if results.details.get("examples"):
        lines.append(f"Sounds to listen to: {Path(output_folder) / 'audio'}")
    return lines


def last_conflict_rate(output_folder):
    """Share of conflicting pairs of gradients in the last epoch's log line, None where it was not logged."""
    rates = read_train_log(Path(output_folder) / "train_log.txt").get("train conflict_rate", np.array([]))
    rates = rates[np.isfinite(rates)]
    return float(rates[-1]) if len(rates) else None
