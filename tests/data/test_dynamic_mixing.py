"""Dynamic mixing: repeatable under any loader, never silent, distinct speakers, the published loudness."""

import os
import shutil

import numpy as np
import pytest
import soundfile
import soxr
import torch

from tests.corpus import voice
from tests.data.folders import make_folders
from unified_sess.data import mixing
from unified_sess.data.batches import EpochSampler, collate
from unified_sess.data.dynamic_mixing import DynamicMixingDataset
from unified_sess.data.pools import MIN_ACTIVE_SECONDS
from unified_sess.utils.errors import UserError, one_line_errors


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("dynamic")
    return (*make_folders(root), root / "index")


@pytest.fixture(scope="module")
def real(corpora, tmp_path_factory):
    """Real speech of 8 speakers with pauses of 5 s put in, in every format and at several rates, and real noise."""
    root = tmp_path_factory.mktemp("real")
    kinds = [("wav", 44100), ("flac", 16000), ("ogg", 44100), ("mp3", 44100)]
    for k, source in enumerate(sorted((corpora / "LibriSpeech" / "dev-clean").rglob("*.flac"))[:8]):
        extension, rate = kinds[k % 4]
        signal = soxr.resample(soundfile.read(source)[0], 16000, rate)
        pause, half = np.zeros(5 * rate), len(signal) // 2
        path = root / "speech" / f"speaker {k}" / f"ü {k}.{extension}"
        path.parent.mkdir(parents=True)
        soundfile.write(path, np.concatenate([pause, signal[:half], pause, signal[half:], pause]), rate)
    for source in sorted((corpora / "wham_noise" / "cv").glob("*.wav"))[:4]:
        (root / "noise").mkdir(exist_ok=True)
        shutil.copy(source, root / "noise")
    return root / "speech", root / "noise", root / "index"


def make(folders, **options):
    speech, noise, index = folders
    return DynamicMixingDataset(speech, noise, index, workers=1, **({"mixtures_per_epoch": 20} | options))


def test_keys_alone_decide_an_item(folders):
    first, second = make(folders, seed=3), make(folders, seed=3)
    for index in (4, 1):  # another order, another object: as another worker or a resumed run would
        first[0, 7, 8000]
        np.testing.assert_array_equal(first[2, index, 8000]["mixture"], second[2, index, 8000]["mixture"])
    assert not np.array_equal(first[2, 1, 8000]["mixture"], first[3, 1, 8000]["mixture"])
    assert not np.array_equal(first[2, 1, 8000]["mixture"], make(folders, seed=4)[2, 1, 8000]["mixture"])


