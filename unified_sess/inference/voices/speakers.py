"""A network that knows thousands of speakers, of the user's choice, in the place of the small one that ships."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import soxr

from unified_sess.inference.voices.encoder import SPAN, UNIT
from unified_sess.model_io.model_folder import find_file
from unified_sess.model_io.onnx_file import check_foreign_file, read_bytes
from unified_sess.model_io.onnx_session import open_session, short_reason
from unified_sess.utils.errors import UserError

RATE, BANDS, FRAME_RATE = 16000, 80, 100  # Hz, and frames a second, of what such networks hear
FRAMES = round(SPAN * UNIT * FRAME_RATE) - 2  # in a span; the last frames of 25 ms would end behind it
EVERY = 2  # units from one embedding to the next: more cost time and tell little more
BATCH = 4  # spans at once: more are slower and take more memory
SAME = 0.9999  # cosine of two sounds from which on a network gives one direction for all
ADVICE = (
    "give a speaker network in ONNX that hears 80 Kaldi bands, such as CAM++ or ECAPA-TDNN of 3D-Speaker or WeSpeaker"
)


class SpeakerNetwork:
    """Embeddings of voices by an ONNX network from log-mel features `[batch, frames, 80]` to directions `[batch, size]`.

    Features are those of Kaldi at 16 kHz, in frames of 25 ms every 10 ms, without their mean over the span, as the networks
    of 3D-Speaker (https://github.com/modelscope/3D-Speaker) and WeSpeaker (https://github.com/wenet-e2e/wespeaker) want
    them.

    Arguments
    ---------
    data : bytes
        The file.
    name : str
        What messages call it.

    Raises
    ------
    UserError
        When onnxruntime or kaldi-native-fbank is missing, or the file holds no such network.
    """

    def __init__(self, data: bytes, name: str) -> None:
        check_foreign_file(data, name, ADVICE)
        self.name, self.digest, self._fbank = name, hashlib.sha256(data).hexdigest()[:32], _fbank()
        self._session = open_session(data, name, ADVICE)
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        shapes = [entry.shape for entry in inputs]
        if len(shapes) != 1 or len(shapes[0]) != 3 or isinstance(shapes[0][2], int) and shapes[0][2] != BANDS:
            raise UserError(f"{name} does not take features [batch, frames, {BANDS}]: {ADVICE}")
        if not outputs:
            raise UserError(f"{name} gives nothing: {ADVICE}")
        self._input, self._output = inputs[0].name, outputs[0].name
        self._fixed = isinstance(shapes[0][0], int)
        self._batch = shapes[0][0] if self._fixed else BATCH
        found = np.asarray(self._run(np.zeros((self._batch, FRAMES, BANDS), np.float32)))
        if found.ndim != 2 or len(found) != self._batch or found.shape[1] < 2 or found.dtype.kind != "f":
            given = f"{found.dtype} {list(found.shape)}"
            raise UserError(f"{name} gives {given} where embeddings are numbers [batch, size]: {ADVICE}")
        self.size = found.shape[1]
        self._try()

    @classmethod
    def load(cls, source: str | Path) -> "SpeakerNetwork":
        """Of a local file, or of one on the hub, `owner/repository/name.onnx`; `UserError` where it cannot be read or used."""
        path = find_file(source)
        return cls(read_bytes(path, ADVICE), str(source))

    def embeddings(self, signals: np.ndarray, sample_rate: int, unit: int, first: int, count: int) -> np.ndarray:
        """Embeddings of length 1, float32 `[signals, count, size]`; `EVERY` units share one.

        Arguments
        ---------
        signals : numpy.ndarray
            `[signals, time]`.
        sample_rate : int
            Of the signals, in Hz.
        unit : int
            Samples in a unit.
        first, count : int
            Number of the first unit, and how many there are; `SPAN` / 2 before and behind are heard too.
        """
        starts = first + EVERY * np.arange(-(-count // EVERY)) + (EVERY - SPAN) / 2
        frames = np.round(starts * unit / sample_rate * FRAME_RATE).astype(int)[:, None] + np.arange(FRAMES)
        found = []
        for signal in signals:
            heard = soxr.resample(signal, sample_rate, RATE) if sample_rate != RATE else signal
            features = self._features(heard, frames.max(initial=0) + 1)
            spans = np.array_split(frames, max(1, -(-len(frames) // self._batch)))
            found.append(np.concatenate([self._heard(features[span]) for span in spans]))
        return np.repeat(np.stack(found), EVERY, axis=1)[:, :count]

    def _try(self):
        """`UserError` unless two sounds have two directions."""
        noise = np.random.default_rng(0).standard_normal((2, FRAMES * RATE // FRAME_RATE)).astype(np.float32) / 10
        sounds = noise[0], np.cumsum(noise[1]) / 10  # a bright one and a dull one
        features = np.stack([self._features(sound, FRAMES) for sound in sounds])
        found = np.concatenate([self._run((x - x.mean(0))[None].repeat(self._batch, 0))[:1] for x in features])
        lengths = np.linalg.norm(found.astype(np.float64), axis=1)
        if not np.isfinite(lengths).all() or lengths.min() <= 0:
            raise UserError(
                f"{self.name} gives no direction for a sound (its numbers are 0, NaN or infinite): {ADVICE}"
            )
        if found[0].astype(np.float64) @ found[1] > SAME * lengths.prod():
            raise UserError(f"{self.name} gives one direction for all sounds: {ADVICE}")

    def _heard(self, features):
        directions = self._run(features - features.mean(1, keepdims=True))
        directions = np.where(np.isfinite(directions), directions, 0)  # some divide by what silence has none of
        return directions / np.maximum(np.linalg.norm(directions, axis=1, keepdims=True), 1e-9)

    def _features(self, signal, frames):
        """Log-mel features `[frames, BANDS]`; silence is behind the end."""
        missing = max(0, (frames + 2) * RATE // FRAME_RATE - len(signal))
        fbank = self._fbank()
        fbank.accept_waveform(RATE, np.pad(signal, (0, missing)))
        fbank.input_finished()
        return np.stack([fbank.get_frame(k) for k in range(frames)])

    def _run(self, features):
        count = len(features)
        if self._fixed and count < self._batch:
            features = np.pad(features, ((0, self._batch - count), (0, 0), (0, 0)))
        try:
            found = self._session.run([self._output], {self._input: np.ascontiguousarray(features, np.float32)})[0]
        except Exception as error:  # noqa: BLE001 - onnxruntime has its own kinds of errors
            raise UserError(
                f"{self.name} does not run on features [batch, frames, {BANDS}] ({short_reason(error)}): {ADVICE}"
            ) from None
        if isinstance(found, np.ndarray):
            found = found[:count]
            return found.astype(np.float32) if found.dtype == np.float16 else found
        return found


def _fbank() -> Any:
    """Makes Kaldi's features of a signal, without dither, so that the same recording gives the same."""
    try:
        import kaldi_native_fbank
    except ImportError:
        raise UserError("--voices needs the package kaldi-native-fbank: pip install kaldi-native-fbank") from None
    options = kaldi_native_fbank.FbankOptions()
    options.frame_opts.dither = 0
    options.mel_opts.num_bins = BANDS
    return lambda: kaldi_native_fbank.OnlineFbank(options)
