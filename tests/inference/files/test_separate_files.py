"""Files into files: what `unified-sess separate` promises of its results."""

import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import soundfile
import torch

from tests.inference.training import mixture
from tests.model_io.results import make_results
from unified_sess.inference import UnifiedSeparation, Windows
from unified_sess.inference.files.separate_files import Options, separate_files
from unified_sess.inference.passes import InPasses
from unified_sess.losses import pit_si_snr
from unified_sess.model_io.export import export
from unified_sess.utils.errors import UserError, writable_folder

COMMAND = [sys.executable, "-c", "from unified_sess.cli import main; main()", "separate"]


@pytest.fixture(scope="module")
def model(trained_model):
    """The trained network."""
    return UnifiedSeparation.from_pretrained(trained_model, device="cpu")


def record(path, seconds=1.0, rate=8000, gain=1.0, seed=0, channels=1, **options):
    """Write a recording of two voices and return it `[time]`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    signal = gain * mixture(np.random.default_rng(seed), seconds, rate)[0]
    soundfile.write(path, np.repeat(signal[:, None], channels, 1), rate, **options)
    return signal


def results(folder):
    """All files below a folder, hidden ones too."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_voices_are_separated(model, tmp_path):
    generator = np.random.default_rng(5)
    signal, sources = mixture(generator, 3.0)
    soundfile.write(tmp_path / "a.wav", signal, 8000, subtype="FLOAT")
    separate_files(model, [tmp_path / "a.wav"], tmp_path / "out")
    found = np.stack([soundfile.read(tmp_path / f"out/a_s{k}.wav", dtype="float32")[0] for k in (1, 2)], 1)
    ratio = -pit_si_snr(torch.from_numpy(found)[None], torch.from_numpy(sources)[None])[0].item()
    assert ratio > 12  # of 0 dB in the mixture
    # Loudness too: the sources are those that were mixed, not only up to a factor.
    levels = sorted(np.sqrt(np.mean(found**2, 0))), sorted(np.sqrt(np.mean(sources**2, 0)))
    np.testing.assert_allclose(*levels, rtol=0.1)


@pytest.mark.parametrize("rate", [8000, 16000, 44100])
@pytest.mark.parametrize(("name", "channels"), [("a.wav", 1), ("a.flac", 2), ("a.ogg", 2), ("a.mp3", 1)])
def test_results_have_rate_length_and_scale_of_the_recording(model, tmp_path, name, channels, rate):
    record(tmp_path / name, 0.9, rate, channels=channels)
    separate_files(model, [tmp_path / name], tmp_path / "out", Options(enhanced=True))
    assert results(tmp_path / "out") == ["a_enhanced.wav", "a_s1.wav", "a_s2.wav"]
    signal = soundfile.read(tmp_path / name, always_2d=True)[0].mean(1)
    found = {}
    for kind in ("s1", "s2", "enhanced"):
        found[kind], found_rate = soundfile.read(tmp_path / f"out/a_{kind}.wav")
        assert found_rate == rate and found[kind].shape == signal.shape
    # Least squares: what remains of the mixture has nothing in common with the sum of the sources.
    for estimate in (found["s1"] + found["s2"], found["enhanced"]):
        low = slice(500, -500)  # resampling has edges
        assert abs(signal[low] @ estimate[low] / (estimate[low] @ estimate[low]) - 1) < 0.05


def test_command_and_python_agree(model, tmp_path):
    record(tmp_path / "a.wav", 2.0)
    separate_files(model, [tmp_path / "a.wav"], tmp_path / "out")
    expected = model.separate_file(tmp_path / "a.wav")
    for k in (0, 1):
        found = soundfile.read(tmp_path / f"out/a_s{k + 1}.wav", dtype="float32")[0]
        np.testing.assert_allclose(found, expected[0, :, k], atol=1.1 / 2**15)


