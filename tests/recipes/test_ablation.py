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
from unified_sess.training.settings import SETTINGS
from unified_sess.utils.errors import UserError
from unified_sess.utils.yaml_files import read_yaml


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


@pytest.mark.parametrize("name", ["sum, warm start", "gm, warm start"])
def test_a_warm_row_starts_as_the_trained_separator(recipe, trained, name, tmp_path):
    from ablation_rows import EXPERIMENT, ROWS
    from warm_start import write_warm_start

    overrides = {k: v for k, v in ROWS[name].overrides.items() if k != "scenes"}
    modules = modules_of(EXPERIMENT, tmp_path, **overrides)
    load_pretrained(modules, str(write_warm_start(trained[0], tmp_path / "warm")), 8000)
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


@pytest.mark.parametrize("network", [{}, {"network": "tfdprnn-laptop", "separator_layers": 2}])
def test_the_larger_separator_is_as_large_as_the_unified_network(recipe, repository, tmp_path, network):
    from ablation_rows import EXPERIMENT, LAYERS, ROWS

    def size(name):
        row = ROWS[name]
        layers = network.get("separator_layers", LAYERS) + row.layers
        modules = modules_of(EXPERIMENT, tmp_path, **(network | row.overrides | {"separator_layers": layers}))
        return sum(p.numel() for m in modules.values() for p in m.parameters())

    assert abs(size("separation alone, as large") / size("gm, lambda 1") - 1) < 0.06


def test_rows_are_what_the_experiment_takes_and_are_compared_with_their_sum(recipe):
    from ablation_rows import BASE, EXPERIMENT, ROWS

    known = set(read_yaml(EXPERIMENT.read_text(encoding="utf-8"), EXPERIMENT))
    for name, row in ROWS.items():
        for key, value in (BASE | row.overrides).items():
            assert key in known, f"{name}: {key}"
            if key in SETTINGS and key != "scenes":
                SETTINGS[key].checked(key, value)
        if row.sum_row:
            other = ROWS[row.sum_row]
            assert other.overrides["gradient_modulation"] == "sum" and other.sum_row is None
            differing = {k for k in row.overrides if row.overrides[k] != other.overrides.get(k)}
            assert differing <= {"gradient_modulation", "granularity", "modulated"}, name
            assert set(row.seeds) <= set(other.seeds) and (row.layers, row.warm) == (other.layers, other.warm)


def test_the_queue_runs_what_decides_first_and_every_run_once(recipe):
    from ablation_rows import DECISIVE, ROWS, queue

    runs = queue()
    assert len(runs) == len(set(runs)) == sum(len(row.seeds) for row in ROWS.values())
    first = {f"{rule}, lambda {weight:g}" for rule in ("sum", "gm") for weight in DECISIVE}
    assert {name for name, _ in runs[: len(first)]} == first and {seed for _, seed in runs[: len(first)]} == {1}
    position = {run: k for k, run in enumerate(runs)}
    for name, row in ROWS.items():
        if row.warm:  # starts from the separator alone of its seed
            assert all(position["separation alone", seed] < position[name, seed] for seed in row.seeds)


def write_run(folder, row, seed, values):
    """A finished run; `values` are `[2, mixtures]` of enhancement and separation."""
    run = folder / row / str(seed)
    run.mkdir(parents=True)
    (run / "run.json").write_text(json.dumps({"row": row, "seed": seed}), encoding="utf-8")
    for name in ("Libri2Mix", "Rooms"):
        rows = [
            {"ID": f"{k % 7}-1-{k}_{7 + k % 5}-1-{k}", "se_si_snri": se, "si_snri": ss}
            for k, (se, ss) in enumerate(values.T)
        ]
        (run / name).mkdir()
        Results(rows, ["se_si_snri", "si_snri"]).save(run / name)


