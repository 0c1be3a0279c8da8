"""The average of the weights: its value, its exchange with the trained weights, and its way through a checkpoint."""

import pytest
import torch

from unified_sess.training.averaging import WeightAverage
from unified_sess.training.checkpoints import AtomicCheckpointer
from unified_sess.utils.errors import UserError


def scalar(value=0.0):
    """A module with one weight."""
    layer = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.constant_(layer.weight, value)
    return layer


def train_to(layer, average, values):
    """Steps of a training that gives the weight these values."""
    for value in values:
        torch.nn.init.constant_(layer.weight, value)
        average.update()


def test_weights_that_stay_are_their_own_average():
    layer = scalar(3.0)
    average = WeightAverage({"layer": layer}, 0.9)
    average.start()
    train_to(layer, average, [3.0] * 5)
    with average.in_use():
        assert layer.weight.item() == pytest.approx(3.0)


def test_the_average_weighs_a_step_by_the_decay_and_soon_forgets_the_start():
    layer = scalar(100.0)
    average = WeightAverage({"layer": layer}, 0.5)
    average.start()
    train_to(layer, average, [0.0] * 40)
    train_to(layer, average, [1.0, 1.0])
    with average.in_use():
        assert layer.weight.item() == pytest.approx(0.75, abs=1e-6)
    assert layer.weight.item() == 1.0


def test_training_goes_on_from_the_trained_weights_in_the_same_memory():
    layer = scalar(0.0)
    average, address = WeightAverage({"layer": layer}, 0.9), layer.weight.data_ptr()
    average.start()
    train_to(layer, average, [1.0, 2.0])
    average.use(True)
    average.use(True)
    assert 0 < layer.weight.item() < 2
    with average.in_use():
        pass
    assert 0 < layer.weight.item() < 2
    average.use(False)
    assert layer.weight.item() == 2.0 and layer.weight.data_ptr() == address


def test_frozen_weights_are_left_alone():
    layer = scalar(1.0).requires_grad_(False)
    average = WeightAverage({"layer": layer, "other": scalar()}, 0.9)
    average.start()
    assert list(average.others) == ["other.weight"]


def test_a_checkpoint_holds_the_average_in_the_modules_file_and_training_goes_on_exactly(tmp_path):
    layer = scalar(0.0)
    average = WeightAverage({"layer": layer}, 0.9)
    average.start()
    train_to(layer, average, [1.0, 2.0, 3.0])
    with average.in_use():
        AtomicCheckpointer(tmp_path, {"layer": layer, "average": average}).save_checkpoint()
        averaged = layer.weight.item()
    (file,) = tmp_path.glob("CKPT*/layer.ckpt")
    assert torch.load(file)["weight"].item() == averaged != 3.0

    again = scalar(7.0)
    recovered = WeightAverage({"layer": again}, 0.9)
    AtomicCheckpointer(tmp_path, {"layer": again, "average": recovered}).recover_if_possible()
    recovered.start()
    assert again.weight.item() == averaged
    recovered.use(False)
    assert again.weight.item() == 3.0
    for one, other in ((layer, average), (again, recovered)):
        train_to(one, other, [5.0])
        other.use(True)
    assert torch.equal(layer.weight, again.weight)


@pytest.mark.parametrize("decay", [1.0, -0.1, "0.9", True])
def test_a_decay_that_is_none_is_named(decay):
    with pytest.raises(UserError, match="ema_decay"):
        WeightAverage({}, decay)
