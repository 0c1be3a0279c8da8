"""Sessions of onnxruntime on the CPU, which is an optional package."""

import os
from typing import Any

from unified_sess.utils.errors import UserError
from unified_sess.utils.parallel import available_cores


def open_session(data: bytes, name: str, advice: str) -> Any:
    """An `onnxruntime.InferenceSession` of a file's bytes.

    Its threads are as many as OMP_NUM_THREADS says, or the cores of this process; they do not spin while they wait.

    Raises
    ------
    UserError
        When onnxruntime is missing, or refuses the file: naming `name`, and ending with `advice`.
    """
    try:
        import onnxruntime
    except ImportError:
        raise UserError("ONNX files need the package onnxruntime: pip install onnxruntime") from None
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # what goes wrong is one line of ours
    threads = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0]
    options.intra_op_num_threads = int(threads) if threads.isdecimal() else available_cores()
    options.enable_mem_pattern = False  # a plan of the memory for each length, which costs a quarter more of it
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # noqa: BLE001 - onnxruntime has its own kinds of errors
        raise UserError(f"{name} cannot be loaded by onnxruntime ({short_reason(error)}): {advice}") from None


def short_reason(error: Exception) -> str:
    """The first line of an error of onnxruntime, or its kind."""
    return " ".join((str(error).strip().splitlines() or [type(error).__name__])[0].split())[:150]
