"""Scenes: targets are what is heard, levels are those drawn, keys alone decide."""

import numpy as np
import pytest
import scipy.signal
import torch

from unified_sess.data.batches import EpochSampler, collate
from unified_sess.utils.errors import UserError

RATE = 8000
ALL = {
    "active": [0.1, 0.2, 0.4, 0.3],
    "rooms": 0.6,
    "turns": 0.6,
    "backchannels": 0.5,
    "level_difference": 15,
    "noise_snr": [-5, 25],
    "devices": 0.5,
    "clipping": 0.3,
    "codec": 0.3,
}


def power(signal):
    return float(np.mean(np.square(signal, dtype=float)))


def lag(target, signal, reach=200):
    """Samples by which `signal` is later than `target`, from the peak of their whitened cross-correlation."""
    size = 2 * len(target)
    cross = np.fft.rfft(signal, size) * np.conj(np.fft.rfft(target, size))
    correlation = np.fft.irfft(cross / (np.abs(cross) + 1e-3 * np.abs(cross).max()), size)
    return int(np.abs(np.concatenate([correlation[-reach:], correlation[: reach + 1]])).argmax()) - reach


def test_keys_alone_decide_a_scene(make):
    first, second = make(ALL, seed=3), make(ALL, seed=3)
    for index in (7, 2, 5):
        first[0, 1, 8000]
        for name in ("mixture", "sources"):
            np.testing.assert_array_equal(first[2, index, 16000][name], second[2, index, 16000][name])
    assert not np.array_equal(first[2, 2, 8000]["mixture"], first[3, 2, 8000]["mixture"])


