"""Our networks against SpeechBrain's on a GPU, in single and in mixed precision; skipped without one."""

import pytest
import torch
from speechbrain.lobes.models import conv_tasnet as stock_conv
from speechbrain.lobes.models import dual_path as stock_dual

from unified_sess.nnet import conv_tasnet, dual_path

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")


def sepformer(module, norm="ln"):
    make = {"num_layers": 2, "d_model": 32, "nhead": 4, "d_ffn": 48, "dropout": 0, "use_positional_encoding": True}
    blocks = [module.SBTransformerBlock(norm_before=True, **make) for _ in range(2)]
    return module.Dual_Path_Model(
        16, 32, *blocks, num_layers=2, norm=norm, K=20, num_spks=2, linear_layer_after_inter_intra=False
    )


def dprnn(module):
    blocks = [module.SBRNNBlock(32, 12, num_layers=1, bidirectional=True) for _ in range(2)]
    return module.Dual_Path_Model(16, 32, *blocks, num_layers=2, norm="gln", K=20, num_spks=3)


def convtasnet(module):
    return module.MaskNet(16, 8, 24, 3, 4, 2, 2)


CASES = [
    (sepformer, stock_dual, dual_path),
    (dprnn, stock_dual, dual_path),
    (convtasnet, stock_conv, conv_tasnet),
]


def both(make, stock, ours, x, dtype=torch.float64):
    """Masks of the same weights and their gradients in one vector, from SpeechBrain's network and from ours."""
    theirs, fast = make(stock).to("cuda", dtype), make(ours).to("cuda", dtype)
    fast.load_state_dict(theirs.state_dict(), strict=True)
    direction, results = None, []
    for network in (theirs, fast):
        signal = x.to(dtype).requires_grad_()
        masks = network(signal)
        if direction is None:
            direction = torch.sin(torch.arange(masks.numel(), device="cuda")).view_as(masks)
        gradients = torch.autograd.grad((masks * direction.to(dtype)).sum(), [signal, *network.parameters()])
        results.append((masks.double(), torch.cat([g.double().flatten() for g in gradients])))
    return results


@pytest.mark.parametrize(("make", "stock", "ours"), CASES)
@pytest.mark.parametrize(("batch", "frames"), [(1, 500), (3, 333), (2, 17)])
def test_same_numbers_and_gradients_as_speechbrain(make, stock, ours, batch, frames):
    """In double precision, where no GPU takes short cuts; in single precision neither is further from that."""
    x = torch.rand(batch, 16, frames, device="cuda")
    torch.manual_seed(1)
    wanted, found = both(make, stock, ours, x)
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-7, atol=1e-9)
    torch.manual_seed(1)
    for errors in zip(*both(make, stock, ours, x, torch.float32), wanted, strict=True):
        theirs, ours_, exact = errors
        assert (ours_ - exact).norm() <= 3 * (theirs - exact).norm() + 1e-5 * exact.norm()


@pytest.mark.parametrize(("make", "stock", "ours"), CASES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_mixed_precision_is_as_near_to_the_truth_as_in_speechbrain(make, stock, ours, dtype):
    theirs, fast = make(stock).cuda(), make(ours).cuda()
    fast.load_state_dict(theirs.state_dict(), strict=True)
    x = torch.rand(2, 16, 400, device="cuda")
    exact = theirs(x)
    with torch.autocast("cuda", dtype):
        pair = theirs(x), fast(x)
    wanted, found = ((y.float() - exact).norm() / exact.norm() for y in pair)
    assert 0 < found < 1.5 * wanted
    pair[1].float().sum().backward()
    assert all(p.grad.isfinite().all() and p.grad.dtype is torch.float32 for p in fast.parameters())


def test_checkpointing_layers_changes_no_gradient():
    network = sepformer(dual_path).cuda()
    x = torch.rand(1, 16, 300, device="cuda")

    def gradients(checkpointing):
        for block in network.modules():
            if isinstance(block, dual_path.SBTransformerBlock):
                block.activation_checkpointing = checkpointing
        with torch.autocast("cuda", torch.bfloat16):
            y = network(x)
        return torch.autograd.grad(y.float().square().sum(), list(network.parameters()))

    for one, other in zip(gradients(True), gradients(False), strict=True):
        torch.testing.assert_close(one, other)
