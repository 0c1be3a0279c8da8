"""Scenes are drawn and rendered here: people, turns, room, noise and device become a mixture and its targets."""

from typing import NamedTuple

import numpy as np
import scipy.fft

from unified_sess.data import mixing
from unified_sess.data.pools import NoisePool, SpeechPool, fit
from unified_sess.data.scenes.devices import Device, clip, code, draw_device
from unified_sess.data.scenes.options import SceneOptions
from unified_sess.data.scenes.room_bank import RoomBank
from unified_sess.data.scenes.room_simulation import Response
from unified_sess.data.scenes.turns import Piece, draw_turns
from unified_sess.utils.errors import UserError

EARLY_SECONDS = 0.05  # s behind the direct path that `early_target` keeps
FADE = 0.01  # s over which a turn comes and goes
POWER_FRAME = 0.02  # s
POWER_RANGE = 40.0  # dB under the loudest frame at which nobody speaks
EDGE_SECONDS = 0.1  # s of zeros in which a device's filter, symmetric in time, may ring before and after


class Scene(NamedTuple):
    """A rendered scene.

    names : one for each active person.
    mixture : `[time]`
    sources : `[time, speakers]`, the targets; those who never speak are exactly zero.
    images : `[time, speakers]`, reverberant images, each person as the microphone hears them; None unless asked for.
    noise : `[time]`
    pieces : turns; empty where people speak throughout.
    responses : of the room, one for each active person; None where it is dry.
    device : what the scene was heard through.
    snr : ratio in dB of all speech to the noise that was asked; None without noise or people.
    """

    names: list[str]
    mixture: np.ndarray
    sources: np.ndarray
    images: np.ndarray | None
    noise: np.ndarray
    pieces: list[Piece]
    responses: list[Response] | None
    device: Device
    snr: float | None


