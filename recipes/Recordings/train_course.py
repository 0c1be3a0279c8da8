#!/usr/bin/env python3
"""Train the network that tells which of two voices is on each of a model's tracks, moment by moment.

    python recipes/Recordings/train_course.py --speech DIR [DIR ...] --noise DIR [DIR ...] --cache DIR

It learns from the tracks that the model that ships makes of scenes of a minute in which two people take turns, whole and in
parts, and of short ones in which both talk throughout. Where one of them talks alone all is theirs; where both do, the best
is what comes nearest to the truth. Some half an hour on one core for the tracks, and one minute for the steps.
"""

import argparse
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from scipy.ndimage import uniform_filter1d
from torch import nn
from tqdm import tqdm
from two_tracks import dataset, run

from unified_sess.data.scenes.scene import Scene
from unified_sess.inference.separating import Separator
from unified_sess.inference.voices.course import (
    AROUND,
    FEATURES,
    OTHER_TRACKS,
    OTHER_TRACKS_WAYS,
    OTHER_VOICES,
    OTHER_VOICES_WAYS,
    WAYS,
    WEIGHTS,
    course_input,
    in_context,
)
from unified_sess.inference.voices.encoder import UNIT
from unified_sess.inference.voices.evidence import Evidence, Listener
from unified_sess.inference.voices.turns import first_fit
from unified_sess.utils.errors import UserError

SCENES = {
    "active": [0, 0, 1],
    "rooms": 0.5,
    "rt60": [0.15, 0.8],
    "room_count": 300,
    "turns": 1.0,
    "turn_seconds": [0.6, 6],
    "overlap": [0, 0.7],
    "pause": 0.5,
    "backchannels": 0.25,
    "level_difference": 9,
    "noise_snr": [0, 25],
    "devices": 0.2,
    "clipping": 0.01,
}
SECONDS, PARTS = 60.0, (60.0, 20.0, 10.0)  # of a scene with turns, and of the parts in which it is heard
TOGETHER = SCENES | {"turns": 0.0, "noise_snr": [-3, 20]}  # scenes in which both talk throughout
SHORT, SHARE = 10.0, 2  # s of such a scene, and how many there are for one with turns
OF_TOGETHER = 0.1  # weight of their moments, relative to those of turns, which most recordings of people have
SPEAKS = -25.0  # dB under a person's loudest unit, above which he speaks
SMOOTHED = 3  # units over which errors are averaged
BETTER = 0.8  # share of the error of two voices on two tracks, below which one voice on both is right
HIDDEN, DROPPED = 32, 0.2  # units of a layer, and the share that a step leaves out
BATCH, RATE = 768, 4e-3
SCENE_COUNT, FEWEST = 250, (10, 20)  # scenes, and scenes and steps at least


class Heard(NamedTuple):
    """A scene after separation.

    evidence : Evidence
    errors : float64 `[units, 4]`, of each of `WAYS`, voices in the order of the people.
    energy : float64 `[units]`, of both people.
    speaks : bool `[units, people]`
    """

    evidence: Evidence
    errors: np.ndarray
    energy: np.ndarray
    speaks: np.ndarray


class Moments(NamedTuple):
    """Units of separated scenes.

    features : float32 `[units, len(AROUND), FEATURES]`.
    ways : int `[units]`, the right one of `WAYS`.
    weights : float32 `[units]`, how much it matters.
    """

    features: np.ndarray
    ways: np.ndarray
    weights: np.ndarray


