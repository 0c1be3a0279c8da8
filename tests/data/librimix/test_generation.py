"""Generation from metadata: folders, signals, what is kept, errors."""

import numpy as np
import pandas as pd
import pytest
import soundfile
from scipy.signal import resample_poly

from tests.data.folders import make_folders
from unified_sess.data.librimix.generation import TYPES, generate_split
from unified_sess.data.librimix.sources import read_metadata
from unified_sess.utils.errors import UserError


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return make_folders(tmp_path_factory.mktemp("generation"))


def make_rows(folders, count=5, n_src=2):
    """Rows over the synthetic folders, whose noises last 2, 3 and 4 s and whose utterances 3.2 and 3.3 s.

    In the second row the noise lasts longer than one source and less long than the other.
    """
    random = np.random.default_rng(0)
    rows = []
    for number in range(count):
        row = {"mixture_ID": f"m{number}"}
        for k in range(1, n_src + 1):
            speaker = 10 + (number + k) % 4
            path = f"train-clean-100/{speaker}/1/{speaker}-1-000{(number + k) % 2}.flac"
            row |= {f"source_{k}_path": path, f"source_{k}_gain": random.uniform(0.3, 2)}
        row |= {"noise_path": f"tr/n{number % 3}.wav", "noise_gain": random.uniform(0.3, 2)}
        rows.append(row | {"source_1_start": 8000 * (number == 1)})
    return rows


def generate(folders, output, rows, freqs=("8k",), modes=("min",), types=("mix_both",), n_src=2, workers=1):
    generate_split(rows, *folders, output, "train-100", n_src, freqs, modes, types, workers)


def read_all(folder):
    return {path.relative_to(folder): path.read_bytes() for path in sorted(folder.rglob("*.wav"))}


def expected(folders, row, n_src, rate, mode):
    """The signals of a row in the plainest way: gains at 16 kHz, resample, cut or pad."""
    signals = [soundfile.read(folders[0] / row[f"source_{k + 1}_path"], dtype="float32")[0] for k in range(n_src)]
    signals[0] = signals[0][row.get("source_1_start", 0) :]
    longest = max(map(len, signals))
    noise = soundfile.read(folders[1] / row["noise_path"], dtype="float32", always_2d=True)[0][:longest, 0]
    rise = np.hanning(16001)[:8001]
    start = noise
    while len(noise) < longest:
        faded = noise[-8001:] * rise[::-1] + start[:8001] * rise
        noise = np.concatenate([noise[:-8001], faded, start[8001:]])
    signals.append(noise[:longest])
    gains = [row[f"source_{k + 1}_gain"] for k in range(n_src)] + [row["noise_gain"]]
    signals = [s * g if rate == 16000 else resample_poly(s * g, rate, 16000) for s, g in zip(signals, gains)]
    if mode == "min":
        return [s[: min(map(len, signals))] for s in signals]
    return [np.pad(s, (0, max(map(len, signals)) - len(s))) for s in signals]


@pytest.mark.parametrize("n_src", [2, 3])
@pytest.mark.parametrize("modes", [["min"], ["min", "max"]])
def test_signals_are_those_of_the_rule_within_one_step(folders, tmp_path, n_src, modes):
    rows = make_rows(folders, n_src=n_src)
    generate(folders, tmp_path, rows, ["8k", "16k"], modes, TYPES, n_src)
    for row in rows:
        for freq, rate in (("8k", 8000), ("16k", 16000)):
            for mode in modes:
                *sources, noise = expected(folders, row, n_src, rate, mode)
                wanted = {f"s{k + 1}": s for k, s in enumerate(sources)} | {"noise": noise, "mix_clean": sum(sources)}
                wanted |= {"mix_both": sum(sources) + noise, "mix_single": sources[0] + noise}
                for name, signal in wanted.items():
                    path = tmp_path / f"wav{freq}" / mode / "train-100" / name / f"{row['mixture_ID']}.wav"
                    found, found_rate = soundfile.read(path, dtype="int16")
                    assert found_rate == rate and found.shape == signal.shape
                    step = np.clip(np.floor(signal * 32768), -32768, 32767) - found
                    assert np.abs(step).max() <= 1, path


