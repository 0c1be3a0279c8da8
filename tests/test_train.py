"""The real train.py: train, kill, resume, compare, test, and every bad input in one line."""

import csv
import os
import re
import shutil
import subprocess
import sys

import pytest
import soundfile
import torch
import yaml

from tests.corpus import make_corpus
from tests.model_io.results import trees
from unified_sess.model_io.module_tree import TreeDumper, as_yaml
from unified_sess.training.loss_totals import Validation

OPTIONS = ["--batch_size", "2", "--number_of_epochs", "2", "--audio_examples", "1", "--training_signal_len", "0.5"]

TINY = """
num_spks: 2
sample_rate: 8000
encoder: !new:speechbrain.lobes.models.dual_path.Encoder
    kernel_size: 16
    out_channels: 16
enhancer: !new:unified_sess.nnet.conv_tasnet.MaskNet {N: 16, B: 8, H: 16, P: 3, X: 2, R: 1, C: 1}
masknet: !new:unified_sess.nnet.conv_tasnet.MaskNet
    N: 16
    B: 8
    H: 16
    P: 3
    X: 2
    R: 1
    C: !ref <num_spks>
decoder: !new:speechbrain.lobes.models.dual_path.Decoder
    in_channels: 16
    out_channels: 1
    kernel_size: 16
    stride: 8
    bias: False
"""

# Ends the process by SIGKILL at the given call of a method, as a power cut would.
KILL = """
import os, runpy, sys
import {module} as module
owner = {owner}
original, calls = owner.{method}, [0]
def killed(*args, **kwargs):
    calls[0] += 1
    if calls[0] == {call}:
        os.kill(os.getpid(), 9)
    return original(*args, **kwargs)
owner.{method} = killed
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return make_corpus(tmp_path_factory.mktemp("corpus"))


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    path = tmp_path_factory.mktemp("network") / "tiny.yaml"
    path.write_text(TINY, encoding="utf-8")
    return path


@pytest.fixture
def train(repository, corpus, tiny, tmp_path):
    """Run train.py in a process of its own; returns what it printed."""

    def run(*arguments, output=tmp_path / "out", kill=None, data=corpus, expect=0, launcher=()):
        program = [sys.executable, *launcher]
        if kill:
            program += ["-c", KILL.format(**kill)]
        program += [str(repository / "train.py"), str(repository / "hparams" / "unified.yaml")]
        program += [*OPTIONS, "--network", str(tiny), "--output_folder", str(output), *map(str, arguments)]
        if data is not None:
            program += ["--data_folder", str(data)]
        environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(repository)}
        done = subprocess.run(program, capture_output=True, text=True, env=environment, cwd=tmp_path, check=False)
        assert done.returncode == expect, done.stdout[-2000:] + done.stderr[-3000:]
        return done

    return run


def checkpoint(output):
    """The latest checkpoint's contents by file name."""
    folders = sorted(
        (output / "save").glob("CKPT*"), key=lambda f: yaml.safe_load((f / "CKPT.yaml").read_text())["unixtime"]
    )
    return {
        p.name: torch.load(p, weights_only=False)
        for p in folders[-1].glob("*.ckpt")
        if p.name not in ("brain.ckpt", "counter.ckpt")
    } | {
        "texts": {p.name: p.read_text() for p in folders[-1].glob("*.ckpt") if p.name in ("brain.ckpt", "counter.ckpt")}
    }


def assert_same(a, b, where=""):
    """Bit for bit, through dictionaries, lists and tensors."""
    if isinstance(a, dict):
        assert a.keys() == b.keys(), where
        for key in a:
            assert_same(a[key], b[key], f"{where}/{key}")
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b), where
        for i, (x, y) in enumerate(zip(a, b)):
            assert_same(x, y, f"{where}/{i}")
    elif isinstance(a, torch.Tensor):
        assert torch.equal(a, b), where
    elif hasattr(a, "tobytes"):
        assert a.tobytes() == b.tobytes(), where
    else:
        assert a == b, where


