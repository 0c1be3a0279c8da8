"""The network on bands: every frequency is heard, complex masks, runs of the cell, and no future where it is causal."""

import io

import pytest
import torch

from unified_sess.network import set_effort
from unified_sess.nnet.band_split import BandSplitNet, _as_factors
from unified_sess.nnet.time_frequency import RecurrentPath, SpectralDecoder, SpectralEncoder, level_and_phase
from unified_sess.utils.errors import UserError

BANDS = [[8, 2], [28, 7]]  # 33 frequencies: the highest band reaches 3 above them


def small(**changes):
    """A network of few weights on 33 frequencies."""
    settings = {"bands": BANDS, "channels": 8, "hidden": 8, "frequency_hidden": 6, "block": 3} | changes
    return BandSplitNet(33, **settings).eval()


@pytest.mark.parametrize("num_spks", [1, 2, 3])
@pytest.mark.parametrize("frames", [1, 2, 7, 12])
@pytest.mark.parametrize("causal", [False, True])
def test_shapes(num_spks, frames, causal):
    masks = small(num_spks=num_spks, repeats=2, causal=causal)(torch.randn(2, 66, frames))
    assert masks.shape == (num_spks, 2, 66, frames)


def test_every_frequency_is_heard_and_gets_a_mask():
    features = torch.randn(1, 66, 7, requires_grad=True)
    masks = small()(features)
    assert (masks[0, 0].std(1) > 0).all()
    masks.square().sum().backward()
    assert (features.grad[0].abs().sum(1) > 0).all()


def test_a_frame_knows_the_whole_signal():
    features = torch.randn(1, 66, 40, requires_grad=True)
    small()(features)[0, 0, 5, 20].backward()
    assert (features.grad[0].abs().sum(0) > 0).all()


@pytest.mark.parametrize("block", [1, 2, 4, 5])
@pytest.mark.parametrize("repeats", [1, 3])
def test_a_causal_network_sees_no_future(block, repeats):
    network, features = small(causal=True, block=block, repeats=repeats, num_layers=2), torch.randn(1, 66, 23)
    for frame in (0, 1, 7, 12, 21):
        changed = features.clone()
        changed[:, :, frame + 1 :] = 100 * torch.randn_like(changed[:, :, frame + 1 :])
        with torch.no_grad():
            before, after = network(features), network(changed)
        assert torch.allclose(before[..., : frame + 1], after[..., : frame + 1], atol=1e-5)
        assert not torch.allclose(before[..., frame + 1 :], after[..., frame + 1 :], atol=1e-5)


@pytest.mark.parametrize("block", [1, 3, 4])
def test_a_causal_path_reaches_back_to_the_first_step(block):
    x = torch.randn(1, 2, 14, 8, requires_grad=True)
    RecurrentPath(8, 16, block, causal=True)(x)[0, 0, 13].sum().backward()
    assert (x.grad[0, 0, : 13 - 13 % block + 1].abs().sum(1) > 0).all()
    assert (x.grad[0, 1] == 0).all()


def test_causal_levels_are_those_of_the_frames_so_far():
    features = torch.randn(2, 66, 9)
    levels = level_and_phase(features, causal=True)
    for frames in (1, 4, 9):
        assert torch.allclose(levels[:, :, frames - 1], level_and_phase(features[..., :frames])[:, :, -1], atol=1e-4)


def test_factors_multiply_by_a_complex_mask():
    features, mask = torch.randn(2, 66, 50), torch.randn(1, 2, 33, 50, dtype=torch.complex64)
    product = _as_factors(mask.real, mask.imag, features)[0] * features
    wanted = mask[0] * torch.complex(*features.chunk(2, dim=1))
    error = product - torch.cat((wanted.real, wanted.imag), dim=1)
    assert error.square().sum() < 1e-2 * wanted.abs().square().sum()
    even = (features.chunk(2, dim=1)[0] / features.chunk(2, dim=1)[1]).abs().log().abs() < 1  # neither part is small
    assert error.chunk(2, dim=1)[0][even].abs().max() < 0.02


