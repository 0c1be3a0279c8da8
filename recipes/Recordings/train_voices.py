#!/usr/bin/env python3
"""Train the network that tells voices apart, by which turns are put on the track of their speaker.

    python recipes/Recordings/train_voices.py --speech DIR [DIR ...] --noise DIR [DIR ...] --cache DIR

Scenes of one person in rooms, noise and devices are made once. In training their stretches lose parts of the spectrum
and hold a little of somebody else, as separated tracks do. A classifier of the speakers with an angular margin (AAM,
arXiv 1801.07698) pulls the embeddings of one person together. About half an hour on one core.
"""

import argparse
from pathlib import Path
from typing import NamedTuple

import numpy as np
import scipy.signal
import torch
import torch.nn.functional as F
from tqdm import tqdm

from unified_sess.data.dynamic_mixing import DynamicMixingDataset
from unified_sess.inference.voices.encoder import BANDS, WEIGHTS, network_input
from unified_sess.inference.voices.encoder import VoiceEncoder as Listener
from unified_sess.nnet.voice_encoder import VoiceEncoder
from unified_sess.utils.errors import UserError, one_line_errors

RATE = 8000  # Hz
SECONDS = 6.0  # of a scene
SCENES = {
    "active": [0, 1, 0],
    "rooms": 0.6,
    "rt60": [0.15, 0.9],
    "room_count": 300,
    "noise_snr": [0, 35],
    "devices": 0.3,
    "clipping": 0.02,
    "codec": 0.03,
}
STRETCH = (1.0, 2.4)  # s
SPEEDS = (0.85, 1.0, 1.18)  # a voice at another speed is another voice
BATCH = 96  # people
FEWEST = 50  # people to learn from
MARGIN, SCALE = 0.15, 24.0  # of the classifier
LEAK = (-30.0, -8.0)  # dB of somebody else under the voice
GAIN = (-25.0, 5.0)  # dB
RMS = 0.05  # of a stretch, before the gain


class Pool(NamedTuple):
    """Scenes `[scenes, time]` in 16 bits, the number of each one's speaker, and how many speakers there are."""

    audio: np.ndarray
    speaker: np.ndarray
    speakers: int


