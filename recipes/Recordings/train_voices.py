#!/usr/bin/env python3
"""Train the network that tells voices apart, by which turns are put on the track of their speaker.

    python recipes/Recordings/train_voices.py --speech DIR [DIR ...] --noise DIR [DIR ...] --cache DIR

Scenes of one person in rooms, noise and devices are made once. In training their stretches lose parts of the spectrum
and hold a little of somebody else, as separated tracks do. A classifier of the speakers with an angular margin (AAM,
arXiv 1801.07698) pulls the embeddings of one person together. A few hundred people are few: with --teacher the embeddings
shall also tell how a network that knows thousands of them hears each one (voice_teacher.py). About half an hour on one core.
"""

import argparse
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from tqdm import tqdm
from voice_teacher import voices_of

from unified_sess.data.dynamic_mixing import DynamicMixingDataset
from unified_sess.inference.voices.encoder import BANDS, WEIGHTS, network_input
from unified_sess.inference.voices.encoder import VoiceEncoder as Listener
from unified_sess.nnet.voice_encoder import VoiceEncoder
from unified_sess.utils.errors import UserError, one_line_errors
from unified_sess.utils.files import atomic_path

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
BATCH = 96  # people
FEWEST, FEWEST_STEPS = 50, 20  # people to learn from, and steps
MARGIN, SCALE = 0.15, 24.0  # of the classifier
TAUGHT = 8.0  # weight of the teacher
LEAK = (-30.0, -8.0)  # dB of somebody else under the voice
GAIN = (-25.0, 5.0)  # dB
RMS = 0.05  # of a stretch, before the gain


class Pool(NamedTuple):
    """Scenes `[scenes, time]` in 16 bits, the number of each one's speaker, how many speakers there are, and their voices.

    The voices are the teacher's, `[speakers, 256]`, or None.
    """

    audio: np.ndarray
    speaker: np.ndarray
    speakers: int
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
    parser.add_argument("--scenes", type=int, default=4000, help="how many")
    parser.add_argument("--steps", type=int, default=1700)
    parser.add_argument("--output", type=Path, default=WEIGHTS, help="default: the file of the package")
    options = parser.parse_args()
    with one_line_errors("train_voices.py"):
        if options.scenes < FEWEST or options.steps < FEWEST_STEPS:
            raise UserError(f"give at least {FEWEST} --scenes and {FEWEST_STEPS} --steps")
        network = train(make_pool(options), options.steps)
        options.output.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(options.output) as temporary, open(temporary, "wb") as file:
            np.savez_compressed(file, **network.arrays())


def make_pool(options: argparse.Namespace) -> Pool:
    """Scenes of one person each; the same arguments give the same ones."""
    speakers = [None if table == "null" else table for table in options.speakers or ["null"] * len(options.speech)]
    dataset = DynamicMixingDataset(
        options.speech, options.noise, options.cache, RATE, 2, round(SECONDS * RATE), seed=3, speed_factors=None,
        speakers=speakers, speech_shares=options.shares, scenes=SCENES,
    )  # fmt: skip
    people = {recording.path: recording.speaker for recording in dataset.speech.recordings}
    if len(people) < len(dataset.speech.recordings):
        raise UserError("two of the --speech folders have recordings of one name: give names that tell them apart")
    names = sorted(set(people.values()))
    if len(names) < FEWEST:
        raise UserError(f"{len(names)} people are too few to learn voices from: give folders of {FEWEST} or more")
    voices = None if options.teacher is None else voices_of(dataset.speech.recordings, names, options.teacher)
    audio = np.zeros((options.scenes, round(SECONDS * RATE)), np.int16)
    speaker = np.zeros(options.scenes, int)
    for k in tqdm(range(options.scenes), desc="scenes"):
        scene = dataset.scene((0, k, None))
        audio[k] = np.clip(scene.mixture, -1, 1) * 32767
        speaker[k] = names.index(people[scene.names[0]])
    return Pool(audio, speaker, len(names), voices)


def train(pool: Pool, steps: int, seed: int = 0) -> VoiceEncoder:
    """Train on the scenes; one thread is as fast as two."""
    torch.manual_seed(seed)
    random, listener, network = np.random.default_rng(seed), Listener(RATE), VoiceEncoder(BANDS)
    size = network.linear.out_features
    as_taught = torch.nn.Linear(size, 256)
    classes = torch.nn.Parameter(0.1 * torch.randn(pool.speakers, size))
    optimizer = torch.optim.AdamW([*network.parameters(), *as_taught.parameters(), classes], weight_decay=1e-3)
    rate = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, steps, pct_start=0.1)
    right = 0.0
    bar = tqdm(range(steps), desc="training")
    for step in bar:
        signals, speaker = draw(pool, random)
        spectrum = torch.from_numpy(network_input(distorted(listener.spectrum(signals), random)))
        embeddings = network(spectrum.transpose(1, 2))
        cosines = F.normalize(embeddings, dim=1) @ F.normalize(classes, dim=1).T
        truth = torch.from_numpy(speaker)
        margin = MARGIN * min(1.0, step / (0.3 * steps)) * F.one_hot(truth, pool.speakers)
        loss = F.cross_entropy(SCALE * (cosines - margin), truth)
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


def draw(pool: Pool, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Stretches of one length, `[people, time]`, each of another speaker, with a little of the next one; and who speaks."""
    people = random.permutation(np.unique(pool.speaker))[:BATCH]
    length = round(random.uniform(*STRETCH) * RATE)
    signals = np.zeros((len(people), length), np.float32)
    for k, person in enumerate(people):
        scene = pool.audio[random.choice(np.flatnonzero(pool.speaker == person))].astype(np.float32)
        for _ in range(5):  # not a pause
            start = random.integers(len(scene) - length + 1)
            signals[k] = scene[start : start + length]
            if np.square(signals[k]).mean() > 0.2 * np.square(scene).mean():
                break
    signals *= RMS / np.maximum(_rms(signals), 30.0)
    leaks = 10 ** (random.uniform(*LEAK, (len(people), 1)) / 20) * (random.random((len(people), 1)) < 0.5)
    return signals + np.roll(signals, 1, axis=0) * leaks.astype(np.float32), people


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
