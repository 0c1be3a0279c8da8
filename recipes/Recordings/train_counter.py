#!/usr/bin/env python3
"""Train the network that tells whether a model's tracks hold one person or two.

    python recipes/Recordings/train_counter.py --speech DIR [DIR ...] --noise DIR [DIR ...] --cache DIR

It learns from the tracks that the model that ships makes of scenes of one and two people, in stretches of two to six
seconds. What it hears is that one person's parts fit together, in pitch and time, and that two people's do not. About an
hour on one core for the tracks, and ten minutes for the steps.
"""

import argparse
from typing import NamedTuple

import numpy as np
import soxr
import torch
import torch.nn.functional as F
from tqdm import tqdm
from two_tracks import dataset, run

from unified_sess.inference.separating import Separator
from unified_sess.inference.voices.counter import WEIGHTS, counter_input
from unified_sess.inference.voices.encoder import BANDS, FRAMES, VoiceEncoder
from unified_sess.nnet.voice_encoder import VoiceEncoder as Network
from unified_sess.utils.errors import UserError

SCENES = {
    "active": [0, 0.4, 0.6],
    "rooms": 0.5,
    "rt60": [0.15, 0.8],
    "room_count": 300,
    "turns": 0.45,
    "level_difference": 10,
    "noise_snr": [-6, 28],
    "devices": 0.25,
    "clipping": 0.01,
}
RATE = 8000  # Hz, at which tracks are heard
SECONDS = 6.0  # of a scene
BATCH = 48  # stretches a step
SEPARATED = 8  # scenes that a model separates at once
SHORTEST = 9  # units in a stretch
SPEAKS, SILENT = -20.0, -35.0  # dB under the loud units of a scene, above and below which a person speaks, or is silent
ALONE, TOGETHER = 4, 2  # units in which one person speaks alone, and each of two
DROPPED = 0.3  # share of the features that a step does not see
SCENE_COUNT, FEWEST = 5000, (50, 20)  # scenes, and scenes and steps at least


class Pieces(NamedTuple):
    """Tracks of separated scenes.

    powers : float16 `[pieces, tracks + 1, frames, bands]`, dB of each track and of their sum.
    levels : float16 `[pieces, people, units]`, dB of each person under the loud units of the scene.
    """

    powers: np.ndarray
    levels: np.ndarray


def main() -> None:
    """Read the command line, make scenes, train and write the weights."""
    run("train_counter.py", __doc__, WEIGHTS, SCENE_COUNT, FEWEST, make_pieces, train)


def make_pieces(options: argparse.Namespace, model: Separator) -> Pieces:
    """All scenes, separated; the same arguments give the same ones."""
    made = dataset(options, model.sample_rate, SECONDS, 5, SCENES)
    listener, found = VoiceEncoder(RATE), []
    for first in tqdm(range(0, options.scenes, SEPARATED), desc="scenes to separate"):
        scenes = [made.scene((0, k, None)) for k in range(first, min(first + SEPARATED, options.scenes))]
        mixtures = torch.from_numpy(np.stack([scene.mixture for scene in scenes]).astype(np.float32))
        for scene, tracks in zip(scenes, model.separate_batch(mixtures).cpu().numpy(), strict=True):
            heard = soxr.resample(np.concatenate((tracks, scene.images), axis=1), model.sample_rate, RATE).T
            heard = heard.astype(np.float32)
            powers = listener.spectrum(np.concatenate((heard[:2], heard[:2].sum(0, keepdims=True))))
            found.append((_decibels(powers), _decibels(_levels(heard[2:]))))
    return Pieces(*(np.stack(part) for part in zip(*found, strict=True)))


def people(levels: np.ndarray) -> int | None:
    """1 or 2 people in a stretch with `levels` `[people, units]`, see `Pieces`; None where it is neither for certain."""
    speaking, silent = (levels > SPEAKS).sum(1), (levels < SILENT).all(1)
    if (speaking >= TOGETHER).all():
        return 2
    return 1 if silent.any() and speaking.max() >= ALONE else None