def test_a_run_leaves_results_and_a_second_one_does_not_train_again(train, tmp_path):
    done = train()
    output = tmp_path / "out"
    for name in (
        "log.txt",
        "train_log.txt",
        "hyperparams.yaml",
        "test_results.csv",
        "save",
        "audio",
        "gradients",
        "tensorboard",
    ):
        assert (output / name).exists(), name
    with open(output / "test_results.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 3  # two utterances, then the mean
    for column in ("si_snr", "si_snri", "sdr", "sdri", "se_si_snr", "se_si_snri"):
        values = [float(row[column]) for row in rows]
        assert values[2] == pytest.approx((values[0] + values[1]) / 2, abs=0.02)
    kinds = {re.sub(r"^.*_", "", p.stem) for p in (output / "audio").rglob("*.wav")}
    assert {"mixture", "enhanced"} <= kinds and len(list((output / "audio").rglob("*.wav"))) >= 6
    for words in ("separation", "enhancement", "SI-SNR", "SDR", "improvement", "conflict rate"):
        assert words in done.stdout
    # One bar for all epochs and a line after each; what libraries report is in the log file alone.
    assert "Epoch 1 of 2: " in done.stdout and "Epoch 2 of 2: " in done.stdout
    assert "Training: 100%" in done.stderr and done.stderr.count("Training:   0%") <= 1
    assert str(output / "report.html") in done.stdout and str(output / "audio") in done.stdout
    assert not re.search("speechbrain|torchvision|warn", done.stdout + done.stderr, re.IGNORECASE), done.stderr
    assert "speechbrain" in (output / "log.txt").read_text()
    log = (output / "train_log.txt").read_text()
    for word in ("loss_ss", "loss_se", "lr", "cosine", "conflict_rate", "se_norm", "ss_norm", "si_snri"):
        assert word in log
    before = checkpoint(output)
    again = train()
    assert_same(before, checkpoint(output))
    assert "conflict" in again.stdout.lower() and "Training" not in again.stdout + again.stderr
    assert (output / "train_log.txt").read_text() == log

    # The resolved experiment runs again as it is, and a test alone gives the same numbers.
    shutil.copy(output / "test_results.csv", tmp_path / "first.csv")
    (output / "test_results.csv").unlink()
    train("--test_only")
    assert (output / "test_results.csv").read_text() == (tmp_path / "first.csv").read_text()

    # Regression: another network in a finished run's folder was a traceback that had overwritten its settings.
    settings = (output / "hyperparams.yaml").read_bytes()
    refused = train("--freeze", "[decoder]", expect=1)
    assert "holds a run with other settings (freeze is ['decoder']" in refused.stderr.splitlines()[-1]
    assert "Traceback" not in refused.stderr and (output / "hyperparams.yaml").read_bytes() == settings


def test_a_run_without_a_finite_epoch_is_one_line_and_keeps_its_last_checkpoint(
    train_here, corpus, monkeypatch, tmp_path
):
    """Regression: `loss_ss 0.0`, then a KeyError."""
    add = Validation.add

    def failing(self, batch, losses):
        add(self, batch, losses._replace(separation=losses.separation * float("nan")))

    monkeypatch.setattr(Validation, "add", failing)
    line = train_here(data=corpus, options=["--number_of_epochs", "1"])
    assert re.search("no epoch of .* has finite losses", line)
    (marker,) = (tmp_path / "out" / "save").glob("CKPT*/CKPT.yaml")
    assert "si_snri" not in marker.read_text()
    assert not (tmp_path / "out" / "test_results.csv").exists()


INTRA = ["--ckpt_interval_steps", "1", "--grad_accumulation_factor", "2"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "options, kill",
    [
        (
            INTRA,
            {"module": "unified_sess.training.brain", "owner": "module.UnifiedBrain", "method": "fit_batch", "call": 3},
        ),
        (INTRA, {"module": "torch", "owner": "module", "method": "save", "call": 10}),
        (
            [],
            {
                "module": "unified_sess.training.brain",
                "owner": "module.UnifiedBrain",
                "method": "optimizers_step",
                "call": 5,
            },
        ),
        (
            [*INTRA, "--ema_decay", "0.9"],
            {"module": "unified_sess.training.brain", "owner": "module.UnifiedBrain", "method": "fit_batch", "call": 6},
        ),
        (
            [*INTRA, "--gradient_modulation", "famo", "--conflict_null_steps", "1"],
            {"module": "unified_sess.training.brain", "owner": "module.UnifiedBrain", "method": "fit_batch", "call": 6},
        ),
        (
            [*INTRA, "--network", "sepreformer.yaml", "--step_weight", "0.4", "--step_decay", "[1,0.5,1]"]
            + ["--step_loss", "magnitude", "--warmup_steps", "3", "--weight_decay", "0.01"],
            {"module": "unified_sess.training.brain", "owner": "module.UnifiedBrain", "method": "fit_batch", "call": 6},
        ),
    ],
    ids=[
        "inside an accumulation window",
        "inside a save",
        "in the second epoch",
        "with an average of the weights",
        "with learnt weights of the losses",
        "with dropout, batch norms, a warm-up and losses at earlier steps",
    ],
)
def test_a_killed_run_ends_as_an_uninterrupted_one(train, tmp_path, options, kill):
    networks = {name: as_yaml(tree) for name, tree in trees("sepreformer").items()}
    (tmp_path / "sepreformer.yaml").write_text(yaml.dump(networks, Dumper=TreeDumper))
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    train(*options, output=whole)
    train(*options, output=killed, kill=kill, expect=-9)
    train(*options, output=killed)
    assert_same(checkpoint(whole), checkpoint(killed))
    assert (whole / "test_results.csv").read_text() == (killed / "test_results.csv").read_text()


@pytest.mark.slow
def test_a_killed_loader_process_is_one_line(train):
    kill = {"module": "unified_sess.data.dataset", "owner": "module.MixtureDataset", "method": "__getitem__", "call": 2}
    done = train("--num_workers", "2", kill=kill, expect=1)
    assert "train.py: error: a data loader's worker process was killed" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_no_kept_utterance_no_step(train, tmp_path):
    train("--threshold", "1000", "--number_of_epochs", "1")  # every loss is under it
    assert not checkpoint(tmp_path / "out")["optimizer.ckpt"]["state"]


@pytest.mark.slow
def test_bf16_and_no_clipping(train, tmp_path):
    train("--precision", "bf16", "--max_grad_norm", "-1", "--optimizer_step_limit", "2")
    steps = checkpoint(tmp_path / "out")["optimizer.ckpt"]["state"][0]["step"]
    assert int(steps) == 2


def broken(corpus, tmp_path, change):
    copy = tmp_path / "corpus"
    shutil.copytree(corpus, copy)
    change(copy / "wav8k" / "min")
    return copy


def _rewrite(path, rate=8000, channels=1, value=None):
    signal, _ = soundfile.read(path, dtype="float32")
    if value is not None:
        signal[::100] = value
    soundfile.write(path, signal if channels == 1 else signal[:, None].repeat(channels, 1), rate, subtype="FLOAT")


def _truncate(path):
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])


