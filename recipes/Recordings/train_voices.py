#!/usr/bin/env python3
"""Train the network that tells voices apart, by which turns are put on the track of their speaker.

    python recipes/Recordings/train_voices.py --speech DIR [DIR ...] --noise DIR [DIR ...] --cache DIR

What it learns from is made once (voice_pieces.py): scenes of one person in rooms, noise and devices, and the tracks that
the model that ships makes of scenes of one and two. In training their stretches lose parts of the spectrum and hold a
little of somebody else. A classifier of the speakers with an angular margin (AAM, arXiv 1801.07698) pulls the embeddings
of one person together. A few hundred people are few: with --teacher the embeddings shall also tell how a network that
knows thousands of them hears each one (voice_teacher.py). About two hours on one core, half of it for the tracks.
"""

import argparse
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from tqdm import tqdm
from voice_pieces import NOBODY, RATE, SECONDS, Pieces, clean_pieces, separated_pieces
from voice_teacher import voices_of

from unified_sess.data.dynamic_mixing import DynamicMixingDataset
from unified_sess.inference.separating import Separator
from unified_sess.inference.voices.encoder import BANDS, FRAMES, MEAN, RANGE, WEIGHTS
from unified_sess.nnet.voice_encoder import VoiceEncoder
from unified_sess.utils.errors import UserError, one_line_errors, writable_file
from unified_sess.utils.files import atomic_path

ALONE = {
    "active": [0, 1, 0],
    "rooms": 0.6,
    "rt60": [0.15, 0.9],
    "room_count": 300,
    "noise_snr": [0, 35],
    "devices": 0.3,
    "clipping": 0.02,
    "codec": 0.03,
}
SEPARATED = {
    "active": [0, 0.35, 0.65],
    "rooms": 0.5,
    "rt60": [0.15, 0.8],
    "room_count": 300,
    "turns": 0.35,
    "level_difference": 8,
    "noise_snr": [0, 30],
    "devices": 0.25,
    "clipping": 0.01,
}
STRETCH = (62, 150)  # frames
BATCH = 96  # people
FEWEST, FEWEST_STEPS = 50, 20  # people to learn from, and steps
MARGIN, SCALE = 0.15, 24.0  # of the classifier
TOLD_APART, TAUGHT = 0.5, 16.0  # weights of the classifier and the teacher
FROM_TRACKS = 0.7  # share of the stretches that are of separated tracks
TOGETHER, MOST = 5, 4  # units, of which so many or all that anybody speaks in are one person's where a stretch may lie
LEAK = (-30.0, -8.0)  # dB of somebody else under the voice
LEAKING = np.array([0.5, 0.15])  # share of the stretches of scenes, and of tracks, that hold a leak
MASKED = np.array([0.4, 0.1])  # the same, that lose parts of the spectrum
LEVEL = 14.9  # dB, power in all bands together of speech with an RMS of 0.05
GAIN = (-25.0, 5.0)  # dB from there


class Pool(NamedTuple):
    """Pieces of scenes of one person and of separated tracks, where each person speaks in them, and the voices.

    The voices are the teacher's, `[speakers, 256]`, or None.
    """

    kinds: list[Pieces]
    starts: list[list[np.ndarray]]  # of each kind, of each person: `[stretches, 2]`, piece and unit
    voices: torch.Tensor | None = None