@pytest.mark.parametrize("passes", [1, 3])
def test_passes_are_those_of_the_network(model, tmp_path, passes):
    path = tmp_path / "a.wav"
    record(path, 2.0)
    separate_files(model, [path], tmp_path / "out", Options(passes=passes))
    mixture = soundfile.read(path, dtype="float32")[0]
    expected = InPasses(model, passes).separate_windows(mixture[None])[0]
    once = model.separate_windows(mixture[None])[0]
    assert (np.abs(expected - once).max() > 1e-3 * np.abs(once).max()) == (passes > 1)
    from_python = model.separate_file(path, passes=passes)[0].numpy()
    for k in (0, 1):
        gain = (from_python[:, k] @ expected[:, k]) / (expected[:, k] @ expected[:, k])  # SI-SNR's sources have none
        np.testing.assert_allclose(from_python[:, k], gain * expected[:, k], atol=1e-4)
        found = soundfile.read(tmp_path / f"out/a_s{k + 1}.wav", dtype="float32")[0]
        np.testing.assert_allclose(found, from_python[:, k], atol=1.1 / 2**15)


def test_model_rate_and_flac(model, tmp_path):
    record(tmp_path / "a.wav", 0.5, 44100)
    separate_files(model, [tmp_path / "a.wav"], tmp_path / "out", Options(extension="flac", model_rate=True))
    info = soundfile.info(tmp_path / "out/a_s1.flac")
    assert (info.samplerate, info.frames, info.format, info.subtype) == (8000, 4000, "FLAC", "PCM_16")


def test_loud_results_are_turned_down_together(model, tmp_path, capsys):
    signal = record(tmp_path / "a.wav", gain=20.0, subtype="FLOAT")
    assert abs(signal).max() > 1.5
    separate_files(model, [tmp_path / "a.wav"], tmp_path / "out", Options(subtype="PCM_16"))
    found = np.stack([soundfile.read(tmp_path / f"out/a_s{k}.wav")[0] for k in (1, 2)], 1)
    assert 0.99 < abs(found).max() < 1  # not clipped
    expected = model.separate_file(tmp_path / "a.wav")[0].numpy()
    gain = abs(found).max() / abs(expected).max()
    np.testing.assert_allclose(found, gain * expected, atol=1e-4)
    assert (
        f"a.wav has results beyond full scale: all turned down by {-20 * np.log10(gain):.1f} dB"
        in capsys.readouterr().err
    )


def test_quiet_and_silent_recordings_stay_so(model, tmp_path):
    signal = record(tmp_path / "quiet.wav", gain=0.01, subtype="FLOAT")
    soundfile.write(tmp_path / "silent.wav", np.zeros(5000), 8000)
    separate_files(model, [tmp_path / "quiet.wav", tmp_path / "silent.wav"], tmp_path / "out")
    found = soundfile.read(tmp_path / "out/quiet_s1.wav")[0] + soundfile.read(tmp_path / "out/quiet_s2.wav")[0]
    assert abs(found).max() < 2 * abs(signal).max()
    assert results(tmp_path / "out") == ["quiet_s1.wav", "quiet_s2.wav"]  # nobody is in the silent one


@pytest.mark.parametrize("rate", [8000, 44100])
def test_a_single_sample(model, tmp_path, rate):
    soundfile.write(tmp_path / "a.wav", [0.5], rate)
    separate_files(model, [tmp_path / "a.wav"], tmp_path / "out", Options(num_spks=2))
    assert soundfile.info(tmp_path / "out/a_s2.wav").frames == 1
    assert model.separate_file(tmp_path / "a.wav").shape == (1, 1, 2)


def test_length_and_batch_do_not_matter(model):
    signal = torch.from_numpy(np.stack([mixture(np.random.default_rng(k), 0.5)[0] for k in range(5)]))
    alone = torch.cat([model.separate_batch(row[None]) for row in signal])
    for size in range(1, 6):
        together = torch.cat([model.separate_batch(part) for part in signal.split(size)])
        torch.testing.assert_close(together, alone, atol=1e-5, rtol=0)
    for length in (1, 2, 15, 16, 17, 33, 100):
        sources, enhanced = model.separate_batch(signal[:, :length]), model.enhance_batch(signal[:, :length])
        assert sources.shape == (5, length, 2) and enhanced.shape == (5, length)
        assert torch.isfinite(sources).all() and torch.isfinite(enhanced).all()
        torch.testing.assert_close(
            model.run(signal[:, :length], enhanced=True), torch.cat((sources, enhanced[..., None]), 2)
        )


def test_windows_in_batches_change_nothing(model, tmp_path):
    record(tmp_path / "a.wav", 5.3)
    found = [model.separate_file(tmp_path / "a.wav", windows=Windows(1.0, 0.3, size)) for size in (1, 3, 50)]
    for other in found[1:]:
        torch.testing.assert_close(other, found[0], atol=1e-5, rtol=0)