BAD_DATA = {
    "empty folder": (lambda root: shutil.rmtree(root), r"corpus"),
    "mixture without a source": (lambda root: (root / "train-100/s2/u1.wav").unlink(), r"u1|s2"),
    "another rate": (lambda root: _rewrite(root / "train-100/s1/u0.wav", rate=16000), r"16000"),
    "truncated file": (lambda root: _truncate(root / "train-100/mix_both/u2.wav"), r"u2\.wav"),
    "empty file": (lambda root: (root / "train-100/s1/u2.wav").write_bytes(b""), r"u2\.wav"),
    "no samples": (lambda root: soundfile.write(root / "train-100/s1/u2.wav", [], 8000), r"u2\.wav"),
    "NaN": (lambda root: _rewrite(root / "train-100/s1/u2.wav", value=float("nan")), r"u2\.wav.*finite"),
    "stereo": (lambda root: _rewrite(root / "train-100/mix_both/u0.wav", channels=2), r"u0\.wav.*channels"),
    "text": (lambda root: (root / "dev/s1/u0.wav").write_text("not audio"), r"u0\.wav"),
}


@pytest.mark.parametrize("name", BAD_DATA)
def test_bad_data_is_one_line(train_here, corpus, tmp_path, name):
    change, says = BAD_DATA[name]
    line = train_here(data=broken(corpus, tmp_path, change), options=["--number_of_epochs", "1"])
    assert re.search(says, line), line