def fronts(folder, seeds, outside, monkeypatch):
    """A sum on the line from (0, 5) to (2, 3), and gm `outside` of it, on mixtures that differ by far more; the table."""
    import ablation_table

    monkeypatch.setattr(ablation_table, "count_parameters", lambda folder: 1)
    random = np.random.default_rng(0)
    hard = random.normal(0, 5, (2, 70))
    for seed in seeds:
        for weight, x in (("0.1", 0.0), ("1", 1.0), ("10", 2.0)):
            point = hard + seed + np.array([[x], [5 - x]])
            write_run(folder, f"sum, lambda {weight}", seed, point)
            noise = random.normal(0, 0.1, (2, 70)) + random.normal(0, 0.02)
            write_run(folder, f"gm, lambda {weight}", seed, point + outside / np.sqrt(2) + noise)
    return ablation_table.ablation_table(ablation_table.finished_runs(folder))


def test_a_rule_outside_the_front_is_found_there_paired_by_seed_and_mixture(recipe, tmp_path, monkeypatch):
    import ablation_figures
    import ablation_table

    table = fronts(tmp_path, (1, 2, 3), 0.5, monkeypatch)
    row = table[table["set"] == "Rooms"].set_index("row").loc["gm, lambda 1"]
    assert 0.4 < row["distance_low"] < 0.5 < row["distance_high"] < 0.6 and row["seeds"] == 3
    assert row["separation_to_sum"] == pytest.approx(0.5 / np.sqrt(2), abs=0.06)
    assert 0 < row["distance_detectable"] < 0.15
    assert table.set_index("row").loc["sum, lambda 1", "distance"].isna().all()
    text = ablation_table.markdown(table)
    assert text.count("| gm, lambda 1 | 3 |") == 2 and "could detect" in text
    runs = ablation_table.finished_runs(tmp_path)
    assert ablation_figures.front_figure(runs) and ablation_figures.difference_figure(table)


def test_a_point_on_the_line_of_the_sum_lies_on_its_front(recipe, tmp_path, monkeypatch):
    table = fronts(tmp_path, (1, 2), 0.0, monkeypatch)
    rows = table[table["row"].str.startswith("gm")]
    assert (rows["distance"].abs() < 0.06).all()
    assert ((rows["distance_low"] < 0) & (0 < rows["distance_high"])).mean() > 0.8


def test_a_single_seed_is_a_point(recipe, tmp_path, monkeypatch):
    import ablation_table

    table = fronts(tmp_path, (1,), 0.5, monkeypatch)
    rows = table[table["row"] == "gm, lambda 1"]
    assert rows["distance"].notna().all() and rows["distance_low"].isna().all()
    assert "[" not in ablation_table.markdown(table) and "could detect" not in ablation_table.markdown(table)


def test_the_front_is_no_measure_of_what_is_trained_in_another_way(recipe, tmp_path, monkeypatch):
    import ablation_table

    write_run(tmp_path, "sum, warm start", 1, np.full((2, 70), 9.0))
    write_run(tmp_path, "gm, warm start", 1, np.full((2, 70), 9.5))
    rows = fronts(tmp_path, (1,), 0.5, monkeypatch).set_index("row")
    assert rows.loc[["sum, warm start", "gm, warm start"], "distance"].isna().all()
    assert (rows.loc["gm, warm start", "separation_to_sum"] == 0.5).all()
    assert ablation_table.ROWS["gm of Adam's step"].sum_row == "sum, lambda 1"  # of one condition, so measured


def test_runs_of_different_mixtures_are_refused(recipe, tmp_path, monkeypatch):
    import ablation_table

    monkeypatch.setattr(ablation_table, "count_parameters", lambda folder: 1)
    write_run(tmp_path, "sum, lambda 1", 1, np.ones((2, 5)))
    write_run(tmp_path, "gm, lambda 1", 1, np.ones((2, 6)))
    with pytest.raises(UserError, match="different mixtures"):
        ablation_table.ablation_table(ablation_table.finished_runs(tmp_path))