@pytest.mark.parametrize("factor", [1e-3, 30.0])
@pytest.mark.parametrize("causal", [False, True])
def test_masks_do_not_depend_on_loudness(factor, causal):
    network, features = small(causal=causal), torch.randn(2, 66, 20)
    with torch.no_grad():
        assert torch.allclose(network(factor * features), network(features), atol=1e-4)


@pytest.mark.parametrize("causal", [False, True])
def test_silence_gives_finite_masks_and_gradients(causal):
    network, features = small(causal=causal), torch.zeros(1, 66, 20, requires_grad=True)
    masks = network(features)
    masks.square().sum().backward()
    assert masks.isfinite().all() and features.grad.isfinite().all()
    assert all(p.grad.isfinite().all() for p in network.parameters())


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("num_spks", [1, 3])
def test_sources_start_with_the_polarity_of_the_mixture(seed, num_spks):
    torch.manual_seed(seed)
    encoder, decoder, mixture = SpectralEncoder(64, 32), SpectralDecoder(64, 32), torch.randn(1, 4000)
    features = encoder(mixture)
    for mask in small(num_spks=num_spks)(features):
        source = decoder(mask * features)[0, :4000]
        assert torch.nn.functional.cosine_similarity(source, mixture[0], dim=0) > 0.5


def test_fewer_runs_of_the_cell_give_the_masks_of_an_earlier_step():
    network, features = small(repeats=3), torch.randn(1, 66, 9)
    for adapter in network.adapters:
        torch.nn.init.normal_(adapter.linear.weight, std=0.1)
    with torch.no_grad():
        steps = network.steps(features)
        for effort, masks in enumerate(steps, start=1):
            network.effort = effort
            assert torch.equal(network(features), masks)
    assert len(steps) == 3 and not torch.allclose(steps[0], steps[1])


def test_effort_is_what_the_separator_can_do():
    modules = {"masknet": small(repeats=3)}
    set_effort(modules, 2)
    assert len(modules["masknet"].steps(torch.randn(1, 66, 9))) == 2
    for effort in (0, 4):
        with pytest.raises(UserError, match="from 1 .* to 3"):
            set_effort(modules, effort)
    with pytest.raises(UserError, match="does not work in steps"):
        set_effort({"masknet": torch.nn.Identity()}, 1)


def test_runs_of_the_cell_share_their_weights():
    one, five = (sum(p.numel() for p in small(repeats=r).parameters()) for r in (1, 5))
    assert five - one == 4 * (8 * 8 + 8)  # only the adapters are more


def test_cells_with_weights_of_their_own_take_turns():
    network, features = small(repeats=4, cells=2), torch.randn(1, 66, 9)
    one = sum(p.numel() for p in small(repeats=4).layers.parameters())
    assert sum(p.numel() for p in network.layers.parameters()) == 2 * one
    with torch.no_grad():
        steps = network.steps(features)
        network.layers[1]["time"].linear.weight.zero_()  # of the second cell
        changed = network.steps(features)
    assert [torch.equal(a, b) for a, b in zip(steps, changed)] == [True, False, False, False]
    with pytest.raises(ValueError, match="cells must be from 1 to repeats, 2, not 3"):
        small(repeats=2, cells=3)


def test_bands_that_do_not_fit_are_named():
    with pytest.raises(ValueError, match="cover 32 frequencies, not 33"):
        BandSplitNet(33, bands=[[8, 2], [24, 6]])
    with pytest.raises(ValueError, match="multiples of their widths"):
        BandSplitNet(33, bands=[[9, 2], [24, 6]])


@pytest.mark.parametrize("causal", [False, True])
def test_the_exported_network_takes_any_length(causal):
    """Regression: the exporter took the example's number of frames for that of every signal."""
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    network, file = small(causal=causal, repeats=2), io.BytesIO()
    axes = {"features": {0: "batch", 2: "frames"}}
    torch.onnx.export(
        network, (torch.randn(1, 66, 21),), file, dynamo=False, input_names=["features"], dynamic_axes=axes
    )
    session = onnxruntime.InferenceSession(file.getvalue())
    for shape in ((1, 66, 21), (2, 66, 40), (1, 66, 2)):
        features = torch.randn(*shape)
        (masks,) = session.run(None, {"features": features.numpy()})
        with torch.no_grad():
            assert torch.allclose(torch.from_numpy(masks), network(features), atol=1e-4)
