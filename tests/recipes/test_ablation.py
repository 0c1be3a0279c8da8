"""recipes/Mini: the ablation's common start, its table, and that it goes on after a stop."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch

from tests.corpus import make_corpus
from unified_sess.evaluation.results import Results
from unified_sess.network import separate
from unified_sess.training.experiment import Experiment
from unified_sess.training.pretrained import load_pretrained


@pytest.fixture
def recipe(repository, monkeypatch):
    """Imports of recipes/Mini."""
    monkeypatch.syspath_prepend(str(repository / "recipes" / "Mini"))


def modules_of(path, folder, **overrides):
    """Modules of an experiment without gradients."""
    modules = Experiment(path, {"output_folder": str(folder), **overrides}).build()["modules"]
    return {name: module.requires_grad_(False) for name, module in modules.items()}


@pytest.fixture
def trained(repository, tmp_path):
    """A results folder of the separator alone, with random weights."""
    experiment = Experiment(
        repository / "recipes/Mini/unified.yaml", {"enhancer": "none", "output_folder": str(tmp_path)}
    )
    modules = experiment.build()["modules"]
    checkpoint = tmp_path / "trained" / "save" / "CKPT+1"
    checkpoint.mkdir(parents=True)
    experiment.save(tmp_path / "trained" / "hyperparams.yaml")
    (checkpoint / "CKPT.yaml").write_text("si_snri: 1.0\nunixtime: 1\n", encoding="utf-8")
    for name, module in modules.items():
        torch.save(module.requires_grad_(False).state_dict(), checkpoint / f"{name}.ckpt")
    return tmp_path / "trained", modules


@pytest.mark.parametrize("name", ["separation-only", "separation-only, larger", "cascade", "unified-gm"])
def test_every_row_starts_as_the_trained_separator(recipe, trained, name, tmp_path):
    from ablation_rows import EXPERIMENT, ROWS
    from warm_start import write_warm_start

    overrides = ROWS[name].overrides
    warm = write_warm_start(trained[0], tmp_path / "warm", overrides.get("separator_layers"))
    modules = modules_of(EXPERIMENT, tmp_path, **overrides)
    load_pretrained(modules, str(warm), 8000)
    mixture = torch.randn(2, 4000)
    expected, found = separate(trained[1], mixture).sources, separate(modules, mixture).sources
    assert torch.allclose(found, expected, atol=1e-4 * float(expected.abs().max()))


def test_an_exported_separator_is_the_same_start(recipe, trained, tmp_path):
    from warm_start import write_warm_start

    from unified_sess.model_io.export import export

    export(trained[0], tmp_path / "model", half=False, plain=True)
    for name, folder in (("results", trained[0]), ("export", tmp_path / "model")):
        write_warm_start(folder, tmp_path / name)
    for module in ("encoder", "masknet", "decoder"):
        first, second = (torch.load(tmp_path / name / f"{module}.ckpt") for name in ("results", "export"))
        assert first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


def test_three_speakers_start_with_the_mean_as_the_third(recipe, trained, tmp_path):
    from ablation_rows import EXPERIMENT
    from warm_start import write_warm_start

    modules = modules_of(EXPERIMENT, tmp_path, num_spks=3)
    load_pretrained(modules, str(write_warm_start(trained[0], tmp_path / "warm", speakers=3)), 8000)
    mixture = torch.randn(1, 4000)
    expected, found = separate(trained[1], mixture).sources, separate(modules, mixture).sources
    assert torch.allclose(found[..., :2], expected, atol=1e-4 * float(expected.abs().max()))
    assert found.shape[-1] == 3 and float(found[..., 2].abs().max()) > 0


def test_the_larger_separator_is_as_large_as_the_unified_network(recipe, tmp_path):
    from ablation_rows import EXPERIMENT, ROWS

    sizes = [
        sum(
            p.numel() for m in modules_of(EXPERIMENT, tmp_path, **ROWS[name].overrides).values() for p in m.parameters()
        )
        for name in ("separation-only, larger", "unified-gm")
    ]
    assert abs(sizes[0] / sizes[1] - 1) < 0.04


def write_run(folder, row, seed, values, data):
    run = folder / row / str(seed)
    run.mkdir(parents=True)
    (run / "run.json").write_text(json.dumps({"row": row}), encoding="utf-8")
    Results([{"ID": f"{data}{k}", "si_snri": v} for k, v in enumerate(values)], ["si_snri"]).save(run)


def core_rows(folder, seeds, monkeypatch):
    """Two rows that differ by 0.5 dB, on mixtures that differ by far more; the table."""
    import ablation_table

    monkeypatch.setattr(ablation_table, "count_parameters", lambda folder: 1)
    random = np.random.default_rng(0)
    hard = random.normal(0, 5, 60)
    for seed in seeds:
        write_run(folder, "separation-only", seed, hard + seed, "u")
        write_run(folder, "unified-gm", seed, hard + seed + random.normal(0.5, 0.1, 60), "u")
    return ablation_table.ablation_table(ablation_table.finished_runs(folder))


def test_differences_are_paired_by_seed_and_mixture(recipe, tmp_path, monkeypatch):
    table = core_rows(tmp_path, range(1, 6), monkeypatch).set_index("row")
    row = table.loc["unified-gm"]
    assert 0.45 < row["low"] < row["difference"] < row["high"] < 0.55
    assert np.isnan(table.loc["separation-only", "difference"]) and table.loc["separation-only", "seeds"] == 5


def test_three_seeds_are_points_because_drawing_them_again_covered_74_percent(recipe, tmp_path, monkeypatch):
    import ablation_table

    table = core_rows(tmp_path, (1, 2, 3), monkeypatch)
    row = table.set_index("row").loc["unified-gm"]
    assert np.isnan([row["low"], row["high"]]).all()
    points = [float(point) for point in row["points"].split()]
    assert len(points) == 3 and np.mean(points) == pytest.approx(row["difference"], abs=0.006)
    cell = ablation_table.markdown(table).splitlines()[-1].split("|")[-3]
    assert row["points"] in cell and "[" not in cell
    assert ablation_table.difference_figure(table) is not None


def test_every_row_with_two_losses_is_compared_with_their_sum(recipe):
    from ablation_rows import ROWS, sum_of

    sums = {name: sum_of(name) for name in ROWS if sum_of(name)}
    assert sums.pop("unified-gm, lambda 10") == "unified, lambda 10"
    assert sums.pop("three speakers, unified-gm") == "three speakers, unified"
    assert {sums[name] for name in ("unified-gm", "pcgrad", "remedy", "unified-gm, granularity global")} == {"unified"}
    assert not sums.keys() & {"unified", "cascade", "separation-only", "unified, lambda 1", "three speakers, unified"}


def test_runs_of_different_mixtures_are_refused(recipe, tmp_path, monkeypatch):
    import ablation_table

    from unified_sess.utils.errors import UserError

    monkeypatch.setattr(ablation_table, "count_parameters", lambda folder: 1)
    write_run(tmp_path, "separation-only", 1, [1.0, 2.0], "u")
    write_run(tmp_path, "unified-gm", 1, [1.0, 2.0], "v")
    with pytest.raises(UserError, match="different mixtures"):
        ablation_table.ablation_table(ablation_table.finished_runs(tmp_path))


def test_trains_rows_writes_the_table_and_goes_on(repository, tmp_path):
    make_corpus(tmp_path / "mini" / "Libri2Mix", (("train-100", 2), ("dev", 1), ("test", 2)), seconds=0.5)
    command = [sys.executable, repository / "recipes/Mini/run_ablation.py", "--data", tmp_path / "mini", "--seeds", "1"]
    command += ["--output", tmp_path / "out", "--rows", "separation-only", "unified-gm"]
    short = ["--", "--number_of_epochs", "1", "--audio_examples", "0", "--tensorboard", "False"]
    ended = subprocess.run([*command, *short], check=False, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert "| unified-gm | 1 |" in ended.stdout and "| separation-only | 1 |" in ended.stdout
    for name in ("ablation.csv", "ablation.md", "ablation.png", "curves.png"):
        assert (tmp_path / "out" / name).stat().st_size > 0
    results = tmp_path / "out" / "unified-gm" / "1" / "test_results.json"
    before = results.stat().st_mtime_ns
    again = subprocess.run([*command, *short], check=False, capture_output=True, text=True)
    assert again.returncode == 0 and results.stat().st_mtime_ns == before
    other = subprocess.run([*command, *short, "--lr", "0.1"], check=False, capture_output=True, text=True)
    assert other.returncode == 1 and "begun with other options" in other.stderr
    assert len(other.stderr.strip().splitlines()) == 1


def measure_conflict(repository, *arguments):
    command = [sys.executable, repository / "recipes/Mini/measure_conflict.py", *arguments]
    return subprocess.run(command, check=False, capture_output=True, text=True)


def test_the_conflict_is_measured_without_training(repository, tmp_path):
    make_corpus(tmp_path / "Libri2Mix", (("train-100", 4), ("dev", 1), ("test", 1)), seconds=0.5)
    experiment = ["--", repository / "recipes/Mini/unified.yaml", "--data_folder", tmp_path / "Libri2Mix"]
    ended = measure_conflict(repository, "--steps", "2", "--utterances", "2", "4", *experiment)
    assert ended.returncode == 0, ended.stderr
    cells = [
        [cell.strip() for cell in line.split("|")[1:-1]]
        for line in ended.stdout.splitlines()
        if line[:3] in ("| 2", "| 4")
    ]
    assert [row[:2] for row in cells] == [[n, g] for n in "24" for g in ("tensor", "module", "global")]
    for row in cells:
        conflicts, cosine, ratio, share = float(row[2][:-1]), float(row[3]), float(row[4]), float(row[5].split()[0])
        assert 0 <= conflicts <= 100 and -1 <= cosine <= 1 and ratio > 0 and 0 <= share <= 100
        assert (share == 0) == (conflicts == 0)  # GM takes something out where there is a conflict, and only there
    for wrong, says in (["--utterances", "3"], "even"), (["--steps", "1"], "--steps"):
        ended = measure_conflict(repository, *wrong, *experiment)
        assert ended.returncode == 1 and says in ended.stderr and len(ended.stderr.strip().splitlines()) == 1
    ended = measure_conflict(repository, *experiment, "--enhancement_weight", "0")
    assert ended.returncode == 1 and "no conflict" in ended.stderr.splitlines()[-1]
