"""Mixtures read from a manifest, cropped and speed-perturbed on the way."""

import math
from collections.abc import Sequence

import numpy as np
import soxr
import torch

from unified_sess.data.batches import item_key
from unified_sess.data.manifest import Manifest
from unified_sess.utils.audio import read_audio
from unified_sess.utils.errors import UserError


class MixtureDataset(torch.utils.data.Dataset):
    """Mixtures of a corpus on disk.

    Items are dictionaries with `id`, `mixture` `[time]`, `clean` `[time]` and `sources` `[time, speakers]`, asked for
    with `(epoch, index, length)` or by their number alone. Mixture, clean mixture and sources are cut alike. With speed perturbation each source is resampled by a factor of its own
    and the noise is added again afterwards, as in the paper's training; in a reverberant corpus the dry and the
    reverberant source by the same factor.

    Arguments
    ---------
    manifest : unified_sess.data.manifest.Manifest
        Rows of a corpus.
    sample_rate : int
        Rate in Hz that every file must have.
    seed : int
        With epoch and index it keys an item's randomness.
    speed_factors : list of float
        Factors to draw from (0.95 is slower); None leaves the sources as they are.

    Raises
    ------
    UserError
        Naming the file that cannot be used, when an item is read.
    """

    def __init__(
        self, manifest: Manifest, sample_rate: int, seed: int = 0, speed_factors: Sequence[float] | None = None
    ) -> None:
        self.manifest = manifest
        self.sample_rate, self.seed = sample_rate, seed
        self.speed_factors = [float(f) for f in speed_factors] if speed_factors else None
        self.frames = np.asarray(manifest.frames)

    def __len__(self) -> int:
        return len(self.manifest)

    def __getitem__(self, key: int | tuple[int, int, int | None]) -> dict:
        epoch, index, length = item_key(key, len(self))
        row = self.manifest[index]
        random = np.random.default_rng([self.seed, epoch, index])
        if self.speed_factors:
            return self._perturbed(row, length, random)
        start, stop = 0, None
        if length is not None and length < row.frames:
            start = int(random.integers(row.frames - length + 1))
            stop = start + length
        sources = np.stack([self._read(path, row, start, stop) for path in row.sources], axis=1)
        mixture = self._read(row.mixture, row, start, stop)
        if row.clean:
            clean = self._read(row.clean, row, start, stop)
        else:
            clean = sum(self._read(path, row, start, stop) for path in row.images)
        return {"id": row.id, "mixture": mixture, "clean": clean, "sources": sources}

    def _perturbed(self, row, length, random):
        factors = random.choice(self.speed_factors, size=len(row.sources))
        wanted = length
        if wanted is None:  # whole signals: as long as the shortest perturbed source
            wanted = min(row.frames, *(math.floor(row.frames / f) for f in factors))
        start = int(random.integers(max(row.frames - wanted, 0) + 1))

        def perturbed(paths):
            signals = []
            for path, factor in zip(paths, factors):
                need = min(math.ceil(wanted * factor) + 1, row.frames)
                first = min(start, row.frames - need)
                signal = self._read(path, row, first, first + need)
                if factor != 1:
                    signal = soxr.resample(signal, self.sample_rate * factor, self.sample_rate)
                signals.append(_cut_or_padded(signal, wanted))
            return np.stack(signals, axis=1)

        sources = perturbed(row.sources)
        clean = (sources if row.images == row.sources else perturbed(row.images)).sum(1)
        noise = self._noise(row, start, start + wanted)
        return {"id": row.id, "mixture": clean + _cut_or_padded(noise, wanted), "clean": clean, "sources": sources}

    def _noise(self, row, start, stop):
        stop = min(stop, row.frames)
        if row.noise:
            return self._read(row.noise, row, start, stop)
        return self._read(row.mixture, row, start, stop) - sum(
            self._read(path, row, start, stop) for path in row.images
        )

    def _read(self, path, row, start, stop):
        signal, _ = read_audio(path, start, stop, self.sample_rate)
        expected = (row.frames if stop is None else stop) - start
        if len(signal) != expected:
            raise UserError(
                f"{path} has {start + len(signal)} samples where its mixture {row.id} has {row.frames}: "
                "make the corpus again, or delete the manifests if it was changed on purpose"
            )
        return signal


def _cut_or_padded(signal, length):
    """Cut, or pad with zeros at the end: the speaker stops before the mixture does."""
    return np.pad(signal[:length], (0, max(length - len(signal), 0))).astype(np.float32, copy=False)