def epoch_of(dataset, epoch=1, workers=0, ranks=1, start=0):
    """Mixtures by id of an epoch of all ranks, each with its own loader; the global batch is 6 items."""
    mixtures = {}
    for rank in range(ranks):
        sampler = EpochSampler(dataset.frames, 6 // ranks, seed=1, max_frames=4000, rank=rank, world_size=ranks)
        sampler.set_epoch(epoch)
        sampler.start = start
        for batch in torch.utils.data.DataLoader(
            dataset, batch_sampler=sampler, collate_fn=collate, num_workers=workers
        ):
            if batch is not None:
                mixtures |= {
                    name: (m.numpy(), s.numpy()) for name, m, s in zip(batch.ids, batch.mixture, batch.sources)
                }
    return mixtures


def assert_equal(first, second):
    assert set(first) == set(second)
    for name, (mixture, sources) in first.items():
        np.testing.assert_array_equal(second[name][0], mixture)
        np.testing.assert_array_equal(second[name][1], sources)


def test_workers_and_ranks_change_nothing(folders):
    dataset = make(folders)
    wanted = epoch_of(dataset)
    assert len(wanted) == 20
    for workers, ranks in ((1, 1), (2, 1), (0, 2), (0, 3), (2, 3)):
        assert_equal(wanted, epoch_of(dataset, workers=workers, ranks=ranks))


def test_a_new_epoch_is_new_and_resuming_goes_on(folders):
    dataset = make(folders)
    first, second = epoch_of(dataset, 1), epoch_of(dataset, 2)
    assert not set(first) & set(second)
    assert not any(np.array_equal(a, b) for a, _ in first.values() for b, _ in second.values())
    rest = epoch_of(dataset, 2, workers=2, start=2)  # two batches of 6 were done
    assert_equal(dict(list(second.items())[12:]), rest)


@pytest.mark.parametrize("noise", [True, False])
def test_items(folders, noise):
    speech, noises, index = folders
    data = make((speech, noises if noise else None, index), num_spks=3, training_signal_len=12000)
    assert len(data) == 20 and set(data.frames) == {12000}
    for index in range(20):
        item = data[0, index, None]
        assert item["sources"].shape == (12000, 3) and item["mixture"].dtype == np.float32
        assert np.abs(item["mixture"]).max() <= 0.9001
        np.testing.assert_allclose(item["clean"], item["sources"].sum(1), atol=1e-6)
        assert (np.abs(item["mixture"] - item["clean"]).max() > 1e-4) == noise
        speakers = [name.split("-")[0] for name in item["id"].split("-", 2)[2].split("_")]
        assert len(set(speakers)) == 3


def test_no_crop_of_real_speech_with_pauses_is_silent(real):
    data = make(real, training_signal_len=8000, speed_factors=None)
    voiced = MIN_ACTIVE_SECONDS - 0.1  # the crop need not begin where a measured 0.1 s begins
    for index in range(100):
        item = data[0, index, None]
        for source in item["sources"].T:
            power = np.square(source.reshape(-1, 80)).mean(1)  # 10 ms
            assert (power > 1e-4 * power.max()).sum() * 0.01 >= voiced
            assert mixing.measure_loudness(source, 8000) > -70
    # Crops at random would often be silent: two thirds of a second is pause.
    path = real[0] / data.speech.recordings[0].path
    signal, rate = soundfile.read(path)
    assert np.mean([np.abs(signal[s : s + rate]).max() < 1e-3 for s in range(0, len(signal) - rate, rate)]) > 0.3


def test_no_crop_is_far_softer_than_its_recording(corpora, tmp_path):
    """Not even where recordings have a constant offset, as one of LibriSpeech's has before its first word."""
    for k, source in enumerate(sorted((corpora / "LibriSpeech" / "dev-clean").rglob("*.flac"))[:10]):
        signal, rate = soundfile.read(source)
        path = tmp_path / "speech" / f"s{k}" / "a.wav"
        path.parent.mkdir(parents=True)
        soundfile.write(path, np.concatenate([np.zeros(4 * rate), signal]) + 0.05, rate)
    data = make((tmp_path / "speech", None, tmp_path), speech_loudness=(-29, -29), training_signal_len=8000)
    levels = [mixing.measure_loudness(source, 8000) for k in range(100) for source in data[0, k, None]["sources"].T]
    assert min(levels) > -29 - 15


def test_files_kept_in_memory_or_read_in_part_give_the_same(real):
    kept, read = make(real, cache_gib=1), make(real, cache_gib=0)
    for index in range(30):
        first, second = kept[0, index, 16000]["mixture"], read[0, index, 16000]["mixture"]
        np.testing.assert_allclose(first, second, atol=1e-3 * np.abs(second).max())  # 16 bits of lossy files
    assert len(list(real[2].glob("audio-*.bin"))) == 2 and not read.speech._read.places


def test_the_published_loudness(corpora, tmp_path):
    """Whole utterances come out in [-33, -25] LUFS and noise in [-38, -30], uniformly, unless a peak forbids it."""
    folders = (corpora / "LibriSpeech" / "dev-clean", corpora / "wham_noise" / "cv", tmp_path)
    # Gains are those of the files, here at 16 kHz: at 8 kHz a voice with sharp sibilants is up to 3 dB softer.
    data = make(folders, speed_factors=None, sample_rate=16000)
    speech, noise = [], []
    for index in range(60):
        item = data[0, index, 18 * 16000]  # longer than any utterance of the part
        if np.abs(item["mixture"]).max() > 0.899:
            continue  # turned down as a whole
        speech += [mixing.measure_loudness(source, 16000) for source in item["sources"].T]
        noise.append(mixing.measure_loudness(item["mixture"] - item["clean"], 16000))
    assert -33.4 < min(speech) < -32 and -26 < max(speech) < -24.6 and np.mean(speech) == pytest.approx(-29, abs=1)
    # A noise that had to be repeated may come out a little louder or softer than the file.
    assert -39 < min(noise) < -36.5 and -31.5 < max(noise) < -29 and np.mean(noise) == pytest.approx(-34, abs=1.5)


def test_speed_changes_the_pitch_of_speech_alone(tmp_path):
    time = np.arange(32000) / 16000
    for name, pitch in (("speech/a/a.wav", 400), ("speech/b/b.wav", 400), ("noise/n.wav", 1000)):
        (tmp_path / name).parent.mkdir(parents=True)
        soundfile.write(tmp_path / name, 0.1 * np.sin(2 * np.pi * pitch * time), 16000)
    data = make((tmp_path / "speech", tmp_path / "noise", tmp_path), speed_factors=[0.9, 1.1])

    def pitch(signal):
        return np.fft.rfftfreq(len(signal), 1 / 8000)[np.abs(np.fft.rfft(signal)).argmax()]

    found = set()
    for index in range(12):
        item = data[0, index, 8000]
        found |= {round(pitch(source)) for source in item["sources"].T}
        assert pitch(item["mixture"] - item["clean"]) == pytest.approx(1000, abs=2)
    assert found == {360, 440}


def test_short_utterances_are_padded_and_short_noises_extended(tmp_path):
    speech, noise = make_folders(tmp_path, seconds=0.6, noises=1)
    item = make((speech, noise, tmp_path), speed_factors=None)[0, 0, 40000]
    assert not item["sources"][8000:].any() and item["sources"][:4000].any(0).all()
    rest = item["mixture"] - item["clean"]
    assert np.square(rest.reshape(-1, 800)).mean(1).min() > 0.05 * np.square(rest).mean()


def test_too_few_speakers(folders):
    with pytest.raises(UserError, match="4 speakers where a mixture needs 5"):
        make(folders, num_spks=5)


def test_a_file_that_goes_or_changes_while_training_is_named(tmp_path):
    speech, noise = make_folders(tmp_path, utterances=1, noises=1)
    data = make((speech, noise, tmp_path), cache_gib=0)
    path = noise / "tr" / "n0.wav"
    soundfile.write(path, np.zeros(100), 16000)
    with pytest.raises(UserError, match=r"n0\.wav .*was it changed after the training began"):
        [data[0, index, 8000] for index in range(20)]
    os.remove(path)
    with pytest.raises(UserError, match=r"n0\.wav \(it does not exist\)"):
        data[0, 0, 8000]


def test_a_changed_file_is_decoded_again(tmp_path):
    speech, noise = make_folders(tmp_path, utterances=1, noises=1)
    before = make((speech, noise, tmp_path))[0, 0, 8000]["mixture"]
    path = noise / "tr" / "n0.wav"
    soundfile.write(path, soundfile.read(path)[0][::-1], 16000)
    assert not np.array_equal(make((speech, noise, tmp_path))[0, 0, 8000]["mixture"], before)


def test_an_error_in_a_loader_process_is_one_line(tmp_path, capsys):
    speech, noise = make_folders(tmp_path, utterances=1, noises=1)
    data = make((speech, noise, tmp_path), cache_gib=0)
    os.remove(noise / "tr" / "n0.wav")
    with pytest.raises(SystemExit), one_line_errors("train.py"):
        epoch_of(data, workers=1)
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("train.py: error: cannot read") and "n0.wav (it does not exist)" in line
    assert "Traceback" not in line


def test_several_folders_have_their_shares_and_one_table(tmp_path):
    """Rows of a table above the folders begin with their names; equal names in two folders are two people."""
    table = ["path,speaker"]
    for folder in ("real", "synthetic"):
        for k in range(3):
            path = tmp_path / "speech" / folder / f"{k}.wav"
            path.parent.mkdir(parents=True, exist_ok=True)
            soundfile.write(path, voice(np.random.default_rng(k), 16000, 8000, 100 + 20 * k), 8000)
            table.append(f"{folder}/{k}.wav,person {k}")
    (tmp_path / "speakers.csv").write_text("\n".join(table), encoding="utf-8")
    places = [tmp_path / "speech" / "real", tmp_path / "speech" / "synthetic"]
    options = {"speakers": tmp_path / "speakers.csv", "workers": 1, "num_spks": 1}
    data = DynamicMixingDataset(places, None, tmp_path, speech_shares=[0.8, 0.2], **options)
    assert len(data.speech.by_speaker) == 6
    random = np.random.default_rng(0)
    drawn = [data.speech.draw_recording(random, data.speech.draw_speakers(random, 1)[0]).folder for _ in range(300)]
    assert np.mean([folder == str(places[0]) for folder in drawn]) == pytest.approx(0.8, abs=0.07)
    with pytest.raises(UserError, match="shares of 2 folders must be as many numbers that add up to 1"):
        DynamicMixingDataset(places, None, tmp_path, speech_shares=[0.8, 0.3], **options)
    with pytest.raises(UserError, match="speakers names 3 tables for 2 speech folders"):
        DynamicMixingDataset(places, None, tmp_path, speakers=[None] * 3)
