"""A tiny synthetic corpus in LibriMix layout: harmonic voices in noise."""

import numpy as np
import soundfile


def voice(generator, frames, sample_rate, pitch):
    """A harmonic tone with a moving pitch and syllable-like loudness, `[time]`."""
    time = np.arange(frames) / sample_rate
    bend = 1 + 0.1 * np.sin(2 * np.pi * generator.uniform(0.5, 2) * time)
    phase = 2 * np.pi * np.cumsum(pitch * bend) / sample_rate
    tone = sum(np.sin(k * phase) / k for k in range(1, 8))
    return (0.1 * tone * np.sin(2 * np.pi * generator.uniform(1, 3) * time) ** 2).astype("f4")


def make_corpus(folder, splits=(("train-100", 6), ("dev", 2), ("test", 2)), num_spks=2, seconds=1.0, rate=8000):
    """Write `folder/wav8k/min/<split>/{mix_both,mix_clean,s1,...,noise}`; lengths differ a little."""
    generator = np.random.default_rng(0)
    root = folder / f"wav{rate // 1000}k" / "min"
    for split, count in splits:
        for number in range(count):
            frames = int(rate * seconds) + 40 * number
            sources = [voice(generator, frames, rate, 100 + 70 * k + 10 * generator.random()) for k in range(num_spks)]
            noise = (0.02 * generator.standard_normal(frames)).astype("f4")
            signals = {f"s{k + 1}": s for k, s in enumerate(sources)} | {"noise": noise}
            signals["mix_clean"] = sum(sources)
            signals["mix_both"] = signals["mix_clean"] + noise
            for name, signal in signals.items():
                path = root / split / name / f"u{number}.wav"
                path.parent.mkdir(parents=True, exist_ok=True)
                soundfile.write(path, signal, rate, subtype="FLOAT")
    return folder
