"""SepReformer: what it gives after each stage, its blocks against plain definitions, batches and checkpointing."""

import copy

import pytest
import torch
import torch.nn.functional as F

from unified_sess.nnet.sepreformer import GeluEncoder, SepReformer
from unified_sess.nnet.sepreformer_blocks import DepthwiseConv, FrameBatchNorm, GlobalBlock, SpeakerBlock


def small(**changes):
    """A network of few weights on 6 channels, whose branches all count."""
    settings = {"channels": 8, "stages": 2, "encoder_blocks": 1, "decoder_blocks": 1, "nhead": 2, "kernel_size": 5}
    network = SepReformer(6, **settings | {"max_distance": 20, "dropout": 0.0} | changes)
    for name, weight in network.named_parameters():
        if name.endswith("scale"):
            torch.nn.init.constant_(weight, 0.5)
    return network


@pytest.mark.parametrize("num_spks", [1, 2, 3])
@pytest.mark.parametrize("frames", [1, 4, 11])
def test_shapes(num_spks, frames):
    features = torch.randn(2, 6, frames)
    network = small(num_spks=num_spks).eval()
    steps = network.steps(features)
    assert [tuple(step.shape) for step in steps] == 3 * [(num_spks, 2, 6, frames)]
    assert torch.equal(steps[-1], network(features))


def test_the_encoder_is_filters_and_gelu():
    encoder, signal = GeluEncoder(4, 6, 2), torch.randn(2, 20)
    wanted = F.gelu(signal.unfold(1, 4, 2) @ encoder.conv1d.weight[:, 0].T).transpose(1, 2)
    torch.testing.assert_close(encoder(signal), wanted)


def test_masks_start_near_one_and_are_never_negative():
    masks = small(num_spks=1, maps=False, step_outputs=False)(torch.randn(2, 6, 50))
    assert (masks >= 0).all() and 0.5 < float(masks.detach().mean()) < 1.5
    with pytest.raises(ValueError, match="gives masks"):
        small().start_as_identity()


def test_earlier_steps_are_masked_features():
    features = torch.randn(1, 6, 12)
    features[:, :, 5] = 0
    for step in small().eval().steps(features)[:-1]:
        assert (step[..., 5] == 0).all() and (step * features >= 0).all()


def test_a_frame_knows_the_whole_signal():
    features = torch.randn(1, 6, 40, requires_grad=True)
    small().eval()(features)[0, 0, 3, 20].backward()
    assert (features.grad[0].abs().sum(0) > 0).all()


def test_speakers_come_in_any_order():
    """Each pass of the decoder treats them alike: exchanged at the split, they come out exchanged."""
    network, features = small(num_spks=3).eval(), torch.randn(2, 6, 12)
    split, order = network.split, torch.tensor([2, 0, 1])
    before = network(features)
    network.split.forward = lambda x: type(split).forward(split, x).unflatten(0, (-1, 3))[:, order].flatten(0, 1)
    torch.testing.assert_close(network(features), before[order], atol=1e-5, rtol=1e-4)
    assert not torch.allclose(before, before[order], atol=1e-3)


def test_attention_across_speakers_is_that_of_each_frame():
    block = SpeakerBlock(8, 2, 0.0)
    block.feed_forward = torch.nn.Identity()
    torch.nn.init.ones_(block.scale)
    plain = torch.nn.MultiheadAttention(8, 2, batch_first=True)
    plain.load_state_dict(
        {
            "in_proj_weight": block.qkv.weight,
            "in_proj_bias": block.qkv.bias,
            "out_proj.weight": block.outputs[0].weight,
            "out_proj.bias": block.outputs[0].bias,
        }
    )
    x = torch.randn(4, 7, 8)  # two utterances of two speakers
    y = block.norm(x).unflatten(0, (2, 2)).transpose(1, 2).flatten(0, 1)  # a frame a row
    wanted = plain(y, y, y)[0].unflatten(0, (2, 7)).transpose(1, 2).flatten(0, 1)
    torch.testing.assert_close(block(x, 2), x + wanted)


def test_a_global_block_gates_attention_at_the_lowest_rate():
    block = GlobalBlock(8, 2, 0.0)
    block.feed_forward = torch.nn.Identity()
    x, distances = torch.randn(2, 12, 8), torch.randn(6, 4)  # three steps of four frames
    low = block.attention(F.avg_pool1d(x.transpose(1, 2), 4).transpose(1, 2), distances)
    torch.testing.assert_close(block(x, distances), x + block.gate(x) * low.repeat_interleave(4, dim=1))


@pytest.mark.parametrize(("kernel_size", "stride"), [(3, 1), (5, 2), (31, 1)])
def test_depthwise_convolution_is_that_of_torch(kernel_size, stride):
    layer, x = DepthwiseConv(6, kernel_size, stride), torch.randn(2, 40, 6)
    torch.testing.assert_close(layer(x), layer.conv(x.transpose(1, 2)).transpose(1, 2))


def test_batch_norm_is_that_of_torch():
    ours, theirs = FrameBatchNorm(6), torch.nn.BatchNorm1d(6)
    for x in (torch.randn(2, 10, 6), 3 + torch.randn(2, 7, 6)):
        torch.testing.assert_close(ours(x), theirs(x.transpose(1, 2)).transpose(1, 2))
    for name, value in ours.state_dict().items():
        torch.testing.assert_close(value, theirs.state_dict()[name])
    ours.eval(), theirs.eval()
    torch.testing.assert_close(ours(x), theirs(x.transpose(1, 2)).transpose(1, 2))


def test_utterances_stay_apart_when_it_does_not_train():
    network, features = small().eval(), torch.randn(3, 6, 21)
    torch.testing.assert_close(network(features)[:, 1:2], network(features[1:2]), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_checkpointing_changes_neither_gradients_nor_running_statistics(dropout):
    plain, features = small(dropout=dropout), torch.randn(2, 6, 21)
    saving = copy.deepcopy(plain)
    saving.activation_checkpointing = True
    results = []
    for network in (plain, saving):
        torch.manual_seed(0)
        total = sum(step.square().sum() for step in network.steps(features))
        results.append(torch.autograd.grad(total, list(network.parameters())))
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other)
    for (name, one), other in zip(plain.named_buffers(), saving.buffers(), strict=True):
        torch.testing.assert_close(one, other, msg=name)


def test_two_backward_passes_go_through_a_network_that_saves_memory():
    """Regression: the second one ended in an AttributeError."""
    network = small(num_spks=1, maps=False, step_outputs=False, activation_checkpointing=True)
    total = network(torch.randn(2, 6, 21)).sum()
    once, again = (torch.autograd.grad(total, list(network.parameters()), retain_graph=True) for _ in range(2))
    torch.testing.assert_close(once, again)


def test_half_precision_is_near_and_has_gradients():
    network, features = small().eval(), torch.randn(2, 6, 40)
    wanted = network(features)
    with torch.autocast("cpu", torch.bfloat16):
        found = network(features)
    assert 0 < (found.float() - wanted).norm() < 0.03 * wanted.norm()
    gradients = torch.autograd.grad(found.float().square().sum(), list(network.parameters()), allow_unused=True)
    assert all(g is None or (g.isfinite().all() and g.dtype is torch.float32) for g in gradients)


def test_sizes_that_do_not_fit_are_named():
    with pytest.raises(ValueError, match="multiple of nhead"):
        SepReformer(6, channels=9, nhead=2)
    with pytest.raises(ValueError, match="must be odd"):
        small(kernel_size=4)
