"""Our dual-path model against SpeechBrain's: keys, numbers, gradients, checkpointing, compilation."""

import pytest
import torch
from speechbrain.lobes.models import dual_path as stock

from unified_sess.nnet import dual_path as ours
from unified_sess.nnet.chunking import add_chunks, cut_chunks


def transformer(module, channels=16, norm_before=True, **settings):
    settings = {"num_layers": 2, "nhead": 4, "d_ffn": 24, "dropout": 0, "use_positional_encoding": True} | settings
    return module.SBTransformerBlock(d_model=channels, norm_before=norm_before, **settings)


def recurrent(module, channels=16, **settings):
    return module.SBRNNBlock(channels, 12, num_layers=1, bidirectional=True, **settings)


def post_norm(module):
    return transformer(module, norm_before=False, activation="gelu", use_positional_encoding=False)


def model(module, block, **settings):
    settings = {"num_layers": 2, "K": 10, "norm": "ln", "num_spks": 2} | settings
    return module.Dual_Path_Model(12, 16, block(module), block(module), **settings)


def pair(block, **settings):
    """Stock and our model with the same random weights, loaded strictly in both directions."""
    theirs, fast = model(stock, block, **settings), model(ours, block, **settings)
    for parameter in theirs.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    fast.load_state_dict(theirs.state_dict(), strict=True)
    theirs.load_state_dict(fast.state_dict(), strict=True)
    return theirs, fast


def flat_gradient(output, direction, inputs):
    return torch.cat([g.flatten() for g in torch.autograd.grad((output * direction).sum(), inputs)])


SHAPES = [(1, 100), (2, 101), (3, 7), (1, 1), (2, 15), (1, 37)]
VARIANTS = [
    {"linear_layer_after_inter_intra": False},
    {"num_spks": 3, "K": 11},
    {"num_spks": 1, "norm": "gln", "skip_around_intra": False},
    {"norm": "cln"},
    {"norm": None, "num_layers": 1},
]


@pytest.mark.parametrize("block", [transformer, post_norm, recurrent])
@pytest.mark.parametrize("settings", VARIANTS)
def test_same_numbers_and_gradients_as_speechbrain(block, settings):
    if block is recurrent:
        settings = settings | {"linear_layer_after_inter_intra": True}  # its output is wider than its input
    theirs, fast = pair(block, **settings)
    for batch, frames in SHAPES:
        if settings.get("norm", "ln") is None and batch * frames == 1:
            continue  # a batch norm needs two values
        x = torch.rand(batch, 12, frames, requires_grad=True)
        expected, masks = theirs(x), fast(x)
        assert masks.shape == expected.shape
        torch.testing.assert_close(masks, expected, rtol=0, atol=1e-5)
        direction = torch.randn_like(expected)
        wanted = flat_gradient(expected, direction, [x, *theirs.parameters()])
        found = flat_gradient(masks, direction, [x, *fast.parameters()])
        assert (found - wanted).norm() <= 1e-4 * wanted.norm()


def test_speechbrains_own_blocks_serve_too():
    theirs = model(stock, transformer)
    mixed = ours.Dual_Path_Model(12, 16, transformer(stock), transformer(stock), num_layers=2, K=10, norm="ln")
    mixed.load_state_dict(theirs.state_dict(), strict=True)
    x = torch.rand(2, 12, 50)
    torch.testing.assert_close(mixed(x), theirs(x), rtol=0, atol=1e-5)


def test_other_attention_runs_as_in_speechbrain():
    settings = {"num_layers": 1, "nhead": 4, "d_ffn": 24, "dropout": 0, "attention_type": "hypermixing"}
    theirs, fast = stock.SBTransformerBlock(d_model=16, **settings), ours.SBTransformerBlock(d_model=16, **settings)
    fast.load_state_dict(theirs.state_dict(), strict=True)
    x = torch.rand(2, 9, 16)
    torch.testing.assert_close(fast(x), theirs(x))


@pytest.mark.parametrize("size", [2, 3, 10, 11])
@pytest.mark.parametrize("frames", [1, 5, 10, 33, 40])
def test_chunks_as_in_speechbrain_and_added_up_give_twice_the_sequence(size, frames):
    x = torch.randn(2, frames, 3, requires_grad=True)
    chunks = cut_chunks(x, size)
    reference = model(stock, transformer)
    expected, gap = reference._Segmentation(x.transpose(1, 2), size)
    torch.testing.assert_close(chunks, expected.permute(0, 3, 2, 1))
    torch.testing.assert_close(add_chunks(chunks, frames), 2 * x)
    noise = torch.randn_like(chunks)
    summed = reference._over_add(noise.permute(0, 3, 2, 1), gap)
    torch.testing.assert_close(add_chunks(noise, frames), summed.transpose(1, 2))


def test_activation_checkpointing_keeps_less_and_changes_nothing():
    """Two gradients from one graph, as gradient modulation takes them."""

    def kept_and_gradients(checkpointing):
        torch.manual_seed(1)
        block = transformer(ours, num_layers=6, activation_checkpointing=checkpointing)
        x, sizes = torch.rand(4, 30, 16, requires_grad=True), []
        with torch.autograd.graph.saved_tensors_hooks(lambda t: sizes.append(t.numel()) or t, lambda t: t):
            y = block(x)
        weights = list(block.parameters())
        first = torch.autograd.grad(y.sum(), weights[:8], retain_graph=True)
        return sum(sizes), [*first, *torch.autograd.grad((y**2).sum(), weights)]

    plain, expected = kept_and_gradients(False)
    less, found = kept_and_gradients(True)
    assert less < plain / 3
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)


def test_dropout_works_in_training_and_rests_in_evaluation():
    block, x = transformer(ours, dropout=0.5), torch.rand(2, 9, 16)
    assert not torch.equal(block(x), block(x))
    block.eval()
    assert torch.equal(block(x), block(x))


@pytest.mark.parametrize("block", [transformer, recurrent])
def test_no_graph_breaks(block):
    network, x = model(ours, block, num_layers=1), torch.rand(2, 12, 33)
    if block is recurrent:  # the compiler splits at every LSTM unless told otherwise
        with torch._dynamo.config.patch(allow_rnn=True):
            compiled = torch.compile(network, fullgraph=True, backend="eager")(x)
    else:
        compiled = torch.compile(network, fullgraph=True, backend="eager")(x)
    torch.testing.assert_close(compiled, network(x), rtol=0, atol=1e-5)


def test_mixed_precision_stays_near():
    network, x = model(ours, transformer), torch.rand(2, 12, 60)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        masks = network(x)
        masks.float().sum().backward()
    assert (masks.float() - network(x)).norm() < 0.05 * network(x).norm()
    assert all(p.grad.isfinite().all() for p in network.parameters() if p.grad is not None)


def test_a_transformer_block_trains_in_double_precision():
    from unified_sess.nnet.transformer import SBTransformerBlock

    block = SBTransformerBlock(num_layers=1, d_model=16, nhead=2, d_ffn=32).double()
    output = block(torch.randn(2, 9, 16, dtype=torch.float64))
    output.square().sum().backward()
    assert output.dtype is torch.float64
