"""Spectra from which voices are learnt: of scenes of one person, and of what a model makes of scenes of one and two.

Tracks of a model hold what the network that tells voices apart will hear: distorted voices, leaks of others, and one
person spread over several tracks.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import soxr
import torch
from tqdm import tqdm

from unified_sess.data.dynamic_mixing import DynamicMixingDataset
from unified_sess.data.scenes.scene import Scene
from unified_sess.inference.separating import Separator
from unified_sess.inference.voices.encoder import FRAMES, VoiceEncoder

RATE = 8000  # Hz, at which voices are heard
SECONDS = 6.0  # of a piece
RMS = 0.05  # of a piece
QUIET = 0.01  # of the power of a piece's loud units, under which a unit tells nothing
PURE = 5.0  # dB that a person lies above another one in a unit that is hers
BATCH = 8  # scenes that a model separates at once
NOBODY = -1

People = Callable[[Scene], list[int]]  # the numbers of a scene's people
LISTENER = VoiceEncoder(RATE)


class Pieces(NamedTuple):
    """Spectra, and whose voice is in them.

    decibels : float16 `[pieces, frames, bands]`.
    speakers : int `[pieces, units]`, numbers of people; `NOBODY` where it is not certain whose a unit is.
    """

    decibels: np.ndarray
    speakers: np.ndarray


def clean_pieces(dataset: DynamicMixingDataset, people: People, count: int) -> Pieces:
    """Scenes of one person, at `RATE`."""
    found = []
    for k in tqdm(range(count), desc="scenes of one"):
        scene = dataset.scene((0, k, None))
        found.append(_piece(scene.mixture[None], people(scene)[0]))
    return joined(found)


def separated_pieces(dataset: DynamicMixingDataset, people: People, count: int, model: Separator) -> Pieces:
    """The model's tracks of scenes of one and two people, at the model's rate."""
    found = []
    for first in tqdm(range(0, count, BATCH), desc="scenes to separate"):
        scenes = [dataset.scene((0, k, None)) for k in range(first, min(first + BATCH, count))]
        mixtures = torch.from_numpy(np.stack([scene.mixture for scene in scenes]).astype(np.float32))
        for scene, tracks in zip(scenes, model.separate_batch(mixtures).cpu().numpy(), strict=True):
            numbers = np.array(people(scene))
            heard = soxr.resample(np.concatenate((tracks, scene.images), axis=1), model.sample_rate, RATE).T
            tracks, images = heard[: model.num_spks], heard[model.num_spks :][: len(numbers)]
            found.append(_piece(tracks, whose(tracks, images, numbers)))
    return joined(found)


def whose(tracks: np.ndarray, images: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    """Whose voice is in the units of separated tracks, `[tracks, units]`, `NOBODY` where two are about as loud.

    The power of a track in a unit is taken apart into shares of the powers of one or two people by least squares.

    Arguments
    ---------
    tracks : numpy.ndarray
        `[tracks, time]` at `RATE`.
    images : numpy.ndarray
        One or two people as the microphone hears them, `[people, time]`.
    numbers : numpy.ndarray
        Theirs, `[people]`.
    """
    parts, said = _units(tracks), _units(images)
    if len(numbers) == 1:
        return np.broadcast_to(np.where(said[0].sum(1) > 0, numbers[0], NOBODY), parts.shape[:2])
    products, both = np.einsum("pub,qub->upq", said, said), np.einsum("tub,pub->tup", parts, said)
    scale = np.trace(products, axis1=1, axis2=2)[:, None, None] + 1e-30
    shares = np.einsum("upq,tuq->tup", np.linalg.inv(products + 1e-6 * scale * np.eye(2)), both)
    alone = both / np.maximum(np.einsum("upp->up", products), 1e-30)
    shares = np.where((shares < 0).any(2, keepdims=True), np.where(shares < 0, 0, alone), shares)
    energies = 10 * np.log10(shares * said.sum(2).T + 1e-14)
    clear = np.abs(energies[..., 0] - energies[..., 1]) >= PURE
    return np.where(clear, numbers[energies.argmax(2)], NOBODY)


def joined(pieces: list[Pieces]) -> Pieces:
    """All of them."""
    return Pieces(*(np.concatenate(part) for part in zip(*pieces, strict=True)))


def _piece(signals, speakers):
    """Spectra of signals `[signals, time]` at one level, and who of `[signals, units or 1]` speaks where they are loud."""
    level = RMS / np.sqrt(np.square(signals).mean(1, keepdims=True) + 1e-12)
    power = LISTENER.spectrum((signals * level).astype(np.float32))
    units = power.shape[1] // FRAMES
    loudness = power[:, : units * FRAMES].reshape(len(power), units, -1).sum(2)
    loud = loudness >= QUIET * np.percentile(loudness, 90, axis=1, keepdims=True)
    decibels = 10 * np.log10(np.maximum(power, 1e-12)).astype(np.float16)
    return Pieces(decibels, np.where(loud, speakers, NOBODY))


def _units(signals):
    """Powers of all frames of a unit in the bands, `[signals, units, frames * bands]`."""
    power = LISTENER.spectrum(signals.astype(np.float32))
    units = power.shape[1] // FRAMES
    return power[:, : units * FRAMES].reshape(len(signals), units, -1)
