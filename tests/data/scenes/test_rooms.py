"""Rooms: the reverberation time asked, the direct path apart, as pyroomacoustics renders it; a bank that survives."""

import multiprocessing
from concurrent.futures import ProcessPoolExecutor

import numpy as np
import pyroomacoustics
import pytest
import soundfile

from unified_sess.data.scenes import room_bank, room_simulation
from unified_sess.data.scenes.room_bank import RoomBank
from unified_sess.data.scenes.room_simulation import measure_rt60, simulate_room
from unified_sess.utils.errors import UserError

RATE = 8000


def make_bank(folder, **options):
    return RoomBank(folder, **({"rooms": 3, "people": 2, "sample_rate": RATE, "rt60": (0.2, 0.4)} | options))


@pytest.mark.parametrize("asked", [0.15, 0.3, 0.6, 0.9])
def test_reverberation_times_are_those_asked(asked):
    for seed in range(3):
        responses = simulate_room(np.random.default_rng(seed), 2, RATE, (asked, asked))
        assert len(responses) == 2
        for response in responses:
            assert measure_rt60(response.samples, RATE) == pytest.approx(asked, rel=0.2)
            assert response.direct == 1 and response.distance >= room_simulation.NEAREST


def test_early_reflections_are_those_of_pyroomacoustics():
    """The energy of the first 50 ms relative to the direct path, against the full simulation of the same room."""
    size, mouth, microphone = np.array([5.0, 4.0, 2.7]), np.array([1.2, 1.0, 1.6]), np.array([3.5, 2.5, 1.2])
    ours = room_simulation._simulate(np.random.default_rng(0), size, mouth, microphone, 0.4, (5000.0, 1.0), RATE)
    volume, surface = size.prod(), 2 * (5 * 4 + 5 * 2.7 + 4 * 2.7)
    absorption = 1 - np.exp(-24 * np.log(10) * volume / (343 * surface * 0.4))
    room = pyroomacoustics.ShoeBox(size, fs=RATE, materials=pyroomacoustics.Material(absorption), max_order=25)
    room.add_source(mouth)
    room.add_microphone(microphone)
    room.compute_rir()
    peer = room.rir[0][0]
    direct, window = np.linalg.norm(mouth - microphone), round(0.05 * RATE)
    first = round(direct / 343 * RATE) + 40  # its filter's delay
    peer_early = np.square(peer[first - 40 : first + window]).sum() * direct**2
    ours_early = np.square(ours[:window]).sum()
    assert 10 * np.log10(ours_early / peer_early) == pytest.approx(0, abs=1.5)


def test_a_bank_is_made_once_and_goes_on_after_a_kill(tmp_path, monkeypatch):
    monkeypatch.setattr(room_bank, "SHARD", 1)
    parts = next(iter(make_bank(tmp_path / "whole").path.parent.glob("*.npy"))).with_suffix(".parts")
    made = []

    def killed(function, items, workers, description):
        for item in items:
            if len(made) == 2:
                raise KeyboardInterrupt
            made.append(item)
            yield function(item)

    monkeypatch.setattr(room_bank, "parallel_map", killed)
    with pytest.raises(KeyboardInterrupt):
        make_bank(tmp_path / "killed")
    assert not list((tmp_path / "killed").glob("*.npy")) and not parts.exists()
    made.clear()
    bank, whole = make_bank(tmp_path / "killed"), make_bank(tmp_path / "whole")
    assert made == [2]  # the rest alone
    for room in range(3):
        for first, second in zip(bank.responses(room), whole.responses(room), strict=True):
            np.testing.assert_array_equal(first.samples, second.samples)
    made.clear()
    make_bank(tmp_path / "killed")
    assert not made


def test_trainings_at_a_time_share_a_bank(tmp_path):
    """Regression: two trainings with one cache folder made the same bank, and one took the other's shards away."""
    with ProcessPoolExecutor(3, multiprocessing.get_context("spawn")) as pool:
        banks = [pool.submit(make_bank, tmp_path, rooms=60, people=1) for _ in range(3)]
        sizes = {len(bank.result()) for bank in banks}
    assert len(sizes) == 1
    assert not list(tmp_path.glob("*.parts"))


def test_people_in_a_room_come_by_distance(tmp_path):
    bank = make_bank(tmp_path, people=3)
    for seed in range(5):
        distances = [response.distance for response in bank.draw(np.random.default_rng(seed), 3)]
        assert distances == sorted(distances) and len(set(distances)) == 3


def test_measured_responses_are_used(tmp_path, caplog):
    decay = np.random.default_rng(0).standard_normal(8000) * 10 ** (-3 * np.arange(8000) / 16000 / 0.3)
    decay[0] = 5
    (tmp_path / "measured").mkdir()
    soundfile.write(tmp_path / "measured" / "a.wav", np.concatenate([np.zeros(500), decay / 6]), 16000)
    soundfile.write(tmp_path / "measured" / "b.wav", np.zeros(500), 16000)
    bank = make_bank(tmp_path / "bank", measured=tmp_path / "measured")
    assert "1 of 2 impulse responses are used" in caplog.text
    (response,) = bank.draw(np.random.default_rng(0), 1, measured_share=1.0)
    assert response.rt60 == pytest.approx(0.3, rel=0.2) and abs(response.samples[: response.direct]).max() == 1


@pytest.mark.parametrize("content, says", [(None, "holds no audio"), (np.ones(100), "none of the 1 impulse responses")])
def test_folders_without_responses_are_one_line(tmp_path, content, says):
    (tmp_path / "measured").mkdir()
    if content is not None:
        soundfile.write(tmp_path / "measured" / "a.wav", content, RATE)
    with pytest.raises(UserError, match=says):
        make_bank(tmp_path / "bank", measured=tmp_path / "measured")


def test_rooms_that_cannot_be_simulated_are_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(room_bank, "simulate_room", lambda *_: [])
    monkeypatch.setattr(room_bank, "parallel_map", lambda function, items, *_: map(function, items))
    with pytest.raises(UserError, match="only 0 of 3 rooms can be simulated"):
        make_bank(tmp_path)
    assert not list(tmp_path.rglob("*.np*"))


def test_a_full_disk_leaves_nothing_half(tmp_path, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(room_bank, "parallel_map", lambda function, items, *_: map(function, items))
    monkeypatch.setattr(np, "save", full)
    with pytest.raises(OSError, match="rooms-"):
        make_bank(tmp_path)
    assert not list(tmp_path.glob("*.npy"))


def test_a_broken_bank_is_named(tmp_path):
    bank = make_bank(tmp_path)
    bank.path.write_bytes(b"")
    with pytest.raises(UserError, match="delete it"):
        make_bank(tmp_path)
