"""Impulse responses of shoebox rooms: exact early reflections, a noise tail behind them.

pyroomacoustics finds the image sources (Allen & Berkley 1979), as many as reach the microphone in the first 80 ms,
each moved a little, which takes the sweeping echoes of perfect boxes away (De Sena et al. 2015). Behind them stands
Gaussian noise that decays with the reverberation time, at the level where the images end: a response costs
milliseconds, however long it is. Treble decays faster, as it does in air and on soft walls.
"""

from typing import NamedTuple

import numpy as np
import pyroomacoustics
import scipy.signal

SOUND_SPEED = 343.0  # m/s
IMAGES_END = 0.08  # s behind the direct path up to which all image sources are there
CROSS_FADE = 0.03  # s before that end over which the noise tail comes in
OVERSAMPLING = 8  # images stand on a grid so much finer than the samples
DIMENSIONS = ((3.0, 9.0), (2.5, 7.0), (2.3, 3.5))  # m: length, width, height of a room
HEIGHTS = (1.0, 1.8)  # m: of mouths and microphones
WALL = 0.4  # m that people and microphone keep from the walls
NEAREST = 0.4  # m between mouth and microphone
FARTHEST = 4.0  # m: further away hardly anything of the direct path is left
NEAR = 1.5  # m: half of the mouths are nearer than this, as at a table or a computer
LOWEST = 40.0  # Hz that a room returns
JITTER = 0.08  # m that an image source is moved at most
TREBLE = (1500.0, 4000.0)  # Hz: range of the frequency above which the sound decays faster
TREBLE_TIME = (0.5, 1.0)  # range of the treble's reverberation time as a share of the room's
TOLERANCE = 0.2  # relative error of the reverberation time that is let through
ROOM_TRIALS = 6
PLACE_TRIALS = 8  # for each person


class Response(NamedTuple):
    """What one mouth sends to the microphone.

    samples : `[time]`, float32; the direct path comes first, at a level of 1.
    direct : samples at the beginning that are the direct path.
    rt60 : reverberation time in s, measured on `samples`.
    distance : from the mouth to the microphone, m; NaN where it is not known.
    """

    samples: np.ndarray
    direct: int
    rt60: float
    distance: float


def measure_rt60(samples: np.ndarray, sample_rate: int) -> float:
    """Reverberation time in s of a response `[time]`, from its decay between -5 and -35 dB (ISO 3382, T30)."""
    return float(pyroomacoustics.experimental.measure_rt60(samples, sample_rate, decay_db=30))


def simulate_room(
    random: np.random.Generator, people: int, sample_rate: int, rt60: tuple[float, float]
) -> list[Response]:
    """Responses from several mouths to the one microphone of a random room.

    Arguments
    ---------
    random : numpy.random.Generator
        Decides everything.
    people : int
        Mouths.
    sample_rate : int
        In Hz.
    rt60 : tuple of float
        Range of the reverberation time in s, of which one is asked of the room.

    Returns
    -------
    responses : list of Response
        Their measured reverberation times are within 20 % of the one that was asked; empty where some would not be,
        whatever the walls.
    """
    size = np.array([random.uniform(*sides) for sides in DIMENSIONS])
    asked = random.uniform(*rt60)
    microphone = _place(random, size)
    treble = random.uniform(*TREBLE), random.uniform(*TREBLE_TIME)
    design = asked  # of the walls: moved until the response has what was asked
    for _ in range(ROOM_TRIALS):
        responses: list[Response] = []
        measured = []
        for _ in range(people * PLACE_TRIALS):
            mouth = _mouth(random, size, microphone)
            distance = float(np.linalg.norm(mouth - microphone))
            if not NEAREST <= distance <= FARTHEST:
                continue
            samples = _simulate(random, size, mouth, microphone, design, treble, sample_rate)
            measured.append(measure_rt60(samples, sample_rate))
            if abs(measured[-1] / asked - 1) < TOLERANCE:
                responses.append(Response(samples, 1, measured[-1], distance))
                if len(responses) == people:
                    return responses
            elif len(measured) == 3 and not responses:
                break  # these walls will not do
        design *= float(np.clip(asked / np.mean(measured), 0.5, 2.0)) if measured else 1.0
    return []


