#!/usr/bin/env python3
"""Draw scenes as training hears them: who talks when, and the spectrogram of the mixture.

Run: python docs/draw_scenes.py SPEECH NOISE scenes.png [--scenes '{rooms: 0.6, turns: 0.6}'] [--seconds 8]
"""

import argparse
from pathlib import Path

import matplotlib
import numpy as np

matplotlib.use("Agg")
from matplotlib import pyplot  # noqa: E402  after the choice of the backend

from unified_sess.data.dynamic_mixing import DynamicMixingDataset  # noqa: E402
from unified_sess.data.scenes.scene import Scene  # noqa: E402
from unified_sess.utils.errors import UserError, one_line_errors  # noqa: E402
from unified_sess.utils.yaml_files import read_yaml  # noqa: E402

EVERYTHING = """{active: [0.05, 0.2, 0.45, 0.3], rooms: 0.6, turns: 0.6, backchannels: 0.3, level_difference: 15,
noise_snr: [-5, 25], devices: 0.5, clipping: 0.1, codec: 0.1}"""
ACTIVE = -30.0  # dB of the loudest frame of a person
RANGE = 70  # dB of the spectrogram


def activity(signal: np.ndarray, frame: int) -> np.ndarray:
    """Frames `[frames]` in which a signal `[time]` is within 30 dB of its loudest frame."""
    power = np.square(signal[: len(signal) // frame * frame].reshape(-1, frame)).mean(1)
    return power > max(power.max() * 10 ** (ACTIVE / 10), 1e-12)


def title(scene: Scene) -> str:
    """What the scene is, in a line."""
    room = f"RT60 {scene.responses[0].rt60:.2f} s" if scene.responses else "dry"
    parts = [room, "turns" if scene.pieces else "throughout"]
    if scene.snr is not None:
        parts.append(f"SNR {scene.snr:.0f} dB")
    if scene.device.band:
        parts.append("{:.0f}-{:.0f} Hz".format(*scene.device.band))
    if scene.device.clip:
        parts.append(f"clipped at {scene.device.clip:.2f}")
    if scene.device.codec:
        parts.append(scene.device.codec[1])
    return ", ".join(parts)


def draw(scenes: list[Scene], sample_rate: int, path: Path) -> None:
    """Two columns of scenes, each a spectrogram below the bars of who talks."""
    rows = -(-len(scenes) // 2)
    figure, axes = pyplot.subplots(2 * rows, 2, figsize=(16, 3 * rows), height_ratios=[1, 3] * rows, squeeze=False)
    frame = sample_rate // 50
    for number, scene in enumerate(scenes):
        above, below = axes[2 * (number // 2) : 2 * (number // 2) + 2, number % 2]
        people = [signal for signal in scene.images.T if signal.any()]
        for k, signal in enumerate(people):
            edges = np.flatnonzero(np.diff(np.concatenate([[0], activity(signal, frame), [0]]).astype(int)))
            spans = [(begin / 50, (end - begin) / 50) for begin, end in edges.reshape(-1, 2)]
            level = 10 * np.log10(np.square(signal).mean())
            above.broken_barh(spans, (k - 0.4, 0.8), color=f"C{k}", label=f"{level:.0f} dB")
        above.set(xlim=(0, len(scene.mixture) / sample_rate), ylim=(-0.6, 2.6), xticks=[], yticks=[])
        above.set_title(f"{number}: {len(people)} people, {title(scene)}", fontsize=10)
        if people:
            above.legend(fontsize=7, loc="upper right")
        spectrum, *_, image = below.specgram(scene.mixture + 1e-9, NFFT=512, Fs=sample_rate, noverlap=256)
        loudest = 10 * np.log10(spectrum.max())
        image.set_clim(loudest - RANGE, loudest)
    figure.tight_layout()
    figure.savefig(path, dpi=60)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("speech", type=Path)
    parser.add_argument("noise", type=Path)
    parser.add_argument("picture", type=Path)
    parser.add_argument("--scenes", default=EVERYTHING, help="options, as in an experiment file")
    parser.add_argument("--speakers", help="CSV path,speaker")
    parser.add_argument("--cache-folder", help="where measures and rooms are kept")
    parser.add_argument("--count", type=int, default=10)
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--sample-rate", type=int, default=16000)
    parser.add_argument("--num-spks", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    with one_line_errors("draw_scenes.py"):
        if args.count < 1 or not args.seconds > 0:
            raise UserError("give at least 1 --count, and more than 0 --seconds")
        dataset = DynamicMixingDataset(
            args.speech,
            args.noise,
            args.cache_folder,
            args.sample_rate,
            args.num_spks,
            seed=args.seed,
            speakers=args.speakers,
            scenes=read_yaml(args.scenes, "--scenes"),
        )
        length = round(args.seconds * args.sample_rate)
        draw([dataset.scene((1, k, length)) for k in range(args.count)], args.sample_rate, args.picture)


if __name__ == "__main__":
    main()
