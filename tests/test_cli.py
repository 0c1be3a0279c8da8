"""The command line: its help, its exit statuses and what it hands on."""

import io
import json
import re
import shlex
import shutil
import subprocess
import sys

import numpy as np
import pytest
import soundfile
import torch
import typer

from unified_sess import __version__, cli
from unified_sess.model_io import model_folder

COMMANDS = ("separate", "app", "join-summaries", "export", "evaluate", "compare", "check-data", "show-network")


def run(capsys, *arguments):
    """Exit status, stdout and stderr of a command."""
    capsys.readouterr()
    try:
        cli.main([str(argument) for argument in arguments])
        status = 0
    except SystemExit as error:
        status = error.code or 0
    captured = capsys.readouterr()
    return status, captured.out, captured.err


@pytest.fixture
def recording(tmp_path):
    """A second of noise."""
    path = tmp_path / "in" / "a.wav"
    path.parent.mkdir()
    soundfile.write(path, 0.1 * np.random.default_rng(0).standard_normal(8000), 8000)
    return path


def test_help_of_all_commands(capsys):
    for arguments in ([], ["--help"]):
        status, out, _ = run(capsys, *arguments)
        lines = [line for line in out.splitlines() if re.match(r"  [a-z]", line) and line.split()[0] in COMMANDS]
        assert status == 0 and [line.split()[0] for line in lines] == list(COMMANDS)
        assert all(line.endswith(".") and not line.endswith("...") for line in lines)  # whole sentences


@pytest.mark.parametrize("name", COMMANDS)
def test_examples_in_the_help_are_right(capsys, name):
    status, out, _ = run(capsys, name, "--help")
    examples = [shlex.split(line) for line in out.splitlines() if line.startswith("  unified-sess ")]
    assert status == 0 and examples
    command = typer.main.get_command(cli.app).commands[name]
    for _, used, *arguments in examples:
        assert used == name
        command.make_context(name, arguments)  # raises for options or values that do not exist
    for option in re.findall(r"^  (--[a-z-]+) ", out, re.MULTILINE):
        assert re.search(rf"^  {option} .*[A-Za-z]{{3}}", out, re.MULTILINE)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["frobnicate"], "frobnicate"), (["separate", "a.wav"], "--output-dir"), (["separate", "--output-dir", "x"], "paths"),
        (["separate", "a.wav", "--output-dir", "x", "--format", "mp3"], "mp3"),
        (["separate", "a.wav", "--output-dir", "x", "--jobs", "many"], "--jobs"), (["export", "a"], "folder"),
        (["separate", "-dash.wav", "--output-dir", "x"], "-d"),
    ],
)  # fmt: skip
def test_wrong_usage_is_one_line_and_status_2(capsys, arguments, words):
    status, out, err = run(capsys, *arguments)
    assert status == 2 and not out and words in err and err.count("\n") == 1 and "--help" in err


def test_separate(capsys, recording, random_model, tmp_path):  # noqa: F811
    status, out, err = run(
        capsys, "separate", recording, "--model", random_model, "--output-dir", tmp_path / "out", "--enhanced"
    )
    assert status == 0 and sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "a_enhanced.wav", "a_s1.wav", "a_s2.wav",
    ]  # fmt: skip
    assert re.fullmatch(r"separated 1 file, 1\.0 s of audio in [\d.]+ s; real-time factor [\d.]+\n", out)
    assert "Separating: 100%" in err  # the bar over files


