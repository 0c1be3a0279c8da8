"""What windows, tracks and files need of a trained network, whatever runs it: torch (`separating`) or ONNX (`onnx_separator`)."""

import contextlib
from typing import Protocol

import numpy as np


class Runtime(Protocol):
    """A trained network that takes and gives NumPy arrays.

    `name` is what messages call the model. `silence_threshold`, in dB relative to the mixture, is where an output holds
    nobody; None for networks that are free in level (trained with SI-SNR).
    """

    num_spks: int
    sample_rate: int
    name: str

    @property
    def silence_threshold(self) -> float | None: ...

    def separate_windows(self, mixtures: np.ndarray, enhanced: bool = False) -> np.ndarray:
        """Mixtures `[windows, time]` to sources `[windows, time, speakers]`, with the enhanced mixture behind them on request."""

    def digest(self) -> str:
        """32 hexadecimal digits that change with anything of the model that its results depend on."""

    def set_effort(self, effort: int) -> None:
        """Choose how often a network that works in steps runs; `UserError` where it cannot."""

    def shared_by(self, jobs: int) -> contextlib.AbstractContextManager:
        """Meanwhile so many recordings are separated at a time, in as many threads as one recording alone has."""
