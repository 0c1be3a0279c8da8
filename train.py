#!/usr/bin/env python3
"""Train, evaluate and listen: python train.py hparams/unified.yaml [--data_folder DIR] [--option value ...]

Options are the settings of the experiment file and SpeechBrain's own run options (--device, --precision, ...).
Several processes: torchrun --nproc_per_node=N train.py hparams/unified.yaml ...
"""

import logging
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from unified_sess.data.manifest import Manifest
from unified_sess.utils.parallel import waiting_of_threads

os.environ.update(waiting_of_threads())  # read when torch is imported

import speechbrain as sb
import torch
from speechbrain.utils.distributed import ddp_barrier, ddp_init_group, if_main_process

from unified_sess.data.parts import build_datasets, choose_data_folder, refuse_idle_options
from unified_sess.evaluation.evaluate import evaluate_network, summary_lines
from unified_sess.training.brain import UnifiedBrain
from unified_sess.training.command_line import parse_command_line
from unified_sess.training.distributed import lost_process_is_one_line
from unified_sess.training.experiment import Experiment
from unified_sess.training.pretrained import load_pretrained
from unified_sess.training.resuming import HYPERPARAMS, refuse_another_run
from unified_sess.training.utterance_losses import refuse_missing_steps
from unified_sess.utils.allocator import keep_freed_memory
from unified_sess.utils.errors import UserError, one_line_errors, writable_folder


def main(arguments: Sequence[str]) -> None:
    """Run an experiment, from the command line's arguments to the printed summary."""
    # SpeechBrain misses it at an import, for pictures that are not drawn here; levels it sets by itself.
    logging.getLogger("speechbrain.utils.train_logger").addFilter(lambda record: "torchvision" not in record.msg)
    path, run_options, overrides = parse_command_line(arguments)
    start_processes(run_options)
    if run_options.get("device") == "cpu":
        keep_freed_memory()
    experiment = Experiment(path, overrides)
    refuse_idle_options(experiment.settings, overrides)
    refuse_another_run(experiment.settings)
    output_folder = Path(writable_folder(experiment.settings["output_folder"]))
    sb.utils.seed.seed_everything(experiment.settings["seed"])  # the same initial weights on every rank
    hparams = experiment.build()
    if not run_options.get("test_only"):
        refuse_missing_steps(hparams["modules"]["masknet"], hparams.get("step_weight"))
    if hparams.get("pretrained"):
        load_pretrained(hparams["modules"], hparams["pretrained"], hparams["sample_rate"])
    data_folder = main_first(choose_data_folder, hparams)
    datasets = main_first(build_datasets, hparams, data_folder)

    start_records(experiment, output_folder, run_options)
    brain = UnifiedBrain(hparams["modules"], hparams["opt_class"], hparams, run_options, hparams["checkpointer"])
    workers = {"num_workers": hparams["num_workers"]}
    brain.fit(
        hparams["epoch_counter"],
        datasets["train"],
        datasets["valid"],
        train_loader_kwargs={"batch_size": hparams["batch_size"], **workers},
        valid_loader_kwargs={"batch_size": 1, **workers},
    )
    if if_main_process():
        test(brain, datasets["test"].manifest, hparams, output_folder)
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def start_processes(run_options: dict) -> None:
    """Choose the device and, under torchrun, join the other processes."""
    if "device" not in run_options and not torch.cuda.is_available():
        run_options["device"] = "cpu"
    if run_options.get("device", "").startswith("mps"):
        raise UserError(
            "mps does not train: losses and gradients are summed in float64, which it lacks; give --device cpu"
        )
    if run_options.get("device", "").startswith("cuda") and not torch.cuda.is_available():
        raise UserError(
            f"--device {run_options['device']}: PyTorch finds no GPU here; give --device cpu, or leave it out"
        )
    on_cpu = run_options.get("device") == "cpu"
    if on_cpu and "fp16" in (run_options.get("precision"), run_options.get("eval_precision")):
        raise UserError("fp16 needs a GPU: give --precision bf16 or fp32 on a CPU")
    if "RANK" in os.environ:
        run_options.setdefault("distributed_backend", "gloo" if on_cpu else "nccl")
        ddp_init_group(run_options)


def main_first(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call on the main process, then on the others, which find its work done."""
    if if_main_process():
        result = function(*arguments)
    ddp_barrier()
    return result if if_main_process() else function(*arguments)


def start_records(experiment: Experiment, output_folder: Path, run_options: dict) -> None:
    """Save the resolved experiment, unless nothing is trained, and start the log file beside the results.

    The log file gets all that the libraries have to tell; the screen gets warnings, and what is said to people.
    """
    if if_main_process():
        hyperparams = output_folder / HYPERPARAMS
        if not (run_options.get("test_only") and hyperparams.exists()):
            experiment.save(hyperparams)
        handlers = {"file_handler": {"filename": str(output_folder / "log.txt")}, "console": {"level": "WARNING"}}
        sb.utils.logger.setup_logging(sb.core.DEFAULT_LOG_CONFIG, {"handlers": handlers})


def test(brain: UnifiedBrain, manifest: Manifest, hparams: dict, output_folder: Path) -> None:
    """Measure the best checkpoint on the test part, write sound examples and print the summary."""
    print(f"Testing the best epoch on {len(manifest)} mixtures, and writing a report.", flush=True)
    brain.on_evaluate_start(max_key="si_snri")
    results = evaluate_network(
        brain.network.eval(),
        manifest,
        output_folder,
        sample_rate=hparams["sample_rate"],
        device=brain.device,
        audio_examples=hparams["audio_examples"],
        limit=brain.debug_batches if brain.debug else None,
    )
    print("\n".join(summary_lines(results, output_folder)))


if __name__ == "__main__":
    if sys.argv[1:] in ([], ["--help"], ["-h"]):
        print(__doc__)
        raise SystemExit(0)
    with one_line_errors("train.py"), lost_process_is_one_line():
        main(sys.argv[1:])
