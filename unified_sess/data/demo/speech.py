"""Demo speech without a download: espeak-ng, whose voices are inside its PyPI package."""

import ctypes
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import soxr

from unified_sess.utils.errors import UserError

ACCENTS = ("en-us", "en-gb", "en-gb-scotland", "en-029")
# Variants that differ in timbre; some of espeak-ng's list cannot be loaded on every build, and are passed over.
VARIANTS = [
    "m1",
    "f1",
    "m2",
    "f2",
    "m3",
    "f3",
    "m4",
    "f4",
    "m5",
    "f5",
    "m6",
    "Alicia",
    "m7",
    "Andrea",
    "m8",
    "Annie",
    "Alex",
    "belinda",
    "Andy",
    "linda",
    "Denis",
    "aunty",
    "Diogo",
    "steph",
    "Gene",
    "anika",
    "Henrique",
    "grandma",
    "Hugo",
    "steph2",
    "Jacky",
    "steph3",
    "Lee",
    "caleb",
    "Marco",
    "adam",
    "Mario",
    "john",
    "Michael",
    "boris",
    "Mike",
    "david",
    "Reed",
    "edward",
    "Storm",
    "ian",
    "ed",
    "iven",
    "antonio",
    "max",
    "benjamin",
    "miguel",
    "marcelo",
    "norbert",
    "michel",
    "pablo",
    "paul",
    "pedro",
    "quincy",
    "rob",
    "robert",
]

ADJECTIVES = [
    "old",
    "quiet",
    "heavy",
    "golden",
    "narrow",
    "distant",
    "careful",
    "broken",
    "gentle",
    "frozen",
    "crowded",
    "hollow",
    "bright",
    "early",
]
NOUNS = [
    "river",
    "teacher",
    "window",
    "engine",
    "garden",
    "captain",
    "market",
    "doctor",
    "bridge",
    "painter",
    "village",
    "letter",
    "neighbour",
    "station",
    "forest",
    "sailor",
    "kitchen",
    "mountain",
    "driver",
    "library",
    "child",
    "shadow",
    "farmer",
    "ticket",
    "orchestra",
    "harbour",
]
VERBS = [
    "watched",
    "followed",
    "carried",
    "noticed",
    "repaired",
    "remembered",
    "painted",
    "answered",
    "crossed",
    "described",
    "borrowed",
    "found",
]
PLACES = ["behind", "under", "beside", "near", "beyond", "above", "inside", "across"]
OPENINGS = ("Yesterday,", "In the evening,", "As far as I know,", "Before the rain,", "Later that week,", "", "", "")
ENDINGS = ("and nobody said a word.", "but it was too late.", "while the bells were ringing.", "again and again.", ".")

_RETRIEVE_SYNCHRONOUSLY = 2
_RATE, _PITCH, _RANGE = 1, 3, 4
_UTF8 = 1


class Voice(NamedTuple):
    """A speaker: espeak-ng's voice name, pitch and pitch range (0-100), speed in words a minute."""

    name: str
    pitch: int
    range: int
    speed: int


def make_voices(count: int, seed: int = 0) -> list[Voice]:
    """Choose distinct speakers, each with a variant of its own.

    Raises
    ------
    UserError
        Without the `demo` extra, or when too few variants can be loaded.
    """
    random = np.random.default_rng(seed)
    engine = _engine()
    voices = []
    for number, variant in enumerate(VARIANTS):
        name = f"{ACCENTS[number % len(ACCENTS)]}+{variant}"
        voice = Voice(name, int(random.integers(10, 90)), int(random.integers(30, 80)), int(random.integers(140, 195)))
        if engine.choose(voice):
            voices.append(voice)
        if len(voices) == count:
            return voices
    raise UserError(
        f"espeak-ng loads {len(voices)} of {count} voices: reinstall with pip install --force-reinstall espeakng-loader"
    )


def vary(voice: Voice, random: np.random.Generator) -> Voice:
    """The same speaker in another mood: pitch, pitch range and speed differ a little."""
    return voice._replace(
        pitch=int(np.clip(voice.pitch + random.integers(-12, 13), 0, 99)),
        range=int(np.clip(voice.range + random.integers(-20, 21), 10, 99)),
        speed=voice.speed + int(random.integers(-15, 16)),
    )


def make_sentence(random: np.random.Generator) -> str:
    """A plausible English sentence of some ten words."""

    def phrase():
        return f"the {random.choice(ADJECTIVES)} {random.choice(NOUNS)}"

    words = [random.choice(OPENINGS), phrase(), random.choice(VERBS), phrase(), random.choice(PLACES)]
    return " ".join([*words, f"the {random.choice(NOUNS)}", random.choice(ENDINGS)]).strip()


def speak(voice: Voice, text: str, sample_rate: int) -> np.ndarray:
    """Speech of a voice, float32 `[time]`, without the silence at its ends."""
    engine = _engine()
    if not engine.choose(voice):
        raise UserError(f"espeak-ng cannot load the voice {voice.name}: reinstall the demo extra")
    signal = soxr.resample(engine.say(text), engine.sample_rate, sample_rate)
    loud = np.flatnonzero(np.abs(signal) > 0.02 * np.abs(signal).max())
    return signal[loud[0] : loud[-1] + 1] if len(loud) else signal


@lru_cache
def _engine():
    return _Engine()


class _Engine:
    """espeak-ng in this process, through ctypes; it keeps global state, so there is one."""

    def __init__(self) -> None:
        try:
            import espeakng_loader
        except ImportError:
            raise UserError(
                'no data: give --data_folder DIR, or install the demo speech with pip install -e ".[demo]"'
            ) from None
        self.library = ctypes.CDLL(espeakng_loader.get_library_path())
        data = espeakng_loader.get_data_path().encode()
        self.sample_rate = self.library.espeak_Initialize(_RETRIEVE_SYNCHRONOUSLY, 0, data, 0)
        if self.sample_rate <= 0:
            raise UserError("espeak-ng does not start: reinstall with pip install --force-reinstall espeakng-loader")
        # Breath and jitter are random; state also carries over from sentence to sentence, so the same calls in a fresh
        # process give the same speech, not the same call twice.
        self.library.espeak_ng_SetRandSeed(ctypes.c_long(0))
        self.chunks: list[np.ndarray] = []
        kind = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)
        self.callback = kind(self._receive)  # kept, or it would be collected while C still calls it
        self.library.espeak_SetSynthCallback(self.callback)

    def choose(self, voice):
        """Whether the voice could be loaded; it then speaks what comes next."""
        if self.library.espeak_SetVoiceByName(voice.name.encode()) != 0:
            return False
        for parameter, value in ((_RATE, voice.speed), (_PITCH, voice.pitch), (_RANGE, voice.range)):
            self.library.espeak_SetParameter(parameter, value, 0)
        return True

    def say(self, text):
        """float32 `[time]` at `sample_rate`."""
        self.chunks.clear()
        data = text.encode()
        self.library.espeak_Synth(data, len(data) + 1, 0, 0, 0, _UTF8, None, None)
        self.library.espeak_Synchronize()
        return np.concatenate(self.chunks).astype("f4") / 32768

    def _receive(self, samples, count, events):
        if samples and count > 0:
            self.chunks.append(np.ctypeslib.as_array(samples, (count,)).copy())
        return 0
