"""Conflict beside chance: what it says of draws whose relation is known, and that training does not notice it."""

import pytest
import torch

from tests.networks import random_batch, tiny_modules
from tests.training.test_weight_learning import brain, train
from unified_sess.data.batches import Batch
from unified_sess.gradient_modulation import GradientModulation
from unified_sess.training.conflict_null import COMPARISONS, ConflictNull
from unified_sess.training.conflict_null_plot import draw_conflict_null
from unified_sess.training.gradient_table import write_gradient_table
from unified_sess.training.joint_step import JointStep


def tensor_means(null, column="cosine"):
    rows = [row for row in null.table() if row["level"] == "tensor"]
    return {
        c: sum(r[column] for r in rows if r["comparison"] == c) / max(1, sum(r["comparison"] == c for r in rows))
        for c in COMPARISONS
    }


def twice(batch):
    """Each mixture again, as the other half."""
    return Batch(batch.ids * 2, *(torch.cat([part, part]) for part in batch[1:]))


def test_two_halves_alike_agree_wholly():
    found = brain(tiny_modules(), "gm", conflict_null_steps=1)
    found.conflict_null.see(twice(random_batch([400])), 0, found.optimizer)
    cosine = tensor_means(found.conflict_null)
    assert cosine["separation"] == pytest.approx(1, abs=1e-3) and cosine["enhancement"] == pytest.approx(1, abs=1e-3)
    assert cosine["tasks"] == pytest.approx(cosine["tasks_apart"], abs=1e-3) and cosine["tasks"] < 0.99


def test_random_gradients_conflict_in_half_of_the_tensors_in_every_comparison():
    shapes = [(30, 20)] * 200
    modules = tiny_modules()
    null = ConflictNull(JointStep(modules, GradientModulation("gm")), 1, lambda batch: None)
    for meter in null.meters.values():
        meter.bind([f"layer{k}.weight" for k in range(200)])
    generator = torch.Generator().manual_seed(0)
    draws = [[[torch.randn(s, generator=generator) for s in shapes] for _ in range(2)] for _ in range(2)]
    null.compare(*draws, [torch.rand(s, generator=generator) for s in shapes])
    for comparison, rate in tensor_means(null, "conflict_rate").items():
        assert 0.35 < rate < 0.65, comparison


@pytest.mark.parametrize("rule", ["sum", "gm", "famo"])
def test_training_does_not_notice_the_measurement(rule):
    modules, batches = tiny_modules(), [random_batch([400, 400], seed=k) for k in range(4)]
    torch.manual_seed(0)
    with_null, without = (brain(modules, rule, opt=torch.optim.Adam, conflict_null_steps=n) for n in (2, 0))
    a, b = train(with_null, batches), train(without, batches)
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert with_null.conflict_null.table() and not without.conflict_null.table()
    assert {row["comparison"] for row in with_null.conflict_null.table()} == set(COMPARISONS)


def test_a_batch_of_one_is_compared_with_the_one_before():
    found = brain(tiny_modules(), "gm", conflict_null_steps=1)
    train(found, [random_batch([400])])
    assert not found.conflict_null.table()  # nothing before the first
    train(found, [random_batch([400], seed=1)])
    assert found.conflict_null.table()


def test_one_task_alone_has_nothing_to_compare():
    found = brain(tiny_modules(), "gm", enhancement_weight=0, conflict_null_steps=1)
    train(found, [random_batch([400, 400])])
    assert not found.conflict_null.table()


def test_its_table_is_written_and_drawn_again_after_a_stop(tmp_path):
    found = brain(tiny_modules(), "gm", opt=torch.optim.Adam, conflict_null_steps=1)
    train(found, [random_batch([400, 400], seed=k) for k in range(2)])
    rows = found.conflict_null.table()
    for epoch in (1, 2, 2):
        path = write_gradient_table(rows, epoch, tmp_path / "conflict_null.csv")
    assert len(path.read_text().splitlines()) == 1 + 2 * len(rows)
    assert draw_conflict_null(path, tmp_path / "conflict_null.png").stat().st_size > 10_000
    again = brain(tiny_modules(), "gm", conflict_null_steps=1)
    again.conflict_null.load_state_dict(found.conflict_null.state_dict())
    assert again.conflict_null.table() == rows
