#!/usr/bin/env python3
"""The ablation on Mini: train and test every row of `ablation_rows.py`, then draw the fronts and write the table.

    python recipes/Mini/run_ablation.py --data data/mini -- --speech_folder data/mini/speech/train-clean-100 \\
        --noise_folder wham_noise/tr

Rows see the same mixtures in the same order, start from the same weights and take as many steps. A stopped run goes on
with the same command. Options after `--` go to train.py, for all rows: `-- --number_of_epochs 2 --precision bf16`.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from tqdm import tqdm

from unified_sess.data.corpora import find_corpus, prepare_manifests
from unified_sess.data.manifest import Manifest, read_manifest
from unified_sess.evaluation.evaluate import evaluate_network
from unified_sess.model_io.results_folder import is_results_folder, load_trained_network
from unified_sess.network import UnifiedNetwork
from unified_sess.utils.errors import UserError, one_line_errors, writable_folder
from unified_sess.utils.files import atomic_path
from unified_sess.utils.parallel import available_cores

sys.path.insert(0, str(Path(__file__).resolve().parent))
from ablation_figures import difference_figure, front_figure
from ablation_rows import ALONE, BASE, EXPERIMENT, LAYERS, ROWS, queue
from ablation_table import SETS, ablation_table, finished_runs, markdown, total_seconds
from warm_start import write_warm_start

TRAIN_SCRIPT = EXPERIMENT.parents[2] / "train.py"


def main(arguments: Sequence[str] | None = None) -> None:
    """Run what is missing, then write the table of what is there."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, type=Path, help=f"folder of Mini: {' and '.join(SETS)}")
    parser.add_argument("--output", type=Path, default=Path("results/Mini/ablation"))
    parser.add_argument("--rows", nargs="+", choices=list(ROWS), metavar="ROW", help=f"of {', '.join(ROWS)}")
    parser.add_argument("--seeds", nargs="+", type=int, help="only these of each row's seeds")
    parser.add_argument(
        "--warm-start",
        type=Path,
        help="for the rows with a warm start: results of unified.yaml with --enhancer none, or their export; default: "
        f"the row '{ALONE}' of the same seed",
    )
    parser.add_argument("--layers", type=int, default=LAYERS, help="separator layers of the base")
    parser.add_argument("--test-mixtures", type=int, default=150, help="of each test set, evenly spread over it")
    parser.add_argument("--jobs", type=int, default=1, help="trainings at a time; they share the cores")
    parser.add_argument("--table-only", action="store_true", help="write the table of the runs that are finished")
    parser.add_argument("options", nargs="*", help="for train.py, after --")
    arguments = parser.parse_args(arguments)
    if arguments.jobs < 1 or arguments.test_mixtures < 1:
        raise UserError("give at least 1 --jobs and 1 --test-mixtures")
    if not arguments.table_only and not queue(arguments.rows, arguments.seeds):
        known = sorted({seed for _, seed in queue(arguments.rows, None)})
        raise UserError(f"these rows have no seed of {arguments.seeds}: choose from {', '.join(map(str, known))}")
    output = Path(writable_folder(arguments.output))
    if not arguments.table_only:
        sets = read_test_sets(arguments.data, output / "manifests", arguments.test_mixtures)
        runs = [Run(name, seed, arguments) for name, seed in queue(arguments.rows, arguments.seeds)]
        train_all(runs, sets, arguments.jobs)
    print(write_ablation(output))


def read_test_sets(data: Path, folder: Path, count: int) -> dict[str, tuple[Manifest, int]]:
    """Test mixtures of every set and their rate in Hz."""
    sets = {}
    for name in SETS:
        corpus = find_corpus(data / name, sample_rate=8000, num_spks=2, parts=("test",))
        manifests = prepare_manifests(corpus, folder / name)
        sets[name] = read_manifest(manifests["test"], corpus.root).spread(count), corpus.sample_rate
    return sets


