"""Folders of synthetic speech in LibriSpeech's layout and of noise."""

import numpy as np
import soundfile

from tests.corpus import voice


def make_folders(root, speakers=4, utterances=2, seconds=3.2, splits=("train-clean-100",), noises=3):
    """Write `LibriSpeech/<split>/<speaker>/1/*.flac` and `wham_noise/tr/*.wav` at 16 kHz; return both folders."""
    random = np.random.default_rng(0)
    for s, split in enumerate(splits):
        for k in range(speakers):
            speaker = 10 * (s + 1) + k
            folder = root / "LibriSpeech" / split / str(speaker) / "1"
            folder.mkdir(parents=True)
            for u in range(utterances):
                signal = voice(random, int(16000 * (seconds + 0.1 * u)), 16000, 100 + 30 * k)
                soundfile.write(folder / f"{speaker}-1-{u:04}.flac", signal, 16000)
    (root / "wham_noise" / "tr").mkdir(parents=True)
    for n in range(noises):
        noise = 0.05 * random.standard_normal((16000 * (2 + n), 2))
        soundfile.write(root / "wham_noise" / "tr" / f"n{n}.wav", noise, 16000)
    return root / "LibriSpeech", root / "wham_noise"
