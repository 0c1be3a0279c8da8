"""A trained network as an ONNX file, run by onnxruntime on the CPU: separation without torch."""

import contextlib
import hashlib
from pathlib import Path

import numpy as np

from unified_sess.inference.runtime import model_name
from unified_sess.model_io.model_folder import ONNX, ModelConfig, find_model
from unified_sess.model_io.onnx_file import INPUT, OUTPUTS, OnnxFile, read_onnx
from unified_sess.model_io.onnx_session import open_session, short_reason
from unified_sess.utils.errors import UserError

SUFFIX = Path(ONNX).suffix
TRIAL_SECONDS = 0.1  # s of silence that a file is tried on


class OnnxSeparator:
    """A network that `unified-sess export` wrote as ONNX; a `Runtime`.

    Its threads are as many as OMP_NUM_THREADS says, or the cores of this process; they do not spin while they wait.

    Arguments
    ---------
    file : OnnxFile
        The file, checked by `model_io.onnx_file`.
    name : str
        What messages call the model.

    Raises
    ------
    UserError
        When onnxruntime is missing or the file gives what its metadata do not say.
    """

    def __init__(self, file: OnnxFile, name: str = "the model") -> None:
        self.config: ModelConfig = file.config
        self.name, self.num_spks, self.sample_rate = name, self.config.num_spks, self.config.sample_rate
        self.silence_threshold = self.config.silence_threshold
        self._digest = hashlib.sha256(file.data).hexdigest()[:32]
        self._session = open_session(file.data, name, "export it again")
        self._try()

    @classmethod
    def load(cls, source: str | Path | None = None) -> "OnnxSeparator":
        """Load a model: an .onnx file, a folder or hub id that has a model.onnx, None for the model that ships.

        Raises
        ------
        UserError
            When there is no such file, or it is none of ours.
        """
        name = model_name(source)
        if source is not None and Path(source).suffix == SUFFIX and not Path(source).is_dir():
            return cls(read_onnx(source), name)
        path = find_model(source, (ONNX,)) / ONNX
        if not path.is_file():
            raise UserError(
                f"{path.parent} has no {ONNX}: the whole package writes it, unified-sess export {path.parent} {path}"
            )
        return cls(read_onnx(path), name)

    def separate_windows(self, mixtures: np.ndarray, enhanced: bool = False) -> np.ndarray:
        """Mixtures `[windows, time]` to sources `[windows, time, speakers]`, with the enhanced mixture behind them on request."""
        if mixtures.size == 0:
            return np.zeros((*mixtures.shape, self.num_spks + enhanced), np.float32)
        wanted = list(OUTPUTS) if enhanced else [OUTPUTS[0]]
        sources, *clean = self._run(np.ascontiguousarray(mixtures, np.float32), wanted)
        return np.concatenate((sources, *(signal[..., None] for signal in clean)), axis=2) if clean else sources

    def digest(self) -> str:
        """32 hexadecimal digits of the file."""
        return self._digest

    def set_effort(self, effort: int) -> None:
        """An ONNX file always runs all steps of its network: `UserError`."""
        raise UserError(f"--effort {effort}: an ONNX file runs all steps of its network, leave --effort out")

    def shared_by(self, jobs: int) -> contextlib.AbstractContextManager:
        """Nothing to do: recordings share the session's threads."""
        return contextlib.nullcontext()

    def _run(self, mixtures, wanted):
        try:
            return self._session.run(wanted, {INPUT: mixtures})
        except Exception as error:  # noqa: BLE001 - onnxruntime has its own kinds of errors
            raise UserError(f"{self.name} failed on {mixtures.shape[1]} samples ({short_reason(error)})") from None

    def _try(self):
        """Raise `UserError` unless the network gives what the metadata promise."""
        length = round(TRIAL_SECONDS * self.sample_rate)
        shapes = [output.shape for output in self._run(np.zeros((1, length), np.float32), list(OUTPUTS))]
        if shapes != [(1, length, self.num_spks), (1, length)]:
            raise UserError(
                f"{self.name} says {self.num_spks} speakers, but gives outputs of other shapes: export it again"
            )