def test_every_option_of_separate_arrives(capsys, recording, random_model, tmp_path, monkeypatch):  # noqa: F811
    seen = {}

    def separate_files(model, paths, output_dir, options, jobs, shard, summaries):
        seen.update(options._asdict(), paths=paths, jobs=jobs, device=model.device, output=output_dir)
        seen.update(shard=shard, summaries=summaries)

    monkeypatch.setattr("unified_sess.inference.files.separate_files.separate_files", separate_files)
    status, _, _ = run(
        capsys, "separate", "a.wav", "b", "--output-dir", "out", "--model", random_model, "--enhanced", "--format", "flac",
        "--model-rate", "--overwrite", "--device", "cpu", "--jobs", "3", "--window", "8", "--overlap", "2",
        "--batch-size", "5", "--fixed-order", "--noise", "--rttm", "--normalize", "-20", "--num-spks", "1",
        "--channel", "2", "--stream", "3", "--subtype", "pcm_24", "--shard", "2/5", "--passes", "2", "--json", "--", "-dash.wav",
    )  # fmt: skip
    assert status == 0
    assert seen["paths"] == ["a.wav", "b", "-dash.wav"] and str(seen["output"]) == "out" and seen["jobs"] == 3
    assert seen["extension"] == "flac" and tuple(seen["windows"]) == (8.0, 2.0, 5) and str(seen["device"]) == "cpu"
    assert all(seen[name] is True for name in ("enhanced", "model_rate", "overwrite", "fixed_order", "noise", "rttm"))
    assert (seen["normalize"], seen["num_spks"], seen["channel"], seen["stream"]) == (-20.0, 1, 2, 3)
    assert seen["passes"] == 2
    assert seen["subtype"] == "PCM_24" and seen["shard"] == (2, 5) and seen["summaries"] is not None


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--device", "cuda:77"], "cuda:77"), (["--device", "banana"], "banana"), (["--device", "meta"], "meta"),
        (["--jobs", "0"], "--jobs 0"), (["--window", "0.1"], "0.1 s"), (["--overlap", "15"], "15.0 s"),
        (["--batch-size", "0"], "batch size 0"), (["--model", "/nowhere/at all"], "/nowhere/at all"),
        (["--num-spks", "3"], "--num-spks 3"), (["--num-spks", "0"], "--num-spks 0"), (["--shard", "0/3"], "--shard 0/3"),
        (["--shard", "4/3"], "--shard 4/3"), (["--shard", "3"], "--shard 3"), (["--channel", "left"], "--channel left"),
        (["--effort", "2"], "does not work in steps"), (["--passes", "0"], "from 1 (fastest) to 5"), (["--passes", "6"], "not 6"), (["--normalize", "23"], "--normalize 23"), (["--subtype", "FLOAT", "--format", "flac"], "--format wav"),
    ],
)  # fmt: skip
def test_values_that_cannot_be(capsys, recording, random_model, tmp_path, options, words):  # noqa: F811
    model = [] if "--model" in options else ["--model", random_model]
    status, _, err = run(capsys, "separate", recording, "--output-dir", tmp_path / "out", *model, *options)
    lines = err.strip().splitlines()
    assert status == 1 and len(lines) == 1 and lines[0].startswith("unified-sess: error: ") and words in lines[0]
    assert not (tmp_path / "out").exists()


def test_a_bad_file_shows_in_the_exit_status(capsys, recording, random_model, tmp_path):  # noqa: F811
    (recording.parent / "bad.wav").write_text("text")
    status, out, err = run(
        capsys, "separate", recording.parent, "--model", random_model, "--output-dir", tmp_path / "out"
    )
    assert status == 1 and (tmp_path / "out/a_s1.wav").exists() and "separated 1 file" in out
    assert (
        len([line for line in err.splitlines() if line.startswith("unified-sess: error:") and "bad.wav" in line]) == 1
    )


def test_the_shipped_model(capsys, recording, random_model, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.setattr(model_folder, "SHIPPED", tmp_path / "absent")
    status, _, err = run(capsys, "separate", recording, "--output-dir", tmp_path / "out")
    assert status == 1 and "no model of its own" in err and "--model" in err and not (tmp_path / "out").exists()
    monkeypatch.setattr(model_folder, "SHIPPED", random_model)
    assert run(capsys, "separate", recording, "--output-dir", tmp_path / "out")[0] == 0
    run(capsys, "separate", recording, "--output-dir", tmp_path / "named", "--model", random_model)
    assert (tmp_path / "out/a_s1.wav").read_bytes() == (tmp_path / "named/a_s1.wav").read_bytes()


@pytest.mark.parametrize("option", [("--limit", "0"), ("--limit", "-1"), ("--audio-examples", "-1")])
def test_an_evaluation_of_less_than_nothing_is_one_line(capsys, tmp_path, option):
    """A negative number of examples was a traceback behind all measuring; no conversation replaced results by none."""
    status, _, err = run(capsys, "evaluate", "--data-folder", tmp_path, "--output-dir", tmp_path / "out", *option)
    assert status == 2 and len(err.splitlines()) == 1 and option[0] in err and not (tmp_path / "out").exists()


def test_version(capsys):
    assert run(capsys, "--version") == (0, f"unified-sess {__version__}\n", "")


def test_standard_input_is_a_recording(recording, random_model, tmp_path):
    """`separate -` said that there is no file of that name."""
    command = [sys.executable, "-c", "from unified_sess.cli import main; main()", "separate", "-", "--num-spks", "2"]
    command += ["--model", random_model, "--output-dir", tmp_path / "out", "--json"]
    done = subprocess.run(command, input=recording.read_bytes(), capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["stdin_s1.wav", "stdin_s2.wav"]
    summary = json.loads(done.stdout)
    assert summary["source"] == "standard input" and summary["duration"] == 1.0 and b"separated 1 file" in done.stderr


@pytest.mark.parametrize(("content", "words"), [(b"", "brought nothing"), (b"hello", "standard input as audio")])
def test_standard_input_that_is_no_recording_is_one_line(capsys, random_model, tmp_path, monkeypatch, content, words):
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(content)))
    status, _, err = run(capsys, "separate", "-", "--model", random_model, "--output-dir", tmp_path / "out")
    assert status == 1 and sum(words in line for line in err.splitlines()) == 1 and "/proc" not in err
    assert not list((tmp_path / "out").iterdir())