def test_files_of_one_name_have_their_own_results(model, tmp_path):
    """speechbrain#2555: the second file of a name got the result of the first."""
    for seed, folder in enumerate("ab"):
        record(tmp_path / folder / "x.wav", seed=seed)
    first, second = (model.separate_file(tmp_path / folder / "x.wav") for folder in "ab")
    assert (first - second).abs().max() > 0.05
    separate_files(model, [tmp_path / "a", tmp_path / "b"], tmp_path / "out", jobs=2)
    files = results(tmp_path / "out")
    assert len(files) == 4
    for expected in (first, second):
        k = [np.abs(soundfile.read(tmp_path / "out" / file)[0] - expected[0, :, 0].numpy()).max() for file in files]
        assert sum(error < 1e-4 for error in k) == 1


def test_a_later_file_of_one_name_is_not_taken_for_done(model, tmp_path, capsys):
    for seed, folder in enumerate("ab"):
        record(tmp_path / folder / "x.wav", seed=seed)
    separate_files(model, [tmp_path / "a/x.wav"], tmp_path / "out")
    before = (tmp_path / "out/x_s1.wav").read_bytes()
    with pytest.raises(UserError, match="1 of 1"):
        separate_files(model, [tmp_path / "b/x.wav"], tmp_path / "out")
    assert "another recording" in capsys.readouterr().err
    assert (tmp_path / "out/x_s1.wav").read_bytes() == before
    separate_files(model, [tmp_path / "b/x.wav"], tmp_path / "out", Options(overwrite=True))
    assert (tmp_path / "out/x_s1.wav").read_bytes() != before


def test_existing_results_are_skipped(model, tmp_path, capsys):
    record(tmp_path / "in/a.wav")
    separate_files(model, [tmp_path / "in"], tmp_path / "out")
    shutil.copytree(tmp_path / "in", tmp_path / "moved")  # the content counts, not the path
    stamp = os.stat(tmp_path / "out/a_s1.wav").st_mtime_ns
    capsys.readouterr()
    separate_files(model, [tmp_path / "moved"], tmp_path / "out")
    assert os.stat(tmp_path / "out/a_s1.wav").st_mtime_ns == stamp and "1 skipped" in capsys.readouterr().out
    (tmp_path / "out/a_s2.wav").unlink()
    separate_files(model, [tmp_path / "in"], tmp_path / "out")
    assert results(tmp_path / "out") == ["a_s1.wav", "a_s2.wav"]
    separate_files(model, [tmp_path / "in"], tmp_path / "out", Options(overwrite=True))
    assert os.stat(tmp_path / "out/a_s1.wav").st_mtime_ns > stamp


def test_folders_globs_and_odd_names(model, tmp_path, monkeypatch):
    names = [
        "a/b c.wav",
        'a/it\'s "so".wav',
        "d/日本語.wav",
        "-dash.wav",
        "$(touch hacked).wav",
        "..wav",
        "n\nl.wav",
        "[1]*.WAV",
    ]
    names += ["l" * 240 + ".wav", "é" * 120 + ".wav", os.fsdecode(b"\xff.wav")]
    for name in names:
        record(tmp_path / "plain.wav", 0.05)
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        os.rename(tmp_path / "plain.wav", tmp_path / "in" / name)
    (tmp_path / "in/notes.txt").touch()
    monkeypatch.chdir(tmp_path)
    separate_files(model, ["in", "in/../in/d/*.wav", "in/[1]*.WAV", "./in/-dash.wav", "in/..wav"], "out", jobs=3)
    expected = {f"{os.path.splitext(name)[0] if name != '..wav' else '.'}_s{k}.wav" for name in names for k in (1, 2)}
    found = set(results(tmp_path / "out"))
    assert expected <= found and len(found) <= len(expected) + 6  # what was named twice may be there twice
    assert sorted(os.listdir(tmp_path)) == ["in", "out"] and len(results(tmp_path / "in")) == len(names) + 1


def test_links_do_not_lead_out_of_the_output_folder(model, tmp_path, capsys):
    record(tmp_path / "in/sub/a.wav", 0.05)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "out/sub").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError):
        separate_files(model, [tmp_path / "in"], tmp_path / "out")
    assert "leads out" in capsys.readouterr().err and not os.listdir(tmp_path / "elsewhere")


