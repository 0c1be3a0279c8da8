"""Generation that is killed, runs out of disk or lacks noises."""

import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
import soundfile

from tests.data.folders import make_folders
from unified_sess.data.librimix.noise_speed import make_all
from unified_sess.utils.errors import UserError


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return make_folders(tmp_path_factory.mktemp("interrupted"), utterances=3)


@pytest.fixture(scope="module")
def metadata(folders, tmp_path_factory):
    """60 rows over the folders: enough to be caught in the middle."""
    rows = []
    for number in range(60):
        row = {"mixture_ID": f"m{number}"}
        for k in (1, 2):
            speaker = 10 + (number + k) % 4
            row |= {f"source_{k}_path": f"train-clean-100/{speaker}/1/{speaker}-1-000{number % 3}.flac"}
            row |= {f"source_{k}_gain": 0.5 + number / 100}
        rows.append(row | {"noise_path": f"tr/n{number % 3}.wav", "noise_gain": 0.5})
    folder = tmp_path_factory.mktemp("metadata")
    pd.DataFrame(rows).to_csv(folder / "libri2mix_train-clean-100.csv", index=False)
    return folder


@pytest.fixture(scope="module")
def command(folders, metadata, repository):
    made = [sys.executable, repository / "data_prep" / "make_librimix.py", "--librispeech", folders[0], "--wham-noise"]
    return [*made, folders[1], "--metadata", metadata, "--freq", "8k", "16k", "--workers", "2", "--output"]


@pytest.fixture(scope="module")
def uninterrupted(command, tmp_path_factory):
    output = tmp_path_factory.mktemp("whole")
    subprocess.run([*command, output], check=True, capture_output=True)
    return read_all(output)


def read_all(folder):
    files = [path for path in folder.rglob("*") if path.is_file() and not path.name.startswith(".made")]
    assert not [path for path in files if path.name.startswith(".")]
    return {path.relative_to(folder): path.read_bytes().replace(bytes(folder), b"") for path in files}


def start_and_wait(command, output, least):
    """Start a run; return it with its workers once some files are there."""
    run = subprocess.Popen([*command, output], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    while len(list(output.rglob("[!.]*.wav"))) < least:
        assert run.poll() is None, "it ended before it could be interrupted"
        time.sleep(0.002)
    workers = Path(f"/proc/{run.pid}/task/{run.pid}/children").read_text().split()
    return run, [int(worker) for worker in workers]


def has_ended(process):
    try:
        return Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except OSError:
        return True


linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="finds the workers in /proc")


@linux
@pytest.mark.parametrize("least", [1, 150])
def test_killed_run_goes_on_to_the_same_files(command, uninterrupted, tmp_path, least):
    run, workers = start_and_wait(command, tmp_path, least)
    run.kill()
    run.wait()
    until = time.monotonic() + 20
    while not all(map(has_ended, workers)):  # none is left behind
        assert time.monotonic() < until
        time.sleep(0.01)
    there = {path.relative_to(tmp_path): path.read_bytes() for path in tmp_path.rglob("[!.]*.wav")}
    assert 0 < len(there) < 60 * 12
    assert all(uninterrupted[path] == data for path, data in there.items())  # whole or not at all
    (tmp_path / "Libri2Mix/wav8k/min/train-100/s1/.m0.0.tmp.wav").write_bytes(b"half")  # a write that was cut off
    subprocess.run([*command, tmp_path], check=True, capture_output=True)
    assert read_all(tmp_path) == uninterrupted


@linux
def test_killed_worker_is_one_line_and_the_same_command_goes_on(command, uninterrupted, tmp_path):
    run, workers = start_and_wait(command, tmp_path, 5)
    os.kill(workers[0], signal.SIGKILL)
    errors = run.communicate()[1]
    assert run.returncode == 1 and "Traceback" not in errors
    assert (
        "a worker process was killed" in errors.splitlines()[-1]
        and "run the same command again" in errors.splitlines()[-1]
    )
    subprocess.run([*command, tmp_path], check=True, capture_output=True)
    assert read_all(tmp_path) == uninterrupted


@linux
def test_ctrl_c_is_one_line(command, tmp_path):
    run, workers = start_and_wait(command, tmp_path, 5)
    for process in (run.pid, *workers):  # as a terminal does
        os.kill(process, signal.SIGINT)
    errors = run.communicate()[1]
    assert run.returncode == 130 and "Traceback" not in errors and "interrupted" in errors.splitlines()[-1]


def test_full_disk_is_one_line(command, tmp_path):
    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (60000, 60000))  # more than the files at 8 kHz, less than at 16 kHz

    ended = subprocess.run([*command, tmp_path], check=False, capture_output=True, text=True, preexec_fn=limit)
    assert ended.returncode == 1 and "Traceback" not in ended.stderr
    assert "disk" in ended.stderr.splitlines()[-1] and ".wav" in ended.stderr.splitlines()[-1]
    assert all(path.stat().st_size < 60000 and soundfile.info(path).frames for path in tmp_path.rglob("*.wav"))
    assert not list(tmp_path.rglob(".*.tmp*"))


def perturbed(metadata, tmp_path, names):
    """The metadata with other noises."""
    rows = pd.read_csv(metadata / "libri2mix_train-clean-100.csv")[: len(names)]
    rows["noise_path"] = names
    (tmp_path / "metadata").mkdir()
    rows.to_csv(tmp_path / "metadata" / "libri2mix_train-clean-100.csv", index=False)
    return tmp_path / "metadata"


def test_missing_speed_perturbed_noises_are_made(command, folders, metadata, tmp_path):
    rows = perturbed(metadata, tmp_path, ["tr/n0sp08.wav", "tr/n1sp12.wav", "tr/n2.wav"])
    subprocess.run([*command, tmp_path / "out", "--metadata", rows], check=True, capture_output=True)
    for name, original, speed in (("n0sp08", "n0", 0.8), ("n1sp12", "n1", 1.2)):
        made, of = (soundfile.info(folders[1] / "tr" / f"{n}.wav") for n in (name, original))
        assert made.frames == pytest.approx(of.frames / speed, abs=1) and made.channels == 1
    assert not (folders[1] / "tr" / "n0sp12.wav").exists()  # only those that are named


def test_noises_without_an_original_are_one_error_with_the_count(command, metadata, tmp_path):
    rows = perturbed(metadata, tmp_path, ["tr/lost1sp08.wav", "tr/lost2sp12.wav", "tr/lost2.wav", "tr/n2.wav"])
    ended = subprocess.run(
        [*command, tmp_path / "out", "--metadata", rows], check=False, capture_output=True, text=True
    )
    assert ended.returncode == 1 and len(ended.stderr.splitlines()) == 1
    assert "3 of 4 noises are missing" in ended.stderr and "first tr/lost1sp08.wav" in ended.stderr
    assert not list(tmp_path.rglob("*.wav"))


def test_all_noises_at_both_speeds(folders, tmp_path):
    (tmp_path / "deep").mkdir()
    for path in (folders[1] / "tr").glob("n?.wav"):
        (tmp_path / "deep" / path.name).symlink_to(path)
    for _ in range(2):  # those that are there are not perturbed again
        make_all(tmp_path, 1)
        names = {path.name for path in (tmp_path / "deep").iterdir()}
        assert names == {f"n{k}{ending}.wav" for k in range(3) for ending in ("", "sp08", "sp12")}
    with pytest.raises(UserError, match="has no wav files"):
        make_all(tmp_path / "nothing", 1)
