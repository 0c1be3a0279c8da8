"""One switch for all hand-written passes: with and without them every network has the same numbers and gradients."""

import subprocess
import sys

import pytest
import torch

from tests.gradients import assert_same_gradients
from unified_sess.nnet import conv_tasnet, dual_path, kernels


@pytest.fixture
def plain():
    """Switches the kernels off and, after the test, back to what they were."""
    before = kernels.use(False)
    yield
    kernels.use(before)


def sepformer():
    block = [dual_path.SBTransformerBlock(1, 8, 2, 12, norm_before=True, dropout=0) for _ in range(2)]
    return dual_path.Dual_Path_Model(6, 8, *block, num_layers=1, norm="ln", K=4, num_spks=2)


def convtasnet():
    return conv_tasnet.MaskNet(6, 4, 8, 3, 2, 1, 2)


def history(tensor):
    """Names of the steps of autograd behind a tensor."""
    found, waiting = set(), [tensor.grad_fn]
    while waiting:
        step = waiting.pop()
        if step is not None and step not in found:
            found.add(step)
            waiting += [before for before, _ in step.next_functions]
    return {step.name() for step in found}


@pytest.mark.parametrize(
    "make, written",
    [(sepformer, {"_OneSlopeBackward"}), (convtasnet, {"_OneSlopeBackward"})],
)
def test_the_same_numbers_and_gradients_without_kernels(make, written, plain):
    network = make().double()
    x = torch.randn(2, 6, 30, dtype=torch.float64, requires_grad=True)
    wanted = network(x)
    assert not history(wanted) & written
    kernels.use(True)
    found = network(x)
    assert written <= history(found)
    torch.testing.assert_close(found, wanted)
    assert_same_gradients(found, wanted, [x, *network.parameters()])


def test_the_environment_switches_them_off(monkeypatch):
    monkeypatch.setenv("UNIFIED_SESS_KERNELS", "0")
    ask = "import torch; from unified_sess.nnet import kernels; print(kernels.on_cpu(torch.zeros(1)))"
    ended = subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True, check=True)
    assert ended.stdout.strip() == "False"
