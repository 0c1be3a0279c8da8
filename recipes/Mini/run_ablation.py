#!/usr/bin/env python3
"""The ablation on Mini: train and test every row of `ablation_rows.py`, then write the table and its pictures.

    python recipes/Mini/run_ablation.py --data data/mini --warm-start recipes/Mini/separator

Rows see the same mixtures in the same order, start from the same weights and take as many steps. A stopped run goes on
with the same command. Options after `--` go to train.py, for all rows: `-- --number_of_epochs 2 --precision bf16`.
"""

import argparse
import functools
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tqdm import tqdm

from unified_sess.utils.errors import UserError, one_line_errors, writable_folder
from unified_sess.utils.files import atomic_path
from unified_sess.utils.parallel import available_cores

sys.path.insert(0, str(Path(__file__).resolve().parent))
from ablation_rows import EXPERIMENT, ROWS
from ablation_table import write_ablation
from warm_start import write_warm_start

TRAIN_SCRIPT = EXPERIMENT.parents[2] / "train.py"


def main(arguments: Sequence[str] | None = None) -> None:
    """Run what is missing, then write the table of what is there."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, type=Path, help="folder of Mini: Libri2Mix and Libri3Mix")
    parser.add_argument(
        "--warm-start",
        type=Path,
        help="results of unified.yaml with --enhancer none, or their export; default: from scratch",
    )
    parser.add_argument("--output", type=Path, default=Path("results/Mini/ablation"))
    parser.add_argument("--rows", nargs="+", choices=list(ROWS), metavar="ROW", help=f"of {', '.join(ROWS)}")
    parser.add_argument("--seeds", nargs="+", type=int, help="only these of each row's seeds")
    parser.add_argument("--jobs", type=int, default=1, help="trainings at a time; they share the cores")
    parser.add_argument("--table-only", action="store_true", help="write the table of the runs that are finished")
    parser.add_argument("options", nargs="*", help="for train.py, after --")
    arguments = parser.parse_args(arguments)
    output = Path(writable_folder(arguments.output))
    if not arguments.table_only:
        runs = [
            (n, seed) for n in arguments.rows or ROWS for seed in ROWS[n].seeds if seed in (arguments.seeds or [seed])
        ]
        runs.sort(key=lambda run: run[1])  # a stopped ablation has whole seeds
        train_all([Run(name, seed, arguments) for name, seed in runs], arguments.jobs)
    print(write_ablation(output))


class Run:
    """One training of a row with a seed, in a process of its own."""

    def __init__(self, name: str, seed: int, arguments: argparse.Namespace) -> None:
        row = ROWS[name]
        self.folder = arguments.output / slug(name) / str(seed)
        options = {"seed": seed, "num_spks": row.speakers, "output_folder": self.folder}
        options["data_folder"] = arguments.data / f"Libri{row.speakers}Mix"
        if arguments.warm_start:
            layers = row.overrides.get("separator_layers")
            kind = f"{row.speakers}-speakers" + (f"-{layers}-layers" if layers else "")
            options["pretrained"] = warm_start(
                arguments.warm_start, arguments.output / "warm_start" / kind, layers, row.speakers
            )
        options |= row.overrides
        self.command = [sys.executable, str(TRAIN_SCRIPT), str(EXPERIMENT)]
        self.command += [part for key, value in options.items() for part in (f"--{key}", str(value))]
        self.command += ["--noprogressbar", *arguments.options]
        self.note = {"row": name, "seed": seed, "speakers": row.speakers, "options": self.command[3:]}

    @property
    def finished(self) -> bool:
        """Whether the results are there."""
        return (self.folder / "test_results.json").is_file()

    def check(self) -> None:
        """Refuse to go on with a run that was begun with other options."""
        note = self.folder / "run.json"
        if note.is_file() and json.loads(note.read_text(encoding="utf-8")) != self.note:
            raise UserError(f"{self.folder} was begun with other options: give the same ones, or another --output")
        self.folder.mkdir(parents=True, exist_ok=True)
        with atomic_path(note) as temporary:
            Path(temporary).write_text(json.dumps(self.note, indent=1), encoding="utf-8")

    def train(self, threads: int) -> None:
        """Train and test; raises `UserError` with the last line that train.py said."""
        environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
        ended = subprocess.run(self.command, env=environment, check=False, capture_output=True, text=True)
        if ended.returncode:
            said = (ended.stderr.strip().splitlines() or [f"status {ended.returncode}"])[-1]
            raise UserError(f"{self.note['row']}, seed {self.note['seed']}: {said}")


def train_all(runs: Sequence[Run], jobs: int) -> None:
    """Train what is not finished, `jobs` at a time; the first error ends the others before they start."""
    for run in runs:
        run.check()
    waiting = [run for run in runs if not run.finished]
    threads = max(1, available_cores() // jobs)
    failed = threading.Event()

    def train(run):
        if failed.is_set():
            return
        try:
            run.train(threads)
        except UserError:
            failed.set()
            raise

    with ThreadPoolExecutor(jobs) as pool, tqdm(total=len(runs), initial=len(runs) - len(waiting), desc="runs") as bar:
        for future in [pool.submit(train, run) for run in waiting]:
            future.result()
            bar.update()


warm_start = functools.cache(write_warm_start)  # rows and seeds share them


def slug(name: str) -> str:
    """A row's name as that of a folder."""
    return re.sub(r"[^\w.]+", "-", name)


if __name__ == "__main__":
    with one_line_errors("run_ablation.py"):
        main()
