"""The one implementation of mixing, used by the generator and by dynamic mixing (the rule of LibriMix).

Cosentino et al., "LibriMix: An Open-Source Dataset for Generalizable Speech Separation" (arXiv 2005.11262): every
speaker's loudness is uniform in [-33, -25] LUFS, that of the noise in [-38, -30] LUFS, peaks are kept under 0.9.
"""

import functools
import warnings
from collections.abc import Sequence

import numpy as np

SPEECH_LOUDNESS = (-33.0, -25.0)
NOISE_LOUDNESS = (-38.0, -30.0)
MAX_PEAK = 0.9
CROSS_FADE = 8001  # half of a Hann window of one second at 16 kHz, both ends included
METER_BLOCK = 0.4  # seconds: the meter cannot measure less
HALF_WIDTH = 10  # of the resampling filter, in samples of the new rate
BLOCK = 32  # samples that one row of the matrix product resamples


def measure_loudness(signal: np.ndarray, sample_rate: int) -> float:
    """Integrated loudness in LUFS (ITU-R BS.1770, pyloudnorm) of a signal `[time]`; -inf when it is silent.

    Signals shorter than a measuring block of 0.4 s are repeated to fill one.
    """
    import pyloudnorm  # half a second that generating from metadata does not need

    shortest = int(METER_BLOCK * sample_rate) + 1
    if len(signal) < shortest:
        signal = np.resize(signal, shortest)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return float(pyloudnorm.Meter(sample_rate).integrated_loudness(signal))


def draw_gains(
    random: np.random.Generator,
    loudness: Sequence[float],
    peaks: Sequence[float],
    speech: tuple[float, float] = SPEECH_LOUDNESS,
    noise: tuple[float, float] | None = NOISE_LOUDNESS,
) -> np.ndarray:
    """Draw linear gains that bring signals to random loudness; a signal that would clip is brought to a peak of 0.9.

    Arguments
    ---------
    random : numpy.random.Generator
        Source of the draws, one a signal.
    loudness, peaks : sequence of float
        Loudness in LUFS and largest absolute sample of each signal; the last signal is the noise.
    speech, noise : tuple of float
        Ranges in LUFS; `noise` None says that there is no noise and the last signal is a speaker.

    Returns
    -------
    gains : numpy.ndarray
        `[signals]`; 0 for a silent signal.

    Example
    -------
    >>> draw_gains(np.random.default_rng(0), [-20.0, -30.0], [0.5, 0.5], speech=(-26, -26), noise=(-36, -36)).round(2)
    array([0.5, 0.5])
    """
    ranges = [speech] * len(loudness)
    if noise is not None:
        ranges[-1] = noise
    gains = np.zeros(len(loudness))
    for k, (level, peak, (low, high)) in enumerate(zip(loudness, peaks, ranges)):
        target = random.uniform(low, high)
        if np.isfinite(level) and peak > 0:
            gain = 10 ** ((target - level) / 20)
            gains[k] = gain if gain * peak < 1 else MAX_PEAK / peak
    return gains


def peak_weight(mixture: np.ndarray) -> float:
    """Factor that keeps the peak of a mixture `[time]` at 0.9 or less; 1 where it already is."""
    peak = max(float(mixture.max()), -float(mixture.min()))
    return MAX_PEAK / peak if peak > MAX_PEAK else 1.0


def extend_noise(noise: np.ndarray, length: int) -> np.ndarray:
    """Extend a noise `[time]` to `length` samples by repeating it with a Hann cross-fade.

    A noise shorter than the cross-fade of 8,001 samples fades over half of itself.
    """
    if len(noise) >= length:
        return noise[:length]
    rise, fall = _fades(CROSS_FADE if len(noise) > CROSS_FADE else len(noise) // 2)
    fade = len(rise)
    extended = np.empty(length, noise.dtype)
    extended[: len(noise)] = noise
    filled = len(noise)
    while filled < length:
        extended[filled - fade : filled] = extended[filled - fade : filled] * fall + noise[:fade] * rise
        step = min(len(noise) - fade, length - filled)
        extended[filled : filled + step] = noise[fade : fade + step]
        filled += step
    return extended


@functools.lru_cache(maxsize=8)
def _fades(length):
    rise = np.hanning(2 * length - 1)[:length] if length > 1 else np.full(length, 0.5)
    return rise.astype(np.float32), rise[::-1].astype(np.float32)


def decimate(signal: np.ndarray, factor: int) -> np.ndarray:
    """Resample a signal `[time]` to 1/`factor` of its rate, with the filter of `scipy.signal.resample_poly`.

    The filter is a matrix product over blocks of samples: several times faster than filtering one by one.

    Example
    -------
    >>> decimate(np.ones(1000, "f4"), 2)[100:103].round(3)
    array([1., 1., 1.], dtype=float32)
    """
    if factor == 1:
        return signal
    length = -(-len(signal) // factor)
    step, reach = BLOCK * factor, HALF_WIDTH * factor
    blocks = np.zeros((-(-length // BLOCK) + 1, step), np.float32)
    blocks.reshape(-1)[reach : reach + len(signal)] = signal
    matrix = _filter_matrix(factor)
    resampled = blocks[:-1] @ matrix[:step]
    resampled += blocks[1:, : 2 * reach] @ matrix[step:]  # what reaches over from the next block
    return resampled.reshape(-1)[:length]


@functools.lru_cache(maxsize=8)
def _filter_matrix(factor):
    """A low-pass filter in every column, `factor` samples further down each time."""
    reach = HALF_WIDTH * factor
    low_pass = np.kaiser(2 * reach + 1, 5.0) * np.sinc(np.arange(-reach, reach + 1) / factor)
    matrix = np.zeros((BLOCK * factor + 2 * reach, BLOCK), np.float32)
    for column in range(BLOCK):
        matrix[column * factor :][: len(low_pass), column] = low_pass / low_pass.sum()
    return matrix


def fit_lengths(signals: Sequence[np.ndarray], mode: str) -> list[np.ndarray]:
    """Cut all signals to the shortest (`min`) or pad them with zeros to the longest (`max`)."""
    if mode == "min":
        length = min(map(len, signals))
        return [signal[:length] for signal in signals]
    length = max(map(len, signals))
    return [np.pad(signal, (0, length - len(signal))) for signal in signals]


def mix(signals: Sequence[np.ndarray]) -> np.ndarray:
    """Sum of equally long signals `[time]`."""
    mixture = np.zeros_like(signals[0])
    for signal in signals:
        mixture += signal
    return mixture


def snr(target: np.ndarray, mixture: np.ndarray) -> float:
    """Ratio in dB of a target to everything else in the mixture, both `[time]`."""
    rest = mixture - target
    return float(10 * np.log10(np.dot(target, target) / len(target) / (np.dot(rest, rest) / len(rest) + 1e-10) + 1e-10))
