#!/usr/bin/env python3
"""Train, evaluate and listen: python train.py hparams/unified.yaml [--data_folder DIR] [--option value ...]

Options are the settings of the experiment file and SpeechBrain's own run options (--device, --precision, ...).
Several processes: torchrun --nproc_per_node=N train.py hparams/unified.yaml ...
"""

import logging
import os
import sys
from pathlib import Path

import speechbrain as sb
import torch
from speechbrain.utils.distributed import ddp_init_group, if_main_process, run_on_main

from unified_sess.brain import UnifiedBrain
from unified_sess.config import Experiment, parse_command_line
from unified_sess.data.datasets import build_datasets, choose_data_folder
from unified_sess.distributed import one_line_collectives
from unified_sess.errors import one_line_errors, writable_folder
from unified_sess.evaluation.evaluate import evaluate_network, summary_lines


def main(arguments):
    """Run an experiment from the command line's arguments to the printed summary."""
    path, run_options, overrides = parse_command_line(arguments)
    if not torch.cuda.is_available() and "device" not in run_options:
        run_options["device"] = "cpu"
    if run_options.get("device") == "cpu":
        run_options["distributed_backend"] = "gloo"
    ddp_init_group(run_options)

    experiment = Experiment(path, overrides)
    settings = experiment.settings
    output_folder = writable_folder(settings["output_folder"])
    data_folder = run_on_main_and_share(choose_data_folder, settings)
    datasets = run_on_main_and_share(build_datasets, settings, data_folder, settings["save_folder"])

    sb.utils.seed.seed_everything(settings["seed"])  # the same initial weights on every rank and in every run
    hparams = experiment.build()
    if if_main_process():
        start_log(output_folder)
        experiment.save(Path(output_folder) / "hyperparams.yaml")

    brain = UnifiedBrain(
        hparams["modules"], hparams["opt_class"], hparams, run_options, hparams["checkpointer"]
    )
    loader = {"num_workers": settings["num_workers"]}
    brain.fit(
        hparams["epoch_counter"],
        datasets["train"],
        datasets["valid"],
        train_loader_kwargs={"batch_size": settings["batch_size"], **loader},
        valid_loader_kwargs={"batch_size": 1, **loader},
    )
    if if_main_process():
        brain.on_evaluate_start(max_key="si_snri")
        results = evaluate_network(
            brain.network(),
            datasets["test"].manifest,
            output_folder,
            sample_rate=settings["sample_rate"],
            device=brain.device,
            audio_examples=settings["audio_examples"],
            limit=brain.debug_batches if brain.debug else None,
        )
        for line in summary_lines(results, Path(output_folder)):
            print(line)
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
