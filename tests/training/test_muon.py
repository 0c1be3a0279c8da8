"""Muon: the matrices' steps are orthogonal, as PyTorch's, and the rest moves as under AdamW."""

import copy

import pytest
import torch
from torch import nn

from unified_sess.training.adam_steps import adam_factors
from unified_sess.training.muon import MuonAdamW, is_matrix, orthogonal


def network():
    torch.manual_seed(0)
    return nn.ModuleDict({"filters": nn.Conv1d(4, 6, 8), "rnn": nn.LSTM(6, 5), "out": nn.Linear(5, 3)})


def draw_gradients(modules, seed):
    generator = torch.Generator().manual_seed(seed)
    for p in modules.parameters():
        p.grad = torch.randn(p.shape, generator=generator)


def train(modules, optimizer, seeds):
    for seed in seeds:
        draw_gradients(modules, seed)
        optimizer.step()
    return [p.detach().clone() for p in modules.parameters()]


@pytest.mark.parametrize("shape", [(5, 64, 64), (3, 256, 64), (2, 16, 80)])
def test_singular_values_come_near_one_and_directions_stay(shape):
    matrices = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    u, values, v = torch.linalg.svd(matrices, full_matrices=False)
    matrices = u * values.clamp_min(0.02 * values.amax())[:, None] @ v
    found = orthogonal(matrices)
    levels = torch.linalg.svdvals(found)
    assert 0.6 < levels.min() and levels.max() < 1.3
    # The same singular vectors: between them the result is diagonal.
    between = u.mT @ found @ v.mT
    assert torch.allclose(between, torch.diag_embed(between.diagonal(dim1=1, dim2=2)), atol=1e-4)


def test_a_matrix_moves_as_under_the_muon_of_pytorch():
    """PyTorch iterates in bfloat16, which is good to two digits."""
    weights = [torch.randn(24, 16), torch.randn(16, 40)]
    ours, theirs = ([nn.Parameter(w.clone()) for w in weights] for _ in range(2))
    options = {"lr": 0.02, "weight_decay": 0.1, "momentum": 0.95}
    optimizers = MuonAdamW(ours, **options), torch.optim.Muon(theirs, **options, adjust_lr_fn="match_rms_adamw")
    for seed in range(4):
        for parameters, optimizer in zip((ours, theirs), optimizers, strict=True):
            generator = torch.Generator().manual_seed(seed)
            for p in parameters:
                p.grad = torch.randn(p.shape, generator=generator)
            optimizer.step()
    for one, other, start in zip(ours, theirs, weights, strict=True):
        moved = (other - start).norm()
        assert (one - other).norm() < 0.02 * moved


def test_what_is_no_matrix_moves_as_under_adamw():
    modules = network()
    other = copy.deepcopy(modules)
    options = {"lr": 0.01, "betas": (0.8, 0.9), "weight_decay": 0.1}
    found = train(modules, MuonAdamW(modules.parameters(), **options), range(3))
    wanted = train(other, torch.optim.AdamW(other.parameters(), **options, fused=True), range(3))
    for one, two in zip(found, wanted, strict=True):
        assert torch.equal(one, two) != is_matrix(one)
    assert {tuple(p.shape) for p in found if is_matrix(p)} == {(20, 6), (20, 5), (3, 5)}


def test_without_muon_it_is_adamw():
    modules = network()
    other = copy.deepcopy(modules)
    found = train(modules, MuonAdamW(modules.parameters(), lr=0.01, muon=False), range(3))
    wanted = train(other, torch.optim.AdamW(other.parameters(), lr=0.01, weight_decay=0.0, fused=True), range(3))
    assert all(torch.equal(one, two) for one, two in zip(found, wanted, strict=True))


def test_a_convolution_over_one_point_is_a_matrix():
    assert is_matrix(nn.Conv2d(4, 6, 1).weight) and not is_matrix(nn.Conv1d(4, 6, 3).weight)
    assert not is_matrix(nn.Conv1d(4, 4, 1, groups=4).weight) and not is_matrix(nn.PReLU().weight)
    layer = nn.Conv2d(4, 6, 1)
    before = layer.weight.detach().clone()
    train(layer, MuonAdamW(layer.parameters(), lr=0.1), [0])
    levels = torch.linalg.svdvals((before - layer.weight).flatten(1) / (0.1 * 0.2 * 6**0.5))
    assert 0.6 < levels.min() and levels.max() < 1.3


def test_the_length_of_a_gradient_says_nothing_and_none_is_no_step():
    steps = []
    for factor in (1, 1000, 0):
        layer = nn.Linear(6, 4, bias=False)
        before = layer.weight.detach().clone()
        optimizer = MuonAdamW(layer.parameters(), lr=0.1)
        layer.weight.grad = factor * torch.randn(4, 6, generator=torch.Generator().manual_seed(2))
        optimizer.step()
        assert layer.weight.grad is not None  # is put back
        steps.append(layer.weight.detach() - before)
        layer.weight.grad = None
        optimizer.step()
        assert torch.equal(layer.weight.detach() - before, steps[-1])
    assert torch.allclose(steps[0], steps[1], atol=1e-6) and not steps[2].any()


def test_a_stopped_training_goes_on_exactly():
    modules = network()
    wanted = train(modules, MuonAdamW(modules.parameters(), lr=0.01), range(4))
    modules = network()
    first = MuonAdamW(modules.parameters(), lr=0.01)
    train(modules, first, range(2))
    second = MuonAdamW(modules.parameters(), lr=0.01)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    assert all(torch.equal(one, two) for one, two in zip(train(modules, second, range(2, 4)), wanted, strict=True))


@pytest.mark.parametrize("muon", [True, False])
def test_a_checkpoint_of_the_other_kind_goes_on(muon):
    modules = network()
    first = MuonAdamW(modules.parameters(), lr=0.01, muon=not muon)
    train(modules, first, range(2))
    bias = first.state[modules["out"].bias]["exp_avg"].clone()
    second = MuonAdamW(modules.parameters(), lr=0.01, muon=muon)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    assert torch.equal(second.state[modules["out"].bias]["exp_avg"], bias)
    assert all(p.isfinite().all() for p in train(modules, second, [2]))


@pytest.mark.parametrize("muon", [True, False])
def test_the_steps_of_adam_are_known_without_muon_alone(muon):
    modules = network()
    optimizer = MuonAdamW(modules.parameters(), muon=muon)
    assert adam_factors(optimizer, list(modules.parameters())) is None  # before the first step
    train(modules, optimizer, [0])
    assert (adam_factors(optimizer, list(modules.parameters())) is None) == muon
