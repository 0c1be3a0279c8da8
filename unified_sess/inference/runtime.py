"""What windows, tracks and files need of a trained network, whatever runs it: torch (`separating`) or ONNX (`onnx_separator`)."""

import contextlib
from pathlib import Path
from typing import Protocol

import numpy as np

from unified_sess.utils.errors import UserError
from unified_sess.utils.installed import has_torch

TORCH, ONNX = "torch", "onnx"


class Runtime(Protocol):
    """A trained network that takes and gives NumPy arrays.

    `name` is what messages call the model. `silence_threshold`, in dB relative to the mixture, is where an output holds
    nobody; None for networks that are free in level (trained with SI-SNR).
    """

    num_spks: int
    sample_rate: int
    name: str

    @property
    def silence_threshold(self) -> float | None:
        """dB relative to the mixture under which an output holds nobody; None where levels say nothing."""

    def separate_windows(self, mixtures: np.ndarray, enhanced: bool = False) -> np.ndarray:
        """Mixtures `[windows, time]` to sources `[windows, time, speakers]`, with the enhanced mixture behind them on request."""

    def digest(self) -> str:
        """32 hexadecimal digits that change with anything of the model that its results depend on."""

    def set_effort(self, effort: int) -> None:
        """Choose how often a network that works in steps runs; `UserError` where it cannot."""

    def shared_by(self, jobs: int) -> contextlib.AbstractContextManager:
        """Meanwhile so many recordings are separated at a time, in as many threads as one recording alone has."""


def chosen_runtime(source: str | Path | None, wanted: str | None, device: str | None) -> str:
    """`torch` or `onnx`: what is wanted, else what the model's name or the installation leaves.

    Raises
    ------
    UserError
        When torch is not installed, or model or device are not for the runtime that is wanted.
    """
    is_file = source is not None and str(source).endswith(".onnx") and not Path(source).is_dir()
    if wanted == TORCH and is_file:
        raise UserError(f"{source} is an ONNX file: leave out --runtime torch, or give the folder of the model")
    if wanted == TORCH and not has_torch():
        raise UserError("--runtime torch needs the whole package, with torch: install it as its README says")
    if wanted != ONNX and not is_file and has_torch():
        return TORCH
    if device not in (None, "cpu"):
        raise UserError(f"--device {device}: ONNX files run on the cpu, leave --device out")
    return ONNX


def model_name(source: str | Path | None) -> str:
    """What messages call a model."""
    return "the model that ships" if source is None else f"the model {source}"