BAD_OPTIONS = {
    "missing data folder": ({"data": "no/such/folder"}, r"no/such/folder"),
    "more speakers than there are": ({"options": ["--num_spks", "3"]}, r"3.*2|2.*3"),
    "another rate": ({"options": ["--sample_rate", "16000"]}, r"16"),
    "unknown option": ({"options": ["--learning_rat", "1"]}, r"unknown option --learning_rat"),
    "output folder that is a file": ({"output": __file__}, r"cannot write in the folder"),
    "test only without a model": ({"options": ["--test_only"]}, r"no checkpoint"),
    "a module that does not exist": ({"options": ["--freeze", "[separator]"]}, r"freeze names 'separator'"),
    "one name where a list belongs": ({"options": ["--freeze", "encoder"]}, r"\[encoder, decoder\], not 'encoder'"),
    "a factor that is no number": ({"options": ["--lr_factors", "{masknet: x}"]}, r"lr_factors .* not 'x'"),
    "a model that does not exist": ({"options": ["--pretrained", "/no/such/model"]}, r"/no/such/model"),
    "fp16 on a CPU": ({"options": ["--precision", "fp16"]}, r"fp16"),
    "a device without float64": ({"options": ["--device", "mps"]}, r"float64.*--device cpu"),
    "scenes of a corpus": ({"options": ["--scenes", "{rooms: 0.5}"]}, r"--scenes is for mixtures .* --speech_folder"),
    "shares of a corpus": ({"options": ["--speech_shares", "[0.5, 0.5]"]}, r"--speech_shares is for mixtures"),
    "steps of a separator that has none": ({"options": ["--step_weight", "0.5"]}, r"does not work in steps"),
    "steps of a rule that compares none": (
        {"options": ["--modulated", "step", "--muon", "False", "--gradient_modulation", "famo"]},
        r"famo does not compare the steps of the two tasks",
    ),
}


@pytest.mark.parametrize("name", BAD_OPTIONS)
def test_bad_options_are_one_line(train_here, corpus, name):
    arguments, says = BAD_OPTIONS[name]
    line = train_here(**({"data": corpus} | arguments))
    assert re.search(says, line), line


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_one_line(train_here, corpus, tmp_path):
    """It was two tracebacks, after the data had been made."""
    assert "PyTorch finds no GPU here" in train_here(data=corpus, options=["--device", "cuda:0"])
    assert not (tmp_path / "out").exists()


@pytest.fixture
def train_here(repository, tiny, tmp_path, capsys, monkeypatch):
    """Run train.py in this process with a mistake; returns its one line on stderr."""
    monkeypatch.syspath_prepend(str(repository))
    monkeypatch.chdir(tmp_path)
    from train import main
    from unified_sess.utils.errors import one_line_errors

    def run(data, options=(), output=tmp_path / "out"):
        arguments = [str(repository / "hparams/unified.yaml"), *OPTIONS, "--network", str(tiny)]
        arguments += ["--data_folder", str(data), "--output_folder", str(output), "--noprogressbar", *options]
        with pytest.raises(SystemExit) as ended, one_line_errors("train.py"):
            main(arguments)
        assert ended.value.code == 1
        lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("train.py: error:")]
        assert len(lines) == 1
        return lines[0]

    return run


def test_a_full_disk_is_one_line(train_here, corpus, monkeypatch, tmp_path):
    def full(*args, **kwargs):
        raise OSError(28, "No space left on device", str(tmp_path / "out"))

    monkeypatch.setattr(torch, "save", full)
    assert "no space left" in train_here(data=corpus, options=["--number_of_epochs", "1"])
    assert not list((tmp_path / "out" / "save").glob("CKPT*"))


def test_without_data_and_without_the_demo_corpus_one_line_says_what_to_give(train_here):
    line = train_here(data="null", options=["--demo_corpus", "False"])
    assert "no data" in line and "--data_folder" in line and "--speech_folder" in line


@pytest.mark.slow
def test_fine_tuning_trains_what_is_not_frozen(train, tmp_path, corpus):
    train("--number_of_epochs", "1")
    first = next((tmp_path / "out" / "save").glob("CKPT*"))
    options = ["--pretrained", first, "--freeze", "[encoder, decoder]", "--lr_factors", "{masknet: 0}"]
    train(*options, "--number_of_epochs", "1", output=tmp_path / "tuned")
    second = next((tmp_path / "tuned" / "save").glob("CKPT*"))
    for name in ("encoder", "decoder", "masknet", "enhancer"):
        before, after = (torch.load(f / f"{name}.ckpt") for f in (first, second))
        assert all(torch.equal(before[k], after[k]) for k in before) == (name != "enhancer"), name


@pytest.mark.slow
def test_two_processes_take_the_steps_of_one_with_the_whole_batch(train, tmp_path):
    train("--batch_size", "4", output=tmp_path / "one")
    train(output=tmp_path / "two", launcher=["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"])
    one, two = checkpoint(tmp_path / "one"), checkpoint(tmp_path / "two")
    for name in ("encoder.ckpt", "enhancer.ckpt", "masknet.ckpt", "decoder.ckpt"):
        for key, value in one[name].items():
            torch.testing.assert_close(two[name][key], value, rtol=1e-4, atol=1e-5)
    assert (tmp_path / "two" / "test_results.csv").exists()