def ablation_run(tmp_path, *more, name="gm, warm start"):
    """A run of a row, as the command line makes it."""
    import argparse

    from run_ablation import Run

    arguments = argparse.Namespace(
        data=tmp_path / "mini", output=tmp_path / "out", layers=1, warm_start=None, test_mixtures=4, options=[]
    )
    vars(arguments).update(more)
    return Run(name, 1, arguments)


def test_a_warm_start_is_that_of_a_training_that_has_ended(recipe, trained, tmp_path):
    """A row started from whatever checkpoint an interrupted training had left, without a word."""
    alone = tmp_path / "out" / "separation-alone" / "1"
    alone.parent.mkdir(parents=True)
    trained[0].rename(alone)
    with pytest.raises(UserError, match="whose training has not ended"):
        ablation_run(tmp_path).check_start()
    (alone / "test_results.json").touch()
    ablation_run(tmp_path).check_start()


@pytest.mark.parametrize("changed", [("test_mixtures", 8), ("warm_start", "elsewhere"), ("options", ["--lr", "0.1"])])
def test_what_a_run_was_begun_with_stays(recipe, tmp_path, changed):
    """The number of test mixtures, and where a warm start comes from, could change in silence."""
    (tmp_path / "out" / "separation-alone" / "1").mkdir(parents=True)
    ablation_run(tmp_path).check()
    with pytest.raises(UserError, match=f"begun with other {changed[0].replace('_', '-')}"):
        ablation_run(tmp_path, changed).check()


@pytest.mark.slow
def test_trains_rows_on_both_sets_draws_the_fronts_and_goes_on(repository, tmp_path):
    for name in ("Libri2Mix", "Rooms"):
        make_corpus(tmp_path / "mini" / name, (("train-100", 2), ("dev", 1), ("test", 2)), seconds=0.5)
    command = [sys.executable, repository / "recipes/Mini/run_ablation.py", "--data", tmp_path / "mini", "--seeds", "1"]
    command += ["--output", tmp_path / "out", "--layers", "1", "--rows", "separation alone", "gm, warm start"]
    short = ["--", "--network", "tfdprnn-laptop", "--number_of_epochs", "1"]
    short += ["--scenes", "null", "--training_signal_len", "0.3"]
    ended = subprocess.run([*command, *short], check=False, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    for row in ("separation alone", "gm, warm start"):
        assert ended.stdout.count(f"| {row} | 1 |") == 2
    assert "2 runs" in ended.stdout
    for name in ("ablation.csv", "ablation.md", "fronts.png", "differences.png"):
        assert (tmp_path / "out" / name).stat().st_size > 0
    results = tmp_path / "out" / "gm-warm-start" / "1" / "Rooms" / "test_results.json"
    before = results.stat().st_mtime_ns
    again = subprocess.run([*command, *short], check=False, capture_output=True, text=True)
    assert again.returncode == 0 and results.stat().st_mtime_ns == before
    other = subprocess.run([*command, *short, "--lr", "0.1"], check=False, capture_output=True, text=True)
    assert other.returncode == 1 and "begun with other options" in other.stderr
    assert len(other.stderr.strip().splitlines()) == 1


def measure_conflict(repository, *arguments):
    command = [sys.executable, repository / "recipes/Mini/measure_conflict.py", *arguments]
    return subprocess.run(command, check=False, capture_output=True, text=True)


@pytest.mark.slow
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
    other = measure_conflict(repository, "--steps", "2", "--utterances", "2", *experiment, "--enhancement_loss", "snr")
    rows = [line for line in ended.stdout.splitlines() if line.startswith("| 2")]
    assert other.returncode == 0 and not set(rows) & set(other.stdout.splitlines())  # the experiment's losses count
    ended = measure_conflict(repository, *experiment, "--enhancement_weight", "0")
    assert ended.returncode == 1 and "no conflict" in ended.stderr.splitlines()[-1]
