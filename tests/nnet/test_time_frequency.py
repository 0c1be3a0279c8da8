"""The network on a spectrogram: exact inverse, independence of loudness and of the batch."""

import pytest
import torch

from unified_sess.nnet.time_frequency import SpectralDecoder, SpectralEncoder, TimeFrequencyNet


@pytest.mark.parametrize(("kernel_size", "stride"), [(256, 128), (256, 64), (64, 16), (8, 4)])
@pytest.mark.parametrize("length", [8, 255, 256, 1000, 8001])
def test_the_decoder_starts_as_the_inverse_of_the_encoder(kernel_size, stride, length):
    signal = torch.randn(2, length)
    decoded = SpectralDecoder(kernel_size, stride)(SpectralEncoder(kernel_size, stride)(signal))
    assert 0 <= decoded.shape[1] - length
    assert torch.allclose(decoded[:, :length], signal, atol=1e-5)


def test_the_encoder_starts_as_a_fourier_transform():
    signal = torch.randn(1, 1024, dtype=torch.float64)
    features = SpectralEncoder(256, 128).double()(signal)
    window = torch.hann_window(256, dtype=torch.float64).sqrt()
    padded = torch.nn.functional.pad(signal, (128, 128))
    spectrum = torch.stft(padded, 256, 128, 256, window, center=False, return_complex=True) / 16
    assert torch.allclose(features, torch.cat((spectrum.real, spectrum.imag), dim=1), atol=1e-6)


def test_a_wave_is_where_its_frequency_is():
    wave = torch.sin(2 * torch.pi * 1000 * torch.arange(8000) / 8000).unsqueeze(0)
    real, imaginary = SpectralEncoder(256, 128)(wave).chunk(2, dim=1)
    assert int((real**2 + imaginary**2).mean(2).argmax()) == 1000 * 256 // 8000


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("num_spks", [1, 3])
def test_sources_start_with_the_polarity_of_the_mixture(seed, num_spks):
    """Regression: SI-SNR is blind to it, so a source that started opposed stayed so through a whole training."""
    torch.manual_seed(seed)
    encoder, decoder = SpectralEncoder(256, 128), SpectralDecoder(256, 128)
    mixture = torch.randn(1, 4000)
    features = encoder(mixture)
    for mask in TimeFrequencyNet(num_layers=1, num_spks=num_spks, pooling=2)(features):
        source = decoder(mask * features)[0, :4000]
        assert torch.nn.functional.cosine_similarity(source, mixture[0], dim=0) > 0.5


@pytest.mark.parametrize("factor", [1e-3, 30.0])
@pytest.mark.parametrize("causal", [False, True])
def test_masks_do_not_depend_on_loudness(factor, causal):
    network, features = TimeFrequencyNet(channels=8, hidden=8, num_layers=1, causal=causal), torch.randn(2, 258, 20)
    with torch.no_grad():
        assert torch.allclose(network(factor * features), network(features), atol=1e-5)


def test_silence_gives_finite_masks_and_gradients():
    network, features = (
        TimeFrequencyNet(channels=8, hidden=8, num_layers=1),
        torch.zeros(1, 258, 20, requires_grad=True),
    )
    masks = network(features)
    masks.square().sum().backward()
    assert masks.isfinite().all() and features.grad.isfinite().all()


@pytest.mark.parametrize("num_spks", [1, 2, 3])
@pytest.mark.parametrize("pooling", [1, 2, 4])
@pytest.mark.parametrize("block", [1, 2, 4, 16])
@pytest.mark.parametrize("causal", [False, True])
def test_shapes(num_spks, pooling, block, causal):
    size = {"channels": 8, "hidden": 4, "num_layers": 1, "pooling": pooling, "block": block}
    network = TimeFrequencyNet(33, num_spks=num_spks, **size, causal=causal)
    assert network(torch.randn(2, 66, 7)).shape == (num_spks, 2, 66, 7)


@pytest.mark.parametrize("block", [1, 4])
@pytest.mark.parametrize("pooling", [1, 2, 4, 8])
@pytest.mark.parametrize("high", [0, 16])
def test_every_frequency_is_heard_and_gets_a_mask(pooling, block, high):
    size = {"channels": 8, "hidden": 4, "num_layers": 1, "pooling": pooling, "block": block}
    network = TimeFrequencyNet(33 + high, **size, high_frequencies=high, high_pooling=8)
    features = torch.randn(1, 2 * (33 + high), 7, requires_grad=True)
    masks = network(features)
    assert (masks[0, 0].std(1) > 0).all()  # a frequency without a path would have a constant mask
    masks.square().sum().backward()
    assert (features.grad[0].abs().sum(1) > 0).all()


@pytest.mark.parametrize("block", [1, 4])
@pytest.mark.parametrize("high", [0, 16])
def test_a_causal_network_sees_no_future(block, high):
    size = {"channels": 8, "hidden": 8, "num_layers": 2, "block": block, "high_frequencies": high, "high_pooling": 8}
    networks = [TimeFrequencyNet(33 + high, **size, causal=causal).eval() for causal in (True, False)]
    features = torch.randn(1, 2 * (33 + high), 23)
    for frame in (0, 1, 12, 21):
        changed = features.clone()
        changed[:, :, frame + 1 :] = 100 * torch.randn_like(changed[:, :, frame + 1 :])
        with torch.no_grad():
            pairs = [(network(features), network(changed)) for network in networks]
        same = [torch.allclose(a[..., : frame + 1], b[..., : frame + 1], atol=1e-5) for a, b in pairs]
        assert same == [True, False]
        assert not torch.allclose(pairs[0][0][..., frame + 1 :], pairs[0][1][..., frame + 1 :], atol=1e-5)


def test_a_causal_network_has_the_same_weights_but_for_one_direction_along_time():
    causal, both = (TimeFrequencyNet(33, num_layers=1, causal=causal).state_dict() for causal in (True, False))
    other = {name for name in both if name not in causal}
    assert other and all(".time.rnn." in f".{name}" and name.endswith("_reverse") for name in other)
    assert causal.keys() < both.keys()


@pytest.mark.parametrize("block", [1, 3, 8])
def test_every_point_of_a_block_knows_the_whole_grid(block):
    network = TimeFrequencyNet(33, channels=8, hidden=4, num_layers=1, block=block)
    features = torch.randn(1, 66, 11, requires_grad=True)
    network(features)[0, 0, 5, 10].backward()
    assert (
        features.grad[0].unflatten(0, (2, 33)).abs().sum((0, 1)) > 0
    ).all()  # all frames, the last block is not full


def test_sizes_that_do_not_fit_are_named():
    with pytest.raises(ValueError, match="multiple of the stride"):
        SpectralEncoder(256, 100)
    with pytest.raises(ValueError, match="multiple of pooling"):
        TimeFrequencyNet(33, pooling=5)
    with pytest.raises(ValueError, match="multiple of high_pooling"):
        TimeFrequencyNet(48, high_frequencies=15, high_pooling=8)


def test_high_frequencies_that_share_points_start_as_an_identity_too():
    network = TimeFrequencyNet(49, channels=8, hidden=4, num_layers=1, high_frequencies=16, high_pooling=8)
    network.start_as_identity()
    assert torch.equal(network(torch.randn(2, 98, 5)), torch.ones(2, 2, 98, 5))