def test_inputs_are_never_overwritten(model, tmp_path, capsys):
    for name in ("a.wav", "a_s1.wav"):
        record(tmp_path / name, 0.05)
    before = (tmp_path / "a_s1.wav").read_bytes()
    with pytest.raises(UserError):
        separate_files(model, [tmp_path / "a.wav", tmp_path / "a_s1.wav"], tmp_path, Options(overwrite=True))
    assert "would overwrite the input" in capsys.readouterr().err
    assert (tmp_path / "a_s1.wav").read_bytes() == before


def test_the_input_folder_cannot_take_the_results(model, tmp_path, capsys):
    record(tmp_path / "a.wav", 0.05)
    with pytest.raises(UserError, match="nothing to separate"):
        separate_files(model, [tmp_path], tmp_path)
    assert "is the output folder as well" in capsys.readouterr().err and results(tmp_path) == ["a.wav"]


def test_bad_files_are_named_and_others_go_on(model, tmp_path, capsys):
    record(tmp_path / "in/good.wav", 0.2)
    (tmp_path / "in/empty.wav").touch()
    (tmp_path / "in/text.flac").write_text("hello")
    soundfile.write(tmp_path / "in/nan.wav", [np.nan, 0.0], 8000, subtype="FLOAT")
    (tmp_path / "void").mkdir()
    paths = [tmp_path / "in", tmp_path / "missing.wav", tmp_path / "void", tmp_path / "*.xyz"]
    with pytest.raises(UserError, match="6 of 7"):
        separate_files(model, paths, tmp_path / "out")
    assert results(tmp_path / "out") == ["good_s1.wav", "good_s2.wav"]
    captured = capsys.readouterr()
    lines = [line for line in captured.err.splitlines() if "error:" in line]
    for name in ("empty.wav", "text.flac", "nan.wav", "missing.wav", "void", "*.xyz"):
        assert sum(name in line for line in lines) == 1
    assert "separated 1 file, 0.2 s of audio" in captured.out and "real-time factor" in captured.out


def test_three_speakers(tmp_path):
    make_results(tmp_path / "results", num_spks=3)
    model = UnifiedSeparation.from_pretrained(export(tmp_path / "results", tmp_path / "model"), device="cpu")
    record(tmp_path / "a.wav", 3.0)
    separate_files(model, [tmp_path / "a.wav"], tmp_path / "out", Options(windows=Windows(1.0, 0.25)))
    assert results(tmp_path / "out") == ["a_s1.wav", "a_s2.wav", "a_s3.wav"]


@pytest.mark.parametrize("passes", [1, 2])
def test_a_broken_network_is_reported(trained_model, tmp_path, capsys, passes):
    model = UnifiedSeparation.from_pretrained(trained_model, device="cpu")
    with torch.no_grad():
        next(model.mods.masknet.parameters()).fill_(torch.nan)
    record(tmp_path / "a.wav", 0.2)
    with pytest.raises(UserError):
        separate_files(model, [tmp_path / "a.wav"], tmp_path / "out", Options(passes=passes))
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "error:" in line]
    assert "a.wav" in line and str(trained_model) in line and "not finite" in line and "--model" in line
    assert results(tmp_path / "out") == []