class SceneMaker:
    """Draws scenes from a pool of speech and one of noise.

    Arguments
    ---------
    options : SceneOptions
    speech : SpeechPool
    noises : NoisePool
    num_spks : int
        Source columns of every scene.
    sample_rate : int
        In Hz.
    speech_loudness, noise_loudness : tuple of float
        Ranges in LUFS: of the loudest person, and of the noise where nobody speaks.
    bank : RoomBank
        None where no scene is in a room.

    Raises
    ------
    UserError
        When the options contradict the number of speakers or there is nothing to hear.
    """

    def __init__(
        self,
        options: SceneOptions,
        speech: SpeechPool,
        noises: NoisePool,
        num_spks: int,
        sample_rate: int,
        speech_loudness: tuple[float, float] = mixing.SPEECH_LOUDNESS,
        noise_loudness: tuple[float, float] = mixing.NOISE_LOUDNESS,
        bank: RoomBank | None = None,
    ) -> None:
        self.options, self.speech, self.noises, self.bank = options, speech, noises, bank
        self.num_spks, self.sample_rate = num_spks, sample_rate
        self.speech_loudness, self.noise_loudness = speech_loudness, noise_loudness
        chances = options.active or (0.0,) * num_spks + (1.0,)
        if any(chances[num_spks + 1 :]):
            raise UserError(
                f"scenes: active has {len(chances) - 1} people speak where num_spks is {num_spks}: "
                f"give {num_spks + 1} chances, for 0 to {num_spks} people"
            )
        if chances[0] and (not noises or options.noisy < 1):
            raise UserError(
                "scenes: active has scenes without people, which need noise: give --noise_folder and noisy 1, "
                "or 0 as the first chance"
            )
        self._chances = np.cumsum(chances[: num_spks + 1])

    def make(self, random: np.random.Generator, length: int, images: bool = False, running: bool = True) -> Scene:
        """Draw and render a scene of so many samples; `running` as in `draw_turns`."""
        options = self.options
        people = int(np.searchsorted(self._chances, random.random() * self._chances[-1], side="right"))
        speakers = self.speech.draw_speakers(random, min(people, self.num_spks))
        names, voices, pieces = self._voices(random, speakers, length, running)
        people = len(voices)
        levels = self._levels(random, people)
        responses = None
        if self.bank is not None and random.random() < options.rooms and people:
            # Who is nearer is louder.
            nearest_first = self.bank.draw(random, people, options.measured_share)
            responses = [nearest_first[k] for k in np.argsort(np.argsort(-levels))]
        voices *= 10 ** (levels[:, None].astype(np.float32) / 20)
        device = draw_device(random, options, self.sample_rate)
        targets, heard = self._hear(voices, responses, device, images)
        clean = heard.sum(0)
        noise, snr = self._noise(random, clean, length, device)
        mixture = clean + noise
        weight = np.float32(mixing.peak_weight(mixture))
        mixture *= weight
        if device.clip is not None:
            mixture = clip(mixture, device.clip)
        if device.codec is not None:
            mixture = code(mixture, self.sample_rate, device.codec)
        return Scene(
            names,
            mixture,
            self._columns(targets * weight, length),
            self._columns(heard * weight, length) if images else None,
            noise * weight,
            pieces,
            responses,
            device,
            snr,
        )

    def _levels(self, random: np.random.Generator, people: int) -> np.ndarray:
        """Loudness of each person in LUFS, `[people]`."""
        if self.options.level_difference is None or not people:
            return random.uniform(*self.speech_loudness, people)
        below = random.uniform(0, self.options.level_difference, people)
        return random.uniform(*self.speech_loudness) - below + below.min()

    def _columns(self, signals: np.ndarray, length: int) -> np.ndarray:
        columns = np.zeros((length, self.num_spks), np.float32)
        columns[:, : len(signals)] = signals.T
        return columns

    def _voices(
        self, random: np.random.Generator, speakers: list[int], length: int, running: bool
    ) -> tuple[list[str], np.ndarray, list[Piece]]:
        """Names, what each person says `[people, time]` at 0 LUFS, and turns where people take turns."""
        voices = np.zeros((len(speakers), length), np.float32)
        if random.random() >= self.options.turns or not speakers:
            recordings = [self.speech.draw_recording(random, speaker) for speaker in speakers]
            for voice, recording in zip(voices, recordings, strict=True):
                voice[:] = self.speech.crop(random, recording, length)
                voice *= np.float32(10 ** (-recording.loudness / 20))
            return [recording.path for recording in recordings], voices, []
        draws = [lambda speaker=speaker: self.speech.draw_recording(random, speaker) for speaker in speakers]
        speeds = [self.speech.draw_speed(random) for _ in speakers]
        pieces = draw_turns(random, draws, length / self.sample_rate, self.options, speeds, running)
        for piece in pieces:
            self._say(voices[piece.person], piece)
        first = {piece.person: piece.recording.path for piece in reversed(pieces)}
        return [first[k] for k in sorted(first)], voices, pieces

    def _say(self, voice: np.ndarray, piece: Piece) -> None:
        """Add a turn to a person's signal `[time]`."""
        signal = self.speech.read(piece.recording, piece.begin, piece.end, piece.speed)
        signal = signal * np.float32(10 ** ((piece.level - piece.recording.loudness) / 20))
        fade = min(round(FADE * self.sample_rate), len(signal) // 2)
        rise = np.linspace(0, 1, fade, dtype=np.float32)
        signal[:fade] *= rise
        signal[len(signal) - fade :] *= rise[::-1]
        at = round(piece.at * self.sample_rate)
        begin, end = max(0, -at), min(len(signal), len(voice) - at)
        if end > begin:
            voice[at + begin : at + end] += signal[begin:end]

    def _hear(
        self, voices: np.ndarray, responses: list[Response] | None, device: Device, images: bool
    ) -> tuple[np.ndarray, np.ndarray]:
        """Targets and images of people `[people, time]` behind room and device; without `images` the sum of images.

        The image has the level of the voice; the target has the level of the direct path in it.
        """
        if not len(voices) or (responses is None and device.band is None):
            return voices, voices
        length = voices.shape[1]
        kernels = [response.samples for response in responses] if responses else [np.ones(1, np.float32)] * len(voices)
        size = self._size(length + max(map(len, kernels)))
        spectra = scipy.fft.rfft(voices, size)
        gains = self._gains(device, size)
        heard, targets = [], []
        for k, kernel in enumerate(kernels):
            spectrum = spectra[k] if gains is None else spectra[k] * gains
            if responses is None:
                targets.append(spectrum)
                continue
            kernel = kernel / np.sqrt(np.square(kernel).sum())
            heard.append(spectrum * scipy.fft.rfft(kernel, size))
            early = round(EARLY_SECONDS * self.sample_rate) if self.options.early_target else responses[k].direct
            targets.append(spectrum * (kernel[0] if early == 1 else scipy.fft.rfft(kernel[:early], size)))

        def signals(spectra: np.ndarray) -> np.ndarray:
            return scipy.fft.irfft(spectra, size)[:, :length]

        found = signals(np.stack(targets))
        if responses is None:
            return found, found
        return found, signals(np.stack(heard) if images else sum(heard)[None])

    def _noise(
        self, random: np.random.Generator, clean: np.ndarray, length: int, device: Device
    ) -> tuple[np.ndarray, float | None]:
        """Noise `[time]` at its level behind the device, and its ratio in dB to the speech."""
        if not len(self.noises) or random.random() >= self.options.noisy:
            return np.zeros(length, np.float32), None
        recording = self.noises.draw(random)
        noise = self.noises.crop(random, recording, length)
        snr = None if self.options.noise_snr is None else random.uniform(*self.options.noise_snr)
        loudness = random.uniform(*self.noise_loudness)
        if device.band is not None:
            size = self._size(length)
            noise = scipy.fft.irfft(scipy.fft.rfft(noise, size) * self._gains(device, size), size)[:length]
        speech, power = self._speech_power(clean), float(np.mean(np.square(noise)))
        if not speech or snr is None:
            return noise * np.float32(10 ** ((loudness - recording.loudness) / 20)), None
        gain = np.sqrt(speech / max(power, 1e-12) / 10 ** (snr / 10))
        return noise * np.float32(gain), snr

    def _speech_power(self, clean: np.ndarray) -> float:
        """Mean power of a signal `[time]` while somebody speaks; 0 where nobody does."""
        frame = round(POWER_FRAME * self.sample_rate)
        powers = np.square(fit(clean, -(-len(clean) // frame) * frame).reshape(-1, frame)).mean(1)
        loud = powers > powers.max() * 10 ** (-POWER_RANGE / 10)
        return float(powers[loud].mean()) if loud.any() else 0.0

    def _size(self, length: int) -> int:
        return scipy.fft.next_fast_len(length + round(EDGE_SECONDS * self.sample_rate), real=True)

    def _gains(self, device: Device, size: int) -> np.ndarray | None:
        if device.band is None:
            return None
        return device.gains(scipy.fft.rfftfreq(size, 1 / self.sample_rate))