def test_summaries_of_a_job_array_are_joined(capsys, recording, random_model, tmp_path):
    for number in range(5):
        shutil.copy(recording, recording.parent / f"{number}.wav")
    (recording.parent / "bad.wav").write_text("text")
    files, statuses = [], []
    for share in (1, 2, 3):
        arguments = ["separate", recording.parent, "--model", random_model, "--output-dir", tmp_path / "out"]
        status, out, _ = run(capsys, *arguments, "--json", "--num-spks", "2", "--shard", f"{share}/3")
        files.append(tmp_path / f"{share}.jsonl")
        files[-1].write_text(out)
        statuses.append(status)
    assert sorted(statuses) == [0, 0, 1]  # the bad file is in one share
    assert len(list((tmp_path / "out").iterdir())) == 12
    status, out, _ = run(capsys, "join-summaries", *files, "--output", tmp_path / "all.jsonl")
    assert status == 1 and out.startswith("6 recordings separated") and "bad.wav" in out
    sources = [json.loads(line)["source"] for line in (tmp_path / "all.jsonl").read_text().splitlines()]
    assert len(sources) == len(set(sources)) == 7


def test_the_command_imports_only_what_it_uses(recording, tmp_path):  # noqa: F811
    """`separate` imported SpeechBrain, SciPy's statistics and torch's compiler before it read a file."""
    code = """
import sys
from unified_sess.cli import main
main(["separate", *sys.argv[1:], "--device", "cpu", "--window", "0.5", "--overlap", "0.1", "--normalize", "-30"])
print([name for name in ("speechbrain", "scipy", "torchaudio", "sympy", "torch._dynamo", "huggingface_hub.errors", "pandas", "av")
       if name in sys.modules])
"""
    command = [sys.executable, "-c", code, str(recording), "--output-dir", str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("separated 1 file") and done.stdout.splitlines()[-1] == "[]"


def test_export(capsys, random_model, tmp_path):  # noqa: F811
    status, out, _ = run(capsys, "export", random_model.parent / "results", tmp_path / "model")
    assert status == 0 and str(tmp_path / "model") in out
    copies = [(folder / "model.safetensors").read_bytes() for folder in (tmp_path / "model", random_model)]
    assert copies[0] == copies[1]
    run(capsys, "export", random_model.parent / "results", tmp_path / "small", "--half", "--plain")
    assert {path.name for path in (tmp_path / "small").iterdir()} == {"README.md", "config.json", "model.safetensors"}
    assert (tmp_path / "small/model.safetensors").stat().st_size < len(copies[0])
    status, _, err = run(capsys, "export", tmp_path / "nothing", tmp_path / "other")
    assert status == 1 and err.count("\n") == 1 and "nothing" in err and not (tmp_path / "other").exists()


def test_ctrl_c(capsys, recording, random_model, tmp_path, monkeypatch):  # noqa: F811
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("unified_sess.inference.files.separate_files.separate_files", interrupted)
    status, _, err = run(capsys, "separate", recording, "--model", random_model, "--output-dir", tmp_path / "out")
    assert status == 130 and err == "unified-sess: error: interrupted\n"


def test_settings_of_show_network(capsys, repository):
    file = repository / "hparams/networks/convtasnet-small.yaml"
    counts = [run(capsys, "show-network", file, "--num_spks", n)[1] for n in (2, 3)]
    assert counts[0] != counts[1]
    assert run(capsys, "show-network", file, "--num_spks")[0] == 1


def test_device_checks_leave_torch_alone():
    assert cli.checked_device(None) is None and cli.checked_device("cpu") == "cpu"
    assert torch.zeros(1).device.type == "cpu"