def test_wav_files_end_at_four_gigabytes(model, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("unified_sess.inference.files.separate_files.LARGEST_WAV", 3000)
    record(tmp_path / "a.wav", 0.2)
    with pytest.raises(UserError):
        separate_files(model, [tmp_path / "a.wav"], tmp_path / "out")
    assert "--format flac" in capsys.readouterr().err
    separate_files(model, [tmp_path / "a.wav"], tmp_path / "out", Options(extension="flac"))


@pytest.mark.parametrize("rate", [96001, 768000])
def test_rates_that_flac_lacks(model, tmp_path, capsys, rate):
    record(tmp_path / "a.wav", 0.05, rate)
    with pytest.raises(UserError):
        separate_files(model, [tmp_path / "a.wav"], tmp_path / "out", Options(extension="flac"))
    assert "--format wav or --model-rate" in capsys.readouterr().err and results(tmp_path / "out") == []
    separate_files(model, [tmp_path / "a.wav"], tmp_path / "out", Options(extension="flac", model_rate=True))
    separate_files(model, [tmp_path / "a.wav"], tmp_path / "out")
    assert soundfile.info(tmp_path / "out/a_s1.wav").samplerate == rate


def test_jobs_give_the_same_results(model, tmp_path):
    for number in range(4):
        record(tmp_path / f"in/{number}.wav", 0.3, seed=number)
    for jobs in (1, 3):
        separate_files(model, [tmp_path / "in"], tmp_path / f"out{jobs}", jobs=jobs)
    for name in results(tmp_path / "out1"):
        assert (tmp_path / "out1" / name).read_bytes() == (tmp_path / "out3" / name).read_bytes()
    with pytest.raises(UserError, match="--jobs 0"):
        separate_files(model, [tmp_path / "in"], tmp_path / "out", jobs=0)


def test_jobs_may_check_one_folder_at_a_time(tmp_path):
    """A file to try writing with had one name for all threads: some found it removed already."""
    with ThreadPoolExecutor(8) as pool:
        assert len(list(pool.map(lambda _: writable_folder(tmp_path), range(500)))) == 500
    assert results(tmp_path) == []


@pytest.mark.parametrize("kind", ["file", "below a file", "read-only"])
def test_an_output_folder_that_cannot_be(model, tmp_path, kind):
    record(tmp_path / "a.wav", 0.05)
    (tmp_path / "file").touch()
    output = {"file": tmp_path / "file", "below a file": tmp_path / "file/out", "read-only": "/proc/out"}[kind]
    with pytest.raises(UserError, match="cannot write in the folder"):
        separate_files(model, [tmp_path / "a.wav"], output)


@pytest.mark.slow
@pytest.mark.parametrize("limit", [20_000, 150_000])  # bytes: while separating, while writing
def test_a_full_disk_leaves_nothing(random_model, tmp_path, limit):
    record(tmp_path / "a.wav", 1.0, 96000)

    def few_bytes():
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    command = [*COMMAND, "a.wav", "--model", random_model, "--output-dir", "out"]
    result = subprocess.run(command, cwd=tmp_path, preexec_fn=few_bytes, capture_output=True, text=True, check=False)
    lines = [line for line in result.stderr.splitlines() if "a.wav" in line or "a_s1.wav" in line]
    assert result.returncode == 1 and len(lines) == 1 and "Traceback" not in result.stderr, result.stderr
    assert results(tmp_path / "out") == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 130), (signal.SIGKILL, -signal.SIGKILL)]
)
def test_killed_runs_leave_nothing_half_written(random_model, tmp_path, number, status):
    record(tmp_path / "a.wav", 0.1)
    with soundfile.SoundFile(tmp_path / "b.wav", "w", 8000, 1) as file:  # minutes of work
        noise = 0.1 * np.random.default_rng(0).standard_normal(8000 * 60)
        for _ in range(120):
            file.write(noise)
    command = [*COMMAND, "a.wav", "b.wav", "--model", random_model, "--output-dir", "out"]
    process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    while not (tmp_path / "out/a_s2.wav").exists() and process.poll() is None:
        time.sleep(0.02)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == status and "Traceback" not in errors
    assert ("interrupted" in errors) == (number != signal.SIGKILL)
    assert results(tmp_path / "out") == ["a_s1.wav", "a_s2.wav"]
    assert soundfile.info(tmp_path / "out/a_s1.wav").frames == 800


@pytest.mark.slow
def test_interrupted_twice_it_ends_at_once(tmp_path):
    """The first Ctrl-C was answered after minutes of passes, without a word; the second one crashed in torch's threads."""
    if not hasattr(os, "O_TMPFILE"):
        pytest.skip("this system has no files without a name")
    record(tmp_path / "a.wav", 0.1)
    record(tmp_path / "b.wav", 120.0)
    command = [*COMMAND, "a.wav", "b.wav", "--output-dir", "out", "--passes", "5"]
    process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    while not (tmp_path / "out/a_s1.wav").exists() and process.poll() is None:
        time.sleep(0.02)
    time.sleep(1.0)
    process.send_signal(signal.SIGINT)
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    start = time.monotonic()
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130 and "Ctrl-C once more" in errors and "error: interrupted" in errors
    assert "Traceback" not in errors and "terminate" not in errors and time.monotonic() - start < 3
    assert not [name for name in results(tmp_path / "out") if not name.startswith("a_")]