def _place(random: np.random.Generator, size: np.ndarray) -> np.ndarray:
    return random.uniform([WALL, WALL, HEIGHTS[0]], [size[0] - WALL, size[1] - WALL, HEIGHTS[1]])


def _mouth(random: np.random.Generator, size: np.ndarray, microphone: np.ndarray) -> np.ndarray:
    anywhere = _place(random, size)
    if random.random() < 0.5:
        return anywhere
    angle, distance = random.uniform(0, 2 * np.pi), random.uniform(NEAREST, NEAR)
    near = microphone + distance * np.array([np.cos(angle), np.sin(angle), 0.0])
    return np.clip(near, WALL, size - WALL)


def _simulate(
    random: np.random.Generator,
    size: np.ndarray,
    mouth: np.ndarray,
    microphone: np.ndarray,
    rt60: float,
    treble: tuple[float, float],
    sample_rate: int,
) -> np.ndarray:
    """Response `[time]` with the direct path as its first sample, 1."""
    # Eyring: unlike Sabine's formula it gives an absorption under 1 for every room and time.
    surface = 2 * (size[0] * size[1] + size[0] * size[2] + size[1] * size[2])
    absorption = 1 - np.exp(-24 * np.log(10) * size.prod() / (SOUND_SPEED * surface * rt60))
    # Images of one order more are all further away than what sound travels in that time.
    reach = IMAGES_END + np.linalg.norm(mouth - microphone) / SOUND_SPEED
    order = int(np.ceil(reach * SOUND_SPEED * np.sqrt((1 / size**2).sum())))
    room = pyroomacoustics.ShoeBox(
        size, fs=sample_rate, materials=pyroomacoustics.Material(absorption), max_order=order
    )
    room.add_source(mouth)
    room.add_microphone(microphone)
    room.image_source_model()
    source = room.sources[0]
    distances = np.linalg.norm(source.images - microphone[:, None], axis=0)
    direct = distances.argmin()
    levels = source.damping.mean(0) * distances[direct] / distances
    delays = distances - distances[direct] + random.uniform(0, JITTER, len(distances))
    levels[direct] = 0.0
    length = round(max(rt60, 2 * IMAGES_END) * sample_rate)
    places = np.rint(delays / SOUND_SPEED * sample_rate * OVERSAMPLING).astype(int)
    inside = places < length * OVERSAMPLING
    fine = np.bincount(places[inside], levels[inside], length * OVERSAMPLING)
    # The grid's samples stand for impulses of their own height in samples of the coarse rate.
    reflections = scipy.signal.resample_poly(fine, 1, OVERSAMPLING) * OVERSAMPLING
    # All images are positive: where they stand densely they add up to an offset, which no room has.
    high_pass = scipy.signal.butter(2, LOWEST, "highpass", fs=sample_rate, output="sos")
    reflections = scipy.signal.sosfilt(high_pass, reflections)
    reflections = _with_tail(random, reflections, rt60, sample_rate)
    reflections = _dull(reflections, rt60, *treble, sample_rate)
    reflections[0] += 1.0
    return reflections.astype(np.float32)


def _with_tail(random: np.random.Generator, reflections: np.ndarray, rt60: float, sample_rate: int) -> np.ndarray:
    """Behind the last complete image, noise of the same power that decays by 60 dB in `rt60` seconds."""
    time = np.arange(len(reflections)) / sample_rate
    decay = 10 ** (-3 * time / rt60)
    begin, end = round((IMAGES_END - CROSS_FADE) * sample_rate), round(IMAGES_END * sample_rate)
    level = np.sqrt(np.mean(np.square(reflections[begin:end] / decay[begin:end])))
    fade = np.clip((time - time[begin]) / CROSS_FADE, 0, 1) * np.pi / 2
    return reflections * np.cos(fade) + level * random.standard_normal(len(time)) * decay * np.sin(fade)


def _dull(reflections: np.ndarray, rt60: float, frequency: float, share: float, sample_rate: int) -> np.ndarray:
    """Above a frequency in Hz the sound decays by 60 dB in a share of the time."""
    if frequency >= sample_rate / 2:
        return reflections
    low_pass = scipy.signal.firwin(65, frequency, fs=sample_rate)
    low = scipy.signal.convolve(reflections, low_pass, mode="same")
    time = np.arange(len(reflections)) / sample_rate
    return low + (reflections - low) * 10 ** (-3 * time / rt60 * (1 / share - 1))
