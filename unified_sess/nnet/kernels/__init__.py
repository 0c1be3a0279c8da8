"""Hand-written backward passes and GPU kernels behind one switch; the plain operations of PyTorch are the reference.

`use(False)`, or the environment variable `UNIFIED_SESS_KERNELS=0` before the start, makes every network run on plain
operations: to compare numbers, to measure what a kernel wins, or where one is suspected of a fault.
"""

import os

import torch

_enabled = os.environ.get("UNIFIED_SESS_KERNELS", "1") != "0"


def use(on: bool) -> bool:
    """Switch all kernels on or off, for the whole process; returns whether they were on.

    Example
    -------
    >>> were_on = use(False)
    >>> on_cpu(torch.zeros(1))
    False
    >>> use(were_on)
    False
    """
    global _enabled
    before, _enabled = _enabled, on
    return before


def on_cpu(x: torch.Tensor) -> bool:
    """Whether a tensor takes the kernels for a CPU: they are on, it is there, and `torch.compile` is not at work."""
    return _enabled and x.device.type == "cpu" and not torch.compiler.is_compiling()


def on_gpu(x: torch.Tensor) -> bool:
    """Whether a tensor takes the kernels for a GPU: they are on, it is there, and `torch.compile` is not at work."""
    return _enabled and x.device.type == "cuda" and not torch.compiler.is_compiling()