class Run:
    """One training of a row with a seed, in a process of its own."""

    def __init__(self, name: str, seed: int, arguments: argparse.Namespace) -> None:
        row = ROWS[name]
        self.folder = arguments.output / slug(name) / str(seed)
        options = BASE | {"seed": seed, "output_folder": self.folder, "data_folder": arguments.data / SETS[0]}
        options |= {"cache_folder": arguments.output / "cache", "separator_layers": arguments.layers + row.layers}
        options |= row.overrides  # rows may have layers of their own
        if not any(option.startswith("--speech_folder") for option in arguments.options):
            options.pop("mixtures_per_epoch", None)  # nothing is mixed on the fly
        self.warm_start = None
        if row.warm:
            alone = arguments.output / slug(ALONE) / str(seed)
            self.warm_start = arguments.warm_start or alone
            options["pretrained"] = (
                arguments.output / "warm_start" / (slug(name) if arguments.warm_start else str(seed))
            )
        self.command = [sys.executable, str(TRAIN_SCRIPT), str(EXPERIMENT)]
        self.command += [part for key, value in options.items() for part in (f"--{key}", str(value))]
        self.command += ["--noprogressbar", *arguments.options]
        self.note = {"row": name, "seed": seed, "warm_start": self.warm_start and str(self.warm_start)}
        self.note |= {"options": self.command[3:], "test_mixtures": arguments.test_mixtures}

    @property
    def finished(self) -> bool:
        """Whether the results of every set are there."""
        return all((self.folder / name / "test_results.json").is_file() for name in SETS)

    def check(self) -> None:
        """Refuse to go on with a run that was begun with other options."""
        note = self.folder / "run.json"
        begun = json.loads(note.read_text(encoding="utf-8")) if note.is_file() else {}
        changed = [name for name in begun if begun[name] != self.note.get(name)]  # older notes name less
        if changed:
            what = changed[0].replace("_", "-")
            raise UserError(f"{self.folder} was begun with other {what}: give the same, or another --output")
        self.folder.mkdir(parents=True, exist_ok=True)
        with atomic_path(note) as temporary:
            Path(temporary).write_text(json.dumps(self.note, indent=1), encoding="utf-8")

    def check_start(self) -> None:
        """Refuse to start warm from a training that has not ended."""
        if self.warm_start is not None and is_results_folder(self.warm_start) and not _is_tested(self.warm_start):
            raise UserError(
                f"{self.note['row']} starts from {self.warm_start}, whose training has not ended: run the row '{ALONE}' "
                "first, or give --warm-start"
            )

    def train(self, sets: dict[str, tuple[Manifest, int]], threads: int) -> None:
        """Train and test; raises `UserError` with the last line that train.py said."""
        begun = time.time()
        if self.warm_start is not None:
            write_warm_start(self.warm_start, self.command[self.command.index("--pretrained") + 1])
        environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
        if not (self.folder / "test_results.json").is_file():
            ended = subprocess.run(self.command, env=environment, check=False, capture_output=True, text=True)
            if ended.returncode:
                said = (ended.stderr.strip().splitlines() or [f"status {ended.returncode}"])[-1]
                raise UserError(f"{self.note['row']}, seed {self.note['seed']}: {said}")
        config, modules = load_trained_network(self.folder)
        for name, (manifest, rate) in sets.items():
            evaluate_network(
                UnifiedNetwork(modules), manifest, self.folder / name, rate,
                audio_examples=0, metrics=("si_snr",), jobs=1, progress=False,
            )  # fmt: skip
        (self.folder / "seconds.txt").write_text(f"{time.time() - begun:.0f}\n", encoding="utf-8")


def _is_tested(folder):
    """Whether a training has ended: it was tested then."""
    return (Path(folder) / "test_results.json").is_file()


def train_all(runs: Sequence[Run], sets: dict[str, tuple[Manifest, int]], jobs: int) -> None:
    """Train what is not finished, `jobs` at a time; the first error ends the others before they start."""
    for run in runs:
        run.check()
    # Those with a warm start wait for those that they start from.
    first, then = ([run for run in runs if (run.warm_start is None) == cold] for cold in (True, False))
    _train_together(first, sets, jobs)
    _train_together(then, sets, jobs)


def _train_together(runs, sets, jobs):
    waiting = [run for run in runs if not run.finished]
    for run in waiting:
        run.check_start()
    threads = max(1, available_cores() // jobs)
    failed = threading.Event()

    def train(run):
        if failed.is_set():
            return
        torch.set_num_threads(threads)  # of the tests, which run here: those of several runs share the cores too
        try:
            run.train(sets, threads)
        except UserError:
            failed.set()
            raise

    with ThreadPoolExecutor(jobs) as pool, tqdm(total=len(runs), initial=len(runs) - len(waiting), desc="runs") as bar:
        for future in [pool.submit(train, run) for run in waiting]:
            future.result()
            bar.update()


def write_ablation(folder: Path) -> str:
    """Write `ablation.csv`, `ablation.md`, `fronts.png` and `differences.png`; returns the table as Markdown."""
    runs = finished_runs(folder)
    if not runs:
        raise UserError(f"{folder} holds no finished run yet: run the ablation without --table-only")
    table = ablation_table(runs)
    hours = total_seconds(runs) / 3600
    count = sum(map(len, runs.values()))
    text = f"{markdown(table)}\n\n{count} runs, {hours:.1f} hours of training and testing.\n"
    with atomic_path(folder / "ablation.csv") as temporary:
        table.to_csv(temporary, index=False, float_format="%.4f")
    with atomic_path(folder / "ablation.md") as temporary:
        Path(temporary).write_text(text, encoding="utf-8")
    for name, figure in (("fronts.png", front_figure(runs)), ("differences.png", difference_figure(table))):
        with atomic_path(folder / name) as temporary:
            figure.savefig(temporary, dpi=120, format="png")
    return text


def slug(name: str) -> str:
    """A row's name as that of a folder."""
    return re.sub(r"[^\w.]+", "-", name)


if __name__ == "__main__":
    with one_line_errors("run_ablation.py"):
        main()