def test_stereo_noise_takes_the_first_channel(folders, tmp_path):
    random = np.random.default_rng(1)
    (tmp_path / "noise" / "tr").mkdir(parents=True)
    stereo = np.stack([0.1 * random.standard_normal(64000), np.full(64000, 0.9)], 1)
    soundfile.write(tmp_path / "noise" / "tr" / "n0.wav", stereo, 16000)
    rows = [row | {"noise_path": "tr/n0.wav", "noise_gain": 1.0} for row in make_rows(folders, 1)]
    generate((folders[0], tmp_path / "noise"), tmp_path, rows, ["16k"])
    found = soundfile.read(tmp_path / "wav16k/min/train-100/noise/m0.wav")[0]
    np.testing.assert_allclose(found, stereo[: len(found), 0], atol=2**-14)


def test_metadata_in_the_public_form(folders, tmp_path):
    generate(folders, tmp_path, make_rows(folders), types=TYPES)
    folder = tmp_path / "wav8k" / "min"
    table = pd.read_csv(folder / "metadata" / "mixture_train-100_mix_both.csv")
    assert list(table.columns) == [
        "mixture_ID",
        "mixture_path",
        "source_1_path",
        "source_2_path",
        "noise_path",
        "length",
    ]
    assert list(table["mixture_ID"]) == [f"m{k}" for k in range(5)]
    for path, length in zip(table["mixture_path"], table["length"]):
        assert soundfile.info(path).frames == length
    single = pd.read_csv(folder / "metadata" / "metrics_train-100_mix_single.csv")
    assert list(single.columns) == ["mixture_ID", "source_1_SNR", "noise_SNR"]
    np.testing.assert_allclose(single["source_1_SNR"], -single["noise_SNR"], atol=0.05)
    assert {path.name for path in (folder / "metadata").iterdir()} == {
        f"{what}_train-100_{kind}.csv" for what in ("mixture", "metrics") for kind in TYPES
    }


def test_only_what_is_missing_is_made_again(folders, tmp_path):
    rows = make_rows(folders)
    generate(folders, tmp_path, rows)
    files = sorted(tmp_path.rglob("*.wav"))
    whole, times = read_all(tmp_path), {path: path.stat().st_mtime_ns for path in files}
    files[0].unlink()
    generate(folders, tmp_path, rows)
    assert read_all(tmp_path) == whole
    changed = [path for path in files if path.stat().st_mtime_ns != times[path]]
    assert {path.name for path in changed} == {files[0].name}


def test_rows_changed_and_changed_back_are_made_each_time(folders, tmp_path):
    rows = make_rows(folders)
    generate(folders, tmp_path, rows)
    whole = read_all(tmp_path)
    generate(folders, tmp_path, [row | {"noise_gain": 0.5} for row in rows])
    assert read_all(tmp_path) != whole
    generate(folders, tmp_path, rows)
    assert read_all(tmp_path) == whole


def test_files_of_other_metadata_are_refused(folders, tmp_path):
    generate(folders, tmp_path, make_rows(folders))
    with pytest.raises(UserError, match="holds 3 files that the metadata does not name, first m2.wav"):
        generate(folders, tmp_path, make_rows(folders, 2))


def test_missing_files_are_one_error_with_the_count(folders, tmp_path):
    rows = [row | {"noise_path": f"tr/lost{k}.wav"} for k, row in enumerate(make_rows(folders))]
    with pytest.raises(UserError, match="5 of 5 noises are missing under .*, first tr/lost0.wav"):
        generate(folders, tmp_path, rows)
    rows = [row | {"source_2_path": "train-clean-100/lost.flac"} for row in make_rows(folders)]
    with pytest.raises(UserError, match="1 of .* utterances are missing under .*, first train-clean-100/lost.flac"):
        generate(folders, tmp_path, rows)


@pytest.mark.parametrize("workers", [1, 2])
def test_errors_name_the_row_and_leave_nothing_half_written(folders, tmp_path, workers):
    rows = make_rows(folders)
    rows[2]["source_1_start"] = 10**9
    with pytest.raises(UserError, match="^row m2: .*13-1-0001.flac is shorter than its start"):
        generate(folders, tmp_path, rows, workers=workers)
    assert not list(tmp_path.rglob(".*.tmp*"))
    assert not any(path.name == "m2.wav" for path in tmp_path.rglob("*.wav"))
    assert not list(tmp_path.rglob("mixture_*.csv"))