def test_workers_ranks_and_resuming_change_no_scene(make):
    dataset = make(ALL)

    def epoch(workers, ranks, start=0):
        found = {}
        for rank in range(ranks):
            sampler = EpochSampler(dataset.frames, 6 // ranks, seed=1, max_frames=8000, rank=rank, world_size=ranks)
            sampler.start = start
            loader = torch.utils.data.DataLoader(
                dataset, batch_sampler=sampler, collate_fn=collate, num_workers=workers
            )
            for batch in loader:
                found |= dict(zip(batch.ids, batch.mixture.numpy())) if batch is not None else {}
        return found

    wanted = epoch(0, 1)
    assert len(wanted) == 20
    for found in (epoch(2, 1), epoch(0, 2), epoch(1, 3)):
        assert set(found) == set(wanted)
        assert all(np.array_equal(found[name], wanted[name]) for name in wanted)
    rest = epoch(0, 1, start=2)
    assert len(rest) == 8 and all(np.array_equal(rest[name], wanted[name]) for name in rest)


def test_as_many_people_speak_as_was_drawn_and_the_others_are_exactly_silent(make):
    dataset = make(ALL | {"active": [0.1, 0.2, 0.3, 0.4]})
    counts = np.zeros(4)
    for index in range(60):
        item = dataset[0, index, 16000]
        assert item["sources"].shape == (16000, 3) and item["mixture"].shape == (16000,)
        assert all(item[name].dtype == np.float32 and np.isfinite(item[name]).all() for name in ("mixture", "sources"))
        assert item["mixture"].any()
        counts[item["sources"].any(0).sum()] += 1
    assert (np.abs(counts / 60 - [0.1, 0.2, 0.3, 0.4]) < 0.2).all() and counts.all()


def test_the_target_is_the_aligned_direct_path_at_the_level_in_the_mixture(make):
    """The mixture is the target with the room's response behind it, whose first sample is the direct path."""
    same = {"active": [0, 1], "rooms": 1, "noisy": 0}
    direct, early = make(same), make(same | {"early_target": True})
    for index in range(12):
        scene, soon = direct.scene((0, index, 16000)), early.scene((0, index, 16000))
        target, kernel = scene.sources[:, 0], scene.responses[0].samples
        kernel = kernel / kernel[0]
        np.testing.assert_array_equal(scene.mixture, soon.mixture)
        np.testing.assert_allclose(scene.mixture, scene.images[:, 0], atol=1e-6)
        for heard, part in ((scene.mixture, kernel), (soon.sources[:, 0], kernel[: round(0.05 * RATE)])):
            wanted = scipy.signal.fftconvolve(target, part)[:16000]
            np.testing.assert_allclose(heard, wanted, atol=1e-4 * np.abs(wanted).max())


def test_people_are_heard_at_their_levels_and_the_noise_at_its_ratio(make):
    dataset = make({"rooms": 0.5, "devices": 0.5, "noise_snr": [-5, 25], "level_difference": 15})
    differences = []
    for index in range(20):
        scene = dataset.scene((0, index, 24000))
        speech = scene.images.sum(1)
        np.testing.assert_allclose(scene.mixture, speech + scene.noise, atol=1e-5)
        ratio = 10 * np.log10(power(speech) / power(scene.noise))
        assert ratio == pytest.approx(scene.snr, abs=1.5)  # the ratio is that while somebody speaks
        levels = 10 * np.log10([power(image) for image in scene.images.T])
        differences.append(np.ptp(levels))
        if scene.responses and scene.device.band is None:
            nearest = np.argsort([response.distance for response in scene.responses])
            assert levels[nearest[0]] > levels[nearest[-1]] - 3
    assert 6 < max(differences) < 20


def test_a_device_limits_what_is_heard_and_the_target_alike(make):
    dataset = make({"active": [0, 1], "devices": 1, "noisy": 0}, sample_rate=16000)
    bands = set()
    for index in range(8):
        scene = dataset.scene((0, index, 32000))
        target = scene.sources[:, 0]
        np.testing.assert_allclose(target, scene.mixture, atol=1e-6)
        spectrum = np.square(np.abs(np.fft.rfft(target * np.hanning(32000))))
        frequencies = np.fft.rfftfreq(32000, 1 / 16000)
        low, high = scene.device.band
        assert spectrum[frequencies > 1.2 * high].sum() < 1e-6 * spectrum.sum()
        assert spectrum[frequencies < 0.5 * low].sum() < 1e-4 * spectrum.sum()
        bands.add(scene.device.band)
    assert len(bands) > 2


@pytest.mark.parametrize("codec", [("OGG", "OPUS"), ("MP3", "MPEG_LAYER_III"), ("WAV", "GSM610"), ("WAV", "ULAW")])
@pytest.mark.parametrize("rate", [8000, 16000, 22050])
def test_codecs_keep_time_and_length(codec, rate):
    from unified_sess.data.scenes.devices import code

    random = np.random.default_rng(0)
    signal = np.convolve(random.standard_normal(rate), np.hanning(rate // 1000))[:rate].astype(np.float32)
    signal *= 0.1 / np.abs(signal).max()
    coded = code(signal, rate, codec)
    assert len(coded) == rate and coded.dtype == np.float32 and lag(signal, coded) == 0
    assert 0.5 < np.sqrt(power(coded) / power(signal)) < 1.5 and not np.array_equal(coded, signal)


def test_distortions_touch_the_mixture_alone(make):
    same = {"active": [0, 0, 1], "noisy": 0}
    plain, harsh = make(same | {"level_difference": 5}), make(same | {"level_difference": 5, "clipping": 1, "codec": 1})
    for index in range(3):
        first, second = plain[0, index, 8000], harsh[0, index, 8000]
        np.testing.assert_array_equal(first["sources"], second["sources"])
        assert not np.array_equal(first["mixture"], second["mixture"])


@pytest.mark.parametrize(
    "scenes, says",
    [
        ({"room": 0.5}, "unknown option room: did you mean rooms"),
        ({"active": [0.5, 0.6]}, "add up to 1.1"),
        ({"active": [0, 0, 0, 0.5, 0.5]}, "4 people speak where num_spks is 3"),
        ({"active": [0.5, 0.5], "noisy": 0.5}, "scenes without people, which need noise"),
        ({"rooms": 1.5}, "rooms is a share"),
        ({"rooms": "many"}, "rooms must be a number"),
        ({"rooms": 1, "rt60": [0.01, 0.02]}, "rt60 must be a range within"),
        ({"turns": 1, "overlap": [0, 2]}, "overlap must be a range within 0.0 to 1.0"),
        ({"turns": 1, "turn_seconds": 3}, "turn_seconds must be a range of two numbers"),
        ({"level_difference": -1}, "level_difference must be at least 0"),
        ({"rooms": 1, "room_count": 0}, "room_count must be a whole number"),
        ({"rooms": 1, "room_count": True}, "room_count must be a whole number"),
        ({"turns": 1, "pause": None}, "pause must be a number"),
        ({"active": [0.5, float("nan"), 0.5]}, "chances of active must add up to 1"),
    ],
)
def test_mistakes_are_one_line(make, scenes, says):
    with pytest.raises(UserError, match=says) as caught:
        make(scenes)
    assert "\n" not in str(caught.value)


def test_options_that_are_off_mix_as_before(make):
    plain = make({})
    assert plain.scenes is None and make({"rooms": 0, "turns": 0, "noisy": 1}).scenes is None