class CourseNetwork(nn.Module):
    """Three layers from features of the units around one to a score of each of `WAYS`."""

    def __init__(self, mean: np.ndarray, deviation: np.ndarray) -> None:
        super().__init__()
        self.register_buffer("mean", torch.from_numpy(mean))
        self.register_buffer("deviation", torch.from_numpy(deviation))
        self.first, self.second = nn.Linear(len(AROUND) * FEATURES, HIDDEN), nn.Linear(HIDDEN, HIDDEN)
        self.last = nn.Linear(HIDDEN, len(WAYS))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Features `[units, len(AROUND), FEATURES]` to scores `[units, 4]`."""
        x = ((features - self.mean) / self.deviation).flatten(1)
        x = F.dropout(self.first(x).relu(), DROPPED, self.training)
        return self.last(self.second(x).relu())

    @torch.no_grad()
    def arrays(self) -> dict[str, np.ndarray]:
        """What `inference.voices.course` needs, by name, float16."""
        scale = (1 / self.deviation).repeat(len(AROUND))
        found = {
            "first.weight": (self.first.weight * scale).T,
            "first.bias": self.first.bias - self.first.weight @ (self.mean.repeat(len(AROUND)) * scale),
        }
        for name, layer in (("second", self.second), ("last", self.last)):
            found |= {f"{name}.weight": layer.weight.T, f"{name}.bias": layer.bias}
        return {name: value.half().numpy() for name, value in found.items()}


def main() -> None:
    """Read the command line, make scenes, train and write the weights."""
    run("train_course.py", __doc__, WEIGHTS, SCENE_COUNT, FEWEST, make_moments, train)


def make_moments(options: argparse.Namespace, model: Separator) -> Moments:
    """The units of all scenes; the same arguments give the same ones."""
    found = []
    for scenes, seconds, count, weight in ((SCENES, SECONDS, 1, 1.0), (TOGETHER, SHORT, SHARE, OF_TOGETHER)):
        made = dataset(options, model.sample_rate, seconds, 7, scenes)
        for k in tqdm(range(count * options.scenes), desc=f"scenes of {seconds:g} s to separate"):
            scene = made.scene((0, k, None))
            tracks = model.separate_windows(scene.mixture[None].astype(np.float32))[0]
            found += moments_of(hear(scene, tracks, model.sample_rate), weight)
    if not any(len(moments.ways) for moments in found):
        raise UserError("no scene holds two voices that can be told apart: give more --scenes or --speech")
    return Moments(*(np.concatenate(part) for part in zip(*found, strict=True)))


def hear(scene: Scene, tracks: np.ndarray, sample_rate: int) -> Heard:
    """A scene with its tracks `[time, 2]`."""
    listener = Listener(2, sample_rate)
    listener.add(tracks)
    evidence = listener.finish()
    units = evidence.powers.shape[1]
    parts, sources, images = (_units(x, units, evidence.unit) for x in (tracks, scene.sources, scene.images))
    powers = np.square(images).mean(1)  # [units, people]
    speaks = 10 * np.log10(powers / powers.max(0).clip(1e-12) + 1e-12) > SPEAKS
    return Heard(evidence, way_errors(parts, sources), np.square(sources).sum((1, 2)), speaks)


def moments_of(heard: Heard, weight: float) -> list[Moments]:
    """Those of a scene, and of its parts as recordings of their own, with a weight."""
    units, found = len(heard.energy), []
    for count in sorted({min(units, round(seconds / UNIT)) for seconds in PARTS}):
        for first in range(0, units - count + 1, count):
            part = slice(first, first + count)
            evidence = heard.evidence
            evidence = evidence._replace(embeddings=evidence.embeddings[:, part], powers=evidence.powers[:, part])
            fit = first_fit(evidence)
            if fit is not None:
                ways, weights = right_ways(heard.errors[part], heard.energy[part], heard.speaks[part])
                ways = in_order_of_voices(ways, weights, fit)
                known = weights > 0
                features = in_context(course_input(evidence, fit))
                found.append(Moments(features[known], ways[known], np.float32(weight) * weights[known]))
    return found


def in_order_of_voices(ways: np.ndarray, weights: np.ndarray, fit: np.ndarray) -> np.ndarray:
    """Right ways `[units]` with the people in the order in which the voices of `fit` `[signals, units, 2]` fit them better."""
    persons = np.where(WAYS[ways] == 0, 1, -1).T  # [tracks, units]
    if (weights * persons * (fit[:2, :, 0] - fit[:2, :, 1])).sum() < 0:
        return np.array(OTHER_VOICES_WAYS)[ways]
    return ways


def way_errors(parts: np.ndarray, sources: np.ndarray) -> np.ndarray:
    """Energy of what is wrong in each unit with each of `WAYS`, `[units, 4]`, of tracks and sources `[units, time, 2]`."""
    errors = []
    for way in WAYS:
        placed = np.stack([parts[..., way == person].sum(2) for person in (0, 1)], axis=2)
        errors.append(np.square(placed - sources).sum((1, 2)))
    return uniform_filter1d(np.stack(errors, axis=1), SMOOTHED, axis=0)


def right_ways(errors: np.ndarray, energy: np.ndarray, speaks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The right one of `WAYS` in each unit, voices in the order of the people, and how much it matters; see `Heard`."""
    one, both = speaks.sum(1) == 1, speaks.all(1)
    crossed = np.where(errors[:, 1] < errors[:, 2], 1, 2)
    best = np.where(errors.min(1) < BETTER * errors[:, 1:3].min(1), errors.argmin(1), crossed)
    ways = np.where(one, np.where(speaks[:, 0], 0, 3), best)
    lowest, second = np.sort(errors, axis=1)[:, :2].T
    matters = np.minimum(1, (second - lowest) / (energy + 0.01 * np.percentile(energy, 95) + 1e-12))
    return ways, np.where(one, 1, np.where(both, 2 * matters, 0)).astype(np.float32)


def train(moments: Moments, steps: int, seed: int = 0) -> CourseNetwork:
    """Train on the units; tracks and voices come in any order."""
    torch.manual_seed(seed)
    network = CourseNetwork(*_spread(moments.features))
    features, ways, weights = (torch.from_numpy(np.asarray(part)) for part in moments)
    signs = torch.from_numpy(OTHER_VOICES)
    tracks_ways, voices_ways = torch.tensor(OTHER_TRACKS_WAYS), torch.tensor(OTHER_VOICES_WAYS)
    optimizer = torch.optim.AdamW(network.parameters(), weight_decay=1e-2)
    rate = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, steps)
    mean = 0.0
    bar = tqdm(range(steps), desc="training")
    for step in bar:
        some = torch.randint(len(features), (BATCH,))
        x, y = features[some], ways[some]
        if torch.rand(1) < 0.5:
            x, y = x[..., OTHER_TRACKS], tracks_ways[y]
        if torch.rand(1) < 0.5:
            x, y = x * signs, voices_ways[y]
        loss = F.cross_entropy(network(x), y, reduction="none", label_smoothing=0.02)
        loss = (weights[some] * loss).sum() / weights[some].sum().clamp_min(1e-6)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        rate.step()
        mean += (loss.item() - mean) / min(step + 1, 100)
        bar.set_postfix(loss=f"{mean:.3f}")
    return network.eval()


def _spread(features):
    """Means and deviations `[features]`, the same for both tracks; voices have no mean."""
    mean, deviation = features.mean((0, 1)), features.std((0, 1)) + 1e-3
    mean = (mean + mean[OTHER_TRACKS]) / 2 * (OTHER_VOICES > 0)
    return mean.astype(np.float32), ((deviation + deviation[OTHER_TRACKS]) / 2).astype(np.float32)


def _units(signals, units, size):
    """Signals `[time, signals]` as `[units, size, signals]`, filled up with silence."""
    missing = max(0, units * size - len(signals))
    padded = np.pad(signals, ((0, missing), (0, 0)))[: units * size]
    return padded.reshape(units, size, -1).astype(np.float64)


if __name__ == "__main__":
    main()
