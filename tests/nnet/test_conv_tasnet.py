"""Our Conv-TasNet mask network against SpeechBrain's: keys, numbers, gradients."""

import pytest
import torch
from speechbrain.lobes.models import conv_tasnet as stock

from unified_sess.nnet.conv_tasnet import DepthwiseConv, GlobalLayerNorm, MaskNet
from unified_sess.nnet.kernels.prelu import PReLU

SIZE = {"N": 16, "B": 8, "H": 12}


def pair(**settings):
    """Stock and our network with the same random weights, loaded strictly in both directions."""
    theirs, ours = stock.MaskNet(**SIZE, **settings), MaskNet(**SIZE, **settings)
    for parameter in theirs.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter)
    ours.load_state_dict(theirs.state_dict(), strict=True)
    theirs.load_state_dict(ours.state_dict(), strict=True)
    return theirs.double(), ours.double()


@pytest.mark.parametrize("norm_type", ["gLN", "cLN"])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize(
    ("P", "X", "R", "C", "nonlinear", "batch", "frames"),
    [
        (3, 5, 2, 2, "relu", 2, 101),
        (5, 3, 1, 3, "softmax", 1, 64),
        (3, 4, 2, 1, "relu", 3, 9),  # too short for the grid of 8 columns to be reflected
        (1, 2, 1, 2, "relu", 1, 7),
    ],
)
def test_same_numbers_and_gradients_as_speechbrain(P, X, R, C, nonlinear, batch, frames, causal, norm_type):
    if causal and P == 1:
        pytest.skip("SpeechBrain cuts a causal kernel of one frame down to nothing")
    theirs, ours = pair(P=P, X=X, R=R, C=C, mask_nonlinear=nonlinear, causal=causal, norm_type=norm_type)
    x = torch.rand(batch, SIZE["N"], frames, dtype=torch.float64, requires_grad=True)
    expected, masks = theirs(x), ours(x)
    assert masks.shape == (C, batch, SIZE["N"], frames)
    torch.testing.assert_close(masks, expected, rtol=1e-9, atol=1e-9)

    direction = torch.randn_like(expected)
    wanted = torch.autograd.grad((expected * direction).sum(), [x, *theirs.parameters()])
    found = torch.autograd.grad((masks * direction).sum(), [x, *ours.parameters()])
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-7, atol=1e-9)


def test_same_numbers_in_float32_at_published_depth():
    theirs, ours = (network.float() for network in pair(P=3, X=8, R=3, C=2))
    x = torch.rand(1, SIZE["N"], 700)
    expected = theirs(x)
    assert (ours(x) - expected).norm() / expected.norm() < 1e-5


@pytest.mark.parametrize("frames", [1, 2, 5, 31])
def test_signals_too_short_for_reflection_pass(frames):
    masks = MaskNet(**SIZE, P=3, X=6, R=1, C=2)(torch.rand(2, SIZE["N"], frames))
    assert masks.shape == (2, 2, SIZE["N"], frames)
    assert masks.isfinite().all()


def test_norm_called_alone_equals_folded_norm():
    norm, conv = GlobalLayerNorm(6), DepthwiseConv(6, 3, dilation=4)
    torch.nn.init.normal_(norm.gamma)
    torch.nn.init.normal_(norm.beta)
    x = torch.randn(2, 30, 6)
    padded = torch.nn.functional.pad(norm(x).transpose(1, 2), (4, 4), mode="reflect")
    expected = torch.nn.functional.conv1d(padded, conv.conv.weight, dilation=4, groups=6).transpose(1, 2)
    torch.testing.assert_close(conv(x, norm), expected, rtol=1e-4, atol=1e-5)


def test_utterances_of_a_batch_do_not_see_each_other():
    network, x = MaskNet(**SIZE, P=3, X=4, R=2, C=2), torch.rand(3, SIZE["N"], 50)
    torch.testing.assert_close(network(x)[:, 1:2], network(x[1:2]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("settings", [{"norm_type": "BN"}, {"mask_nonlinear": "tanh"}, {"P": 4}])
def test_what_does_not_exist_is_refused_by_name(settings):
    with pytest.raises(ValueError, match=str(next(iter(settings.values())))):
        MaskNet(**SIZE, **({"P": 3, "X": 1, "R": 1, "C": 2} | settings))


@pytest.mark.parametrize("slope", [0.25, 0.0, -0.5, 1.0])
def test_prelu_as_in_pytorch(slope):
    ours, theirs = PReLU(slope), torch.nn.PReLU(init=slope)
    x = torch.randn(3, 7, 5).transpose(1, 2).requires_grad_()
    direction = torch.randn(3, 5, 7)
    torch.testing.assert_close(ours(x), theirs(x))
    found = torch.autograd.grad((ours(x) * direction).sum(), [x, ours.weight])
    wanted = torch.autograd.grad((theirs(x) * direction).sum(), [x, theirs.weight])
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other)


def test_no_graph_breaks():
    network, x = MaskNet(**SIZE, P=3, X=3, R=1, C=2), torch.rand(2, SIZE["N"], 40)
    compiled = torch.compile(network, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(x), network(x))