def test_files_cut_short_or_at_another_rate_are_named(folders, tmp_path):
    noise = tmp_path / "noise"
    (noise / "tr").mkdir(parents=True)
    for name, rate in (("rate", 8000), ("empty", 16000)):
        soundfile.write(noise / "tr" / f"{name}.wav", np.zeros(int(name == "rate")), rate)
    (noise / "tr" / "text.wav").write_text("no audio")
    for name, message in (("rate", "at 8000 Hz where 16000"), ("empty", "no samples"), ("text", "cannot read")):
        rows = [row | {"noise_path": f"tr/{name}.wav"} for row in make_rows(folders, 1)]
        with pytest.raises(UserError, match=f"^row m0: .*{name}.wav.*{message}|^row m0: {message} .*{name}.wav"):
            generate((folders[0], noise), tmp_path, rows)
    speech = tmp_path / "speech"
    row = make_rows(folders, 1)[0]
    for k in (1, 2):
        path = row[f"source_{k}_path"]
        (speech / path).parent.mkdir(parents=True, exist_ok=True)
        whole = (folders[0] / path).read_bytes()
        (speech / path).write_bytes(whole if k == 2 else whole[: len(whole) // 2])
    with pytest.raises(UserError, match="^row m0: .*(copy it again|complete)"):
        generate((speech, folders[1]), tmp_path, [row])


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("source_1_gain", "loud", "row 4: no usable source_1_gain"),
        ("noise_gain", "inf", "row 4: no usable noise_gain"),
        ("noise_path", None, "row 4: no usable noise_path"),
        ("noise_start", "-3", "row 4: no usable noise_start"),
        ("mixture_ID", "../../m", "row 4: no usable mixture_ID"),
        ("mixture_ID", "m1", "mixture_ID m1 twice"),
    ],
)
def test_rows_that_cannot_be_used_are_named(folders, tmp_path, column, value, message):
    rows = [row | {"noise_start": "0"} for row in make_rows(folders)]
    rows[2][column] = value
    pd.DataFrame(rows).to_csv(tmp_path / "libri2mix_train.csv", index=False)
    with pytest.raises(UserError, match=message):
        read_metadata(tmp_path / "libri2mix_train.csv", 2)


def test_metadata_for_another_number_of_speakers_is_refused(folders, tmp_path):
    for n_src, other in ((2, 3), (3, 2)):
        pd.DataFrame(make_rows(folders, n_src=n_src)).to_csv(tmp_path / "m.csv", index=False)
        with pytest.raises(UserError, match=f"no metadata for {other} speakers"):
            read_metadata(tmp_path / "m.csv", other)
        found = pd.DataFrame(read_metadata(tmp_path / "m.csv", n_src))
        pd.testing.assert_frame_equal(found, pd.DataFrame(make_rows(folders, n_src=n_src)), check_dtype=False)


def test_real_recordings_within_one_step(corpora, tmp_path):
    speech = sorted((corpora / "LibriSpeech" / "dev-clean").rglob("*.flac"))[:4]
    noises = sorted((corpora / "wham_noise" / "cv").glob("*.wav"))
    noises = [min(noises, key=lambda p: p.stat().st_size), max(noises, key=lambda p: p.stat().st_size)]
    rows = []
    for number, (first, second, noise) in enumerate(zip(speech[:2], speech[2:], noises)):
        row = {
            "mixture_ID": f"m{number}",
            "noise_path": str(noise.relative_to(corpora / "wham_noise")),
            "noise_gain": 0.7,
        }
        for k, (path, gain) in enumerate(((first, 1.3), (second, 0.6)), 1):
            row |= {f"source_{k}_path": str(path.relative_to(corpora / "LibriSpeech")), f"source_{k}_gain": gain}
        rows.append(row)
    folders = corpora / "LibriSpeech", corpora / "wham_noise"
    generate(folders, tmp_path, rows)
    for row in rows:
        signal = sum(expected(folders, row, 2, 8000, "min"))
        found = soundfile.read(tmp_path / "wav8k/min/train-100/mix_both" / f"{row['mixture_ID']}.wav", dtype="int16")[0]
        assert np.abs(np.clip(np.floor(signal * 32768), -32768, 32767) - found).max() <= 1
