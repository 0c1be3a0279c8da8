"""The one implementation of mixing, used by the generator and by dynamic mixing (the rule of LibriMix).

Cosentino et al., "LibriMix: An Open-Source Dataset for Generalizable Speech Separation" (arXiv 2005.11262): every
speaker's loudness is uniform in [-33, -25] LUFS, that of the noise in [-38, -30] LUFS, peaks are kept under 0.9.
"""

import warnings

import numpy as np
import pyloudnorm
from scipy.signal import resample_poly

SPEECH_LOUDNESS = (-33.0, -25.0)
NOISE_LOUDNESS = (-38.0, -30.0)
MAX_PEAK = 0.9
CROSS_FADE = 8001  # half of a Hann window of one second at 16 kHz, both ends included
METER_BLOCK = 0.4  # seconds: the meter cannot measure less


def measure_loudness(signal, sample_rate):
    """Integrated loudness in LUFS (ITU-R BS.1770, pyloudnorm) of a signal `[time]`; -inf when it is silent.

    Signals shorter than a measuring block of 0.4 s are repeated to fill one.
    """
    shortest = int(METER_BLOCK * sample_rate) + 1
    if len(signal) < shortest:
        signal = np.resize(signal, shortest)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return float(pyloudnorm.Meter(sample_rate).integrated_loudness(signal))


def draw_gains(random, loudness, peaks, speech=SPEECH_LOUDNESS, noise=NOISE_LOUDNESS):
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


def peak_weight(mixture):
    """Factor that keeps the peak of a mixture `[time]` at 0.9 or less; 1 where it already is."""
    peak = max(float(mixture.max()), -float(mixture.min()))
    return MAX_PEAK / peak if peak > MAX_PEAK else 1.0


def extend_noise(noise, length):
    """Extend a noise `[time]` to `length` samples by repeating it with a Hann cross-fade.

    A noise shorter than the cross-fade of 8,001 samples fades over half of itself.
    """
    if len(noise) >= length:
        return noise[:length]
    fade = CROSS_FADE if len(noise) > CROSS_FADE else len(noise) // 2
    rise = np.hanning(2 * fade - 1)[:fade] if fade > 1 else np.full(fade, 0.5)
    fall = rise[::-1]
    extended = np.empty(length)
    extended[: len(noise)] = noise
    filled = len(noise)
    while filled < length:
        extended[filled - fade : filled] = extended[filled - fade : filled] * fall + noise[:fade] * rise
        step = min(len(noise) - fade, length - filled)
        extended[filled : filled + step] = noise[fade : fade + step]
        filled += step
    return extended


def scale_and_resample(signals, gains, sample_rate, new_rate):
    """Apply linear gains, then resample each signal `[time]` (polyphase, as the public generator does)."""
    scaled = (np.multiply(signal, np.asarray(gain, signal.dtype)) for signal, gain in zip(signals, gains))
    return [resample_poly(s, new_rate, sample_rate) if new_rate != sample_rate else s for s in scaled]


def fit_lengths(signals, mode):
    """Cut all signals to the shortest (`min`) or pad them with zeros to the longest (`max`)."""
    if mode == "min":
        length = min(map(len, signals))
        return [signal[:length] for signal in signals]
    length = max(map(len, signals))
    return [np.pad(signal, (0, length - len(signal))) for signal in signals]


def mix(signals):
    """Sum of equally long signals `[time]`."""
    mixture = np.zeros_like(signals[0])
    for signal in signals:
        mixture += signal
    return mixture


def snr(target, mixture):
    """Ratio in dB of a target to everything else in the mixture."""
    rest = mixture - target
    return float(10 * np.log10(np.mean(target**2) / (np.mean(rest**2) + 1e-10) + 1e-10))
