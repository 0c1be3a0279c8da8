"""Validation: silent references are left out by name, and a network's NaN can never win."""

import math

import pytest
import torch

from tests.networks import random_batch, tiny_modules
from unified_sess.network import UnifiedNetwork
from unified_sess.training.loss_totals import LossTotals, Validation
from unified_sess.training.utterance_losses import utterance_losses


def losses_of(batch):
    torch.manual_seed(0)
    with torch.no_grad():
        return utterance_losses(UnifiedNetwork(tiny_modules()), batch)


def with_nan(losses, rows):
    separation = losses.separation.clone()
    separation[rows] = math.nan
    return losses._replace(separation=separation)


def silenced(batch, row, speaker=0):
    sources = batch.sources.clone()
    sources[row, :, speaker] = 0
    return batch._replace(sources=sources)


def test_nine_nan_of_ten_have_no_number():
    """Regression: they were dropped, and one good utterance made the best checkpoint."""
    batch, validation = random_batch([400] * 10), Validation()
    validation.add(batch, with_nan(losses_of(batch), list(range(9))))
    means, undefined, failed = validation.end()
    assert all(math.isnan(value) for value in means.values()) and means.keys() >= {"loss_ss", "loss_se", "si_snri"}
    assert undefined == [] and failed == batch.ids[:9]


def test_a_silent_reference_is_left_out_by_name():
    batch, validation = random_batch([400, 300, 400]), Validation()
    silent = silenced(batch, 1)
    validation.add(silent, losses_of(silent))
    means, undefined, failed = validation.end()
    assert undefined == ["u1"] and failed == []
    others, expected = random_batch([400, 300, 400]), Validation()
    rows = [0, 2]
    losses = losses_of(others)
    expected.add(
        others._replace(
            ids=["u0", "u2"], **{n: getattr(others, n)[rows] for n in ("mixture", "clean", "sources", "lengths")}
        ),
        losses._replace(**{n: getattr(losses, n)[rows] for n in ("separation", "enhancement", "sources")}),
    )
    assert means == pytest.approx(expected.end()[0])


def test_nan_for_a_silent_reference_is_not_the_networks():
    batch, validation = silenced(random_batch([400, 400]), 0), Validation()
    validation.add(batch, with_nan(losses_of(batch), [0]))
    means, undefined, failed = validation.end()
    assert math.isfinite(means["si_snri"]) and undefined == ["u0"] and failed == []


def test_a_loss_that_knows_silence_leaves_nothing_out():
    batch, validation = silenced(random_batch([400, 400]), 0), Validation(silence_defined=True)
    validation.add(batch, losses_of(batch))
    means, undefined, failed = validation.end()
    assert math.isfinite(means["si_snri"]) and undefined == failed == []
    assert validation.totals.sums[3] == 2


def test_references_that_are_all_silent_have_no_number():
    batch, validation = silenced(silenced(random_batch([400, 400]), 0), 1), Validation()
    validation.add(batch, losses_of(batch))
    means, undefined, failed = validation.end()
    assert math.isnan(means["si_snri"]) and undefined == ["u0", "u1"] and failed == []


def test_training_means_are_those_of_finite_losses():
    batch, totals = random_batch([400] * 4), LossTotals()
    losses = losses_of(batch)
    totals.add(with_nan(losses, [0]))
    assert totals.means()["loss_ss"] == pytest.approx(float(losses.separation[1:].mean()), rel=1e-6)
    assert "si_snri" not in totals.means()