def main() -> None:
    """Read the command line, make scenes, train and write the weights."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--speech", nargs="+", required=True, help="folders of speech, one person a file")
    parser.add_argument("--speakers", nargs="+", help="CSV path,speaker of each folder, or null")
    parser.add_argument("--shares", nargs="+", type=float, help="share of the scenes from each folder")
    parser.add_argument("--noise", nargs="+", required=True, help="folders of noise")
    parser.add_argument("--cache", type=Path, required=True, help="folder for decoded audio and rooms")
    parser.add_argument("--teacher", type=Path, help="Resemblyzer's pretrained.pt")
    parser.add_argument("--scenes", type=int, default=6000, help="of one person")
    parser.add_argument(
        "--separated", type=int, default=9000, help="scenes of one and two that are separated; 0 for none"
    )
    parser.add_argument("--model", type=Path, help="that separates them; default: the model that ships")
    parser.add_argument("--steps", type=int, default=10000)
    parser.add_argument("--output", type=Path, default=WEIGHTS, help="default: the file of the package")
    options = parser.parse_args()
    with one_line_errors("train_voices.py"):
        if options.scenes < FEWEST or options.steps < FEWEST_STEPS or options.separated < 0:
            raise UserError(f"give at least {FEWEST} --scenes, {FEWEST_STEPS} --steps and 0 --separated")
        writable_file(options.output)
        network = train(make_pool(options), options.steps)
        with atomic_path(options.output) as temporary, open(temporary, "wb") as file:
            np.savez_compressed(file, **network.arrays())


def make_pool(options: argparse.Namespace) -> Pool:
    """All pieces; the same arguments give the same ones."""
    alone = _dataset(options, RATE, 3, ALONE)
    recordings = alone.speech.recordings
    speakers = {recording.path: recording.speaker for recording in recordings}
    if len(speakers) < len(recordings):
        raise UserError("two of the --speech folders have recordings of one name: give names that tell them apart")
    names = sorted(set(speakers.values()))
    if len(names) < FEWEST:
        raise UserError(f"{len(names)} people are too few to learn voices from: give folders of {FEWEST} or more")
    voices = None if options.teacher is None else voices_of(recordings, names, options.teacher)

    def people(scene):
        return [names.index(speakers[name]) for name in scene.names]

    kinds = [clean_pieces(alone, people, options.scenes)]
    if options.separated:
        model = Separator.load(options.model)
        kinds.append(
            separated_pieces(_dataset(options, model.sample_rate, 4, SEPARATED), people, options.separated, model)
        )
    return Pool(kinds, [stretches(pieces.speakers, len(names)) for pieces in kinds], voices)


def stretches(speakers: np.ndarray, count: int) -> list[np.ndarray]:
    """Where each of `count` people speaks in pieces, `[stretches, 2]` (piece, first unit), of `speakers` `[pieces, units]`."""
    found = [[] for _ in range(count)]
    for piece, unit in np.ndindex(len(speakers), speakers.shape[1] - TOGETHER + 1):
        heard = speakers[piece, unit : unit + TOGETHER]
        heard = heard[heard != NOBODY]
        if len(heard) < 3:
            continue
        times = np.bincount(heard)
        if times.max() >= min(MOST, len(heard)):
            found[times.argmax()].append((piece, unit))
    return [np.array(own).reshape(-1, 2) for own in found]


def train(pool: Pool, steps: int, seed: int = 0) -> VoiceEncoder:
    """Train on the pieces; one thread is as fast as two."""
    torch.manual_seed(seed)
    random, network = np.random.default_rng(seed), VoiceEncoder(BANDS)
    size, count = network.linear.out_features, len(pool.starts[0])
    as_taught = torch.nn.Linear(size, 256)
    classes = torch.nn.Parameter(0.1 * torch.randn(count, size))
    optimizer = torch.optim.AdamW([*network.parameters(), *as_taught.parameters(), classes], weight_decay=1e-3)
    rate = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, steps, pct_start=0.1)
    right = 0.0
    bar = tqdm(range(steps), desc="training")
    for step in bar:
        decibels, speaker, kind = draw(pool, random)
        spectrum = (distorted(decibels, kind, random) - MEAN) / RANGE
        with torch.autocast("cpu", torch.bfloat16):
            embeddings = network(torch.from_numpy(spectrum).transpose(1, 2))
        embeddings, truth = embeddings.float(), torch.from_numpy(speaker)
        cosines = F.normalize(embeddings, dim=1) @ F.normalize(classes, dim=1).T
        margin = MARGIN * min(1.0, step / (0.3 * steps)) * F.one_hot(truth, count)
        loss = TOLD_APART * F.cross_entropy(SCALE * (cosines - margin), truth)
        if pool.voices is not None:
            loss = loss + TAUGHT * (1 - F.cosine_similarity(as_taught(embeddings), pool.voices[truth]).mean())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 5.0)
        optimizer.step()
        rate.step()
        right += ((cosines.argmax(1) == truth).float().mean().item() - right) / min(step + 1, 100)
        bar.set_postfix(loss=f"{loss.item():.2f}", right=f"{100 * right:.0f} %")
    return network.eval()


def draw(pool: Pool, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Stretches of one length in dB, `[people, frames, bands]`, each of another speaker, who speaks, and their kinds.

    They have one level, 0 dB in all bands together, and some hold a little of the next one.
    """
    heard = [person for person in range(len(pool.starts[0])) if any(len(own[person]) for own in pool.starts)]
    people = random.permutation(heard)[:BATCH]
    frames = int(random.integers(*STRETCH, endpoint=True))
    found, chosen = [], []
    for person in people:
        kinds = [k for k, own in enumerate(pool.starts) if len(own[person])]
        kind = kinds[-1] if random.random() < FROM_TRACKS else kinds[0]
        piece, unit = random.choice(pool.starts[kind][person])
        decibels = pool.kinds[kind].decibels[piece]
        middle = (unit + TOGETHER / 2 + random.uniform(-0.5, 0.5)) * FRAMES
        first = int(np.clip(middle - frames / 2, 0, len(decibels) - frames))
        found.append(decibels[first : first + frames])
        chosen.append(kind)
    power = 10 ** (np.stack(found).astype(np.float32) / 10)
    power /= power.sum(2, keepdims=True).mean(1, keepdims=True)
    leaking = random.random(len(people)) < LEAKING[chosen]
    leaks = 10 ** (random.uniform(*LEAK, len(people)) / 10) * leaking
    power = power + np.roll(power, 1, axis=0) * leaks[:, None, None].astype(np.float32)
    return 10 * np.log10(np.maximum(power, 1e-12)), people, np.array(chosen)


def distorted(decibels: np.ndarray, kind: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Bands in dB `[signals, frames, bands]` as separation leaves them, through another microphone, at any level."""
    count, frames, bands = decibels.shape

    def surface(low, high, size, chance):
        """Smooth gains in dB on a grid of `size`, for a share of the signals."""
        grid = torch.from_numpy(random.uniform(low, high, (count, 1, *size)).astype(np.float32))
        smooth = F.interpolate(grid, (frames, bands), mode="bilinear", align_corners=True)[:, 0].numpy()
        return smooth * (random.random(count) < chance)[:, None, None]

    masks = np.maximum(surface(-30, 0, (max(2, frames // 12), 6), MASKED[kind]), -20)
    microphone = surface(-9, 9, (1, 5), 0.6)
    gain = LEVEL + random.uniform(*GAIN, (count, 1, 1))
    return (decibels + masks + microphone + gain).astype(np.float32).clip(-100)


def _dataset(options, rate, seed, scenes):
    speakers = [None if table == "null" else table for table in options.speakers or ["null"] * len(options.speech)]
    return DynamicMixingDataset(
        options.speech, options.noise, options.cache, rate, 2, round(SECONDS * rate), seed=seed, speed_factors=None,
        speakers=speakers, speech_shares=options.shares, scenes=scenes,
    )  # fmt: skip


if __name__ == "__main__":
    main()