def train(pieces: Pieces, steps: int, seed: int = 0) -> Network:
    """Train on stretches of the pieces; raises `UserError` where they never hold one person, or never two."""
    missing = {1, 2} - {people(levels) for levels in pieces.levels}
    if missing:
        raise UserError(f"no scene surely holds {missing.pop()} of two people: give more --scenes or --speech")
    torch.manual_seed(seed)
    random, network = np.random.default_rng(seed), Network(3 * BANDS, channels=64, size=1, dilations=(1, 2, 4, 8))
    network.pool_norm.register_forward_hook(lambda layer, _, y: F.dropout(y, DROPPED, layer.training))
    optimizer = torch.optim.AdamW(network.parameters(), weight_decay=0.05)
    rate = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, steps, pct_start=0.1)
    mean = 0.0
    bar = tqdm(range(steps), desc="training")
    for step in bar:
        spectrum, two = draw(pieces, random)
        logits = network(torch.from_numpy(spectrum).transpose(1, 2))[:, 0]
        loss = F.binary_cross_entropy_with_logits(logits, torch.from_numpy(two))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 5.0)
        optimizer.step()
        rate.step()
        mean += (loss.item() - mean) / min(step + 1, 100)
        bar.set_postfix(loss=f"{mean:.3f}")
    return network.eval()


def draw(pieces: Pieces, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Stretches of one length, `[stretches, frames, 3 * bands]`, and whether each holds two people, `[stretches]`."""
    units = int(random.integers(SHORTEST, pieces.levels.shape[2], endpoint=True))
    found: dict[int, list[np.ndarray]] = {1: [], 2: []}
    while min(map(len, found.values())) < BATCH // 2:
        piece = random.integers(len(pieces.powers))
        unit = random.integers(pieces.levels.shape[2] - units + 1)
        count = people(pieces.levels[piece, :, unit : unit + units])
        if count is not None and len(found[count]) < BATCH // 2:
            found[count].append(pieces.powers[piece, :, unit * FRAMES : (unit + units) * FRAMES])
    decibels = np.stack(found[1] + found[2]).astype(np.float32) + _microphones(BATCH, random)
    spectrum = np.stack([counter_input(10 ** (stretch / 10)) for stretch in decibels])
    return _hidden(spectrum, random), np.repeat(np.float32([0, 1]), BATCH // 2)


def _microphones(count, random):
    """Smooth gains in dB over the bands, the same for all signals and frames, for three of five stretches."""
    grid = torch.from_numpy(random.uniform(-8, 8, (count, 1, 5)).astype(np.float32))
    smooth = F.interpolate(grid, BANDS, mode="linear", align_corners=True).numpy()
    return smooth[:, None] * (random.random((count, 1, 1, 1)) < 0.6)


def _hidden(spectrum, random):
    """With noise on all values, and without two bands of up to six and a moment of up to 0.3 s."""
    spectrum = spectrum + random.standard_normal(spectrum.shape, np.float32) * random.uniform(
        0, 0.15, (len(spectrum), 1, 1)
    )
    parts = spectrum.reshape(*spectrum.shape[:2], 3, BANDS)
    for stretch in parts:
        for _ in range(2):
            first, width = random.integers(BANDS - 6), random.integers(7)
            stretch[..., first : first + width] = 0
        first, width = random.integers(parts.shape[1] - 20), random.integers(20)
        stretch[first : first + width] = 0
    return spectrum.astype(np.float32)


def _levels(images):
    """Power of each person `[people, units]` relative to the loud units of all."""
    units = images.shape[1] // (FRAMES * RATE * 16 // 1000)
    powers = np.square(images[:, : units * FRAMES * RATE * 16 // 1000]).reshape(len(images), units, -1).mean(2)
    return powers / max(np.percentile(powers.sum(0), 90), 1e-12)


def _decibels(powers):
    return (10 * np.log10(np.maximum(powers, 1e-12))).astype(np.float16)


if __name__ == "__main__":
    main()