def main() -> None:
    """Read the command line, make scenes, train and write the weights."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--speech", nargs="+", required=True, help="folders of speech, one person a file")
    parser.add_argument("--speakers", nargs="+", help="CSV path,speaker of each folder, or null")
    parser.add_argument("--shares", nargs="+", type=float, help="share of the scenes from each folder")
    parser.add_argument("--noise", nargs="+", required=True, help="folders of noise")
    parser.add_argument("--cache", type=Path, required=True, help="folder for decoded audio, rooms and scenes")
    parser.add_argument("--scenes", type=int, default=4000, help="how many")
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--output", type=Path, default=WEIGHTS, help="default: the file of the package")
    options = parser.parse_args()
    with one_line_errors("train_voices.py"):
        network = train(make_pool(options), options.steps)
        options.output.parent.mkdir(parents=True, exist_ok=True)
        np.savez_compressed(options.output, **network.arrays())


def make_pool(options: argparse.Namespace) -> Pool:
    """Scenes of one person each, made once and kept in the cache."""
    speakers = [None if table == "null" else table for table in options.speakers or ["null"] * len(options.speech)]
    dataset = DynamicMixingDataset(
        options.speech, options.noise, options.cache, RATE, 2, round(SECONDS * RATE), seed=3, speed_factors=None,
        speakers=speakers, speech_shares=options.shares, scenes=SCENES,
    )  # fmt: skip
    people = {recording.path: recording.speaker for recording in dataset.speech.recordings}
    names = sorted(set(people.values()))
    if len(names) < FEWEST:
        raise UserError(f"{len(names)} people are too few to learn voices from: give folders of {FEWEST} or more")
    kept = options.cache / f"voices-{options.scenes}.npz"
    if kept.exists():
        found = np.load(kept)
        return Pool(found["audio"], found["speaker"], len(names))
    audio = np.zeros((options.scenes, round(SECONDS * RATE)), np.int16)
    speaker = np.zeros(options.scenes, int)
    for k in tqdm(range(options.scenes), desc="scenes"):
        scene = dataset.scene((0, k, None))
        audio[k] = np.clip(scene.mixture, -1, 1) * 32767
        speaker[k] = names.index(people[scene.names[0]])
    np.savez(kept, audio=audio, speaker=speaker)
    return Pool(audio, speaker, len(names))


def train(pool: Pool, steps: int, seed: int = 0) -> VoiceEncoder:
    """Train on the scenes; one thread is as fast as two."""
    torch.manual_seed(seed)
    random, listener, network = np.random.default_rng(seed), Listener(RATE), VoiceEncoder(BANDS)
    voices = pool.speakers * len(SPEEDS)
    classes = torch.nn.Parameter(0.1 * torch.randn(voices, network.linear.out_features))
    optimizer = torch.optim.AdamW([*network.parameters(), classes], weight_decay=1e-3)
    rate = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, steps, pct_start=0.1)
    right = 0.0
    bar = tqdm(range(steps), desc="training")
    for step in bar:
        signals, voice = draw(pool, random)
        spectrum = torch.from_numpy(network_input(distorted(listener.spectrum(signals), random)))
        embeddings = network(spectrum.transpose(1, 2))
        cosines = F.normalize(embeddings, dim=1) @ F.normalize(classes, dim=1).T
        truth = torch.from_numpy(voice)
        margin = MARGIN * min(1.0, step / (0.3 * steps)) * F.one_hot(truth, voices)
        loss = F.cross_entropy(SCALE * (cosines - margin), truth)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 5.0)
        optimizer.step()
        rate.step()
        right += ((cosines.argmax(1) == truth).float().mean().item() - right) / min(step + 1, 100)
        bar.set_postfix(loss=f"{loss.item():.2f}", right=f"{100 * right:.0f} %")
    return network.eval()


def draw(pool: Pool, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Stretches of one length, `[people, time]`, each of another speaker, with a little of the next one; and whose voice."""
    people = random.permutation(np.unique(pool.speaker))[:BATCH]
    speeds = random.integers(len(SPEEDS), size=len(people))
    length = round(random.uniform(*STRETCH) * RATE)
    signals = np.zeros((len(people), length), np.float32)
    for k, (person, speed) in enumerate(zip(people, speeds, strict=True)):
        scene = pool.audio[random.choice(np.flatnonzero(pool.speaker == person))].astype(np.float32)
        taken = round(length * SPEEDS[speed])
        for _ in range(5):  # not a pause
            start = random.integers(len(scene) - taken + 1)
            stretch = scene[start : start + taken]
            if np.square(stretch).mean() > 0.2 * np.square(scene).mean():
                break
        signals[k] = stretch if taken == length else scipy.signal.resample(stretch, length)
    signals *= RMS / np.maximum(_rms(signals), 30.0)
    leaks = 10 ** (random.uniform(*LEAK, (len(people), 1)) / 20) * (random.random((len(people), 1)) < 0.5)
    return signals + np.roll(signals, 1, axis=0) * leaks.astype(np.float32), people * len(SPEEDS) + speeds


def distorted(power: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Powers of bands `[signals, frames, bands]` as separation leaves them, through another microphone, at any level."""
    count, frames, bands = power.shape

    def surface(low, high, size, chance):
        """Smooth gains in dB on a grid of `size`, for a share of the signals."""
        grid = torch.from_numpy(random.uniform(low, high, (count, 1, *size)))
        smooth = F.interpolate(grid, (frames, bands), mode="bilinear", align_corners=True)[:, 0].numpy()
        return smooth * (random.random((count, 1, 1)) < chance)

    masks = np.maximum(surface(-30, 0, (max(2, frames // 12), 6), 0.4), -20)
    microphone = surface(-9, 9, (1, 5), 0.6)
    return power * 10 ** ((masks + microphone + random.uniform(*GAIN, (count, 1, 1))) / 10)


def _rms(signals):
    return np.sqrt(np.square(signals).mean(1, keepdims=True))


if __name__ == "__main__":
    main()
