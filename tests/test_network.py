"""The one forward path: shapes, lengths, short signals."""

import copy

import pytest
import torch

from tests.networks import random_batch, tiny_modules
from unified_sess.model_io.composite import CompositeMaskNet
from unified_sess.network import NoEnhancer, UnifiedNetwork, count_speakers, decode, separate
from unified_sess.training.utterance_losses import utterance_losses

BACKBONES = ["convtasnet", "dprnn", "sepformer"]


@pytest.mark.parametrize("backbone", BACKBONES)
def test_a_batch_of_different_lengths_gives_each_utterance_alone(backbone):
    modules = tiny_modules(backbone).eval()
    batch = random_batch([700, 523, 700, 260])
    together = utterance_losses(modules, batch)
    for row, length in enumerate(batch.lengths.tolist()):
        alone = utterance_losses(modules, random_rows(batch, row, length))
        torch.testing.assert_close(together.sources[row, :length], alone.sources[0], atol=1e-5, rtol=1e-5)
        assert not together.sources[row, length:].any()
        torch.testing.assert_close(together.separation[row], alone.separation[0], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(together.enhancement[row], alone.enhancement[0], atol=1e-5, rtol=1e-5)


def random_rows(batch, row, length):
    return batch._replace(
        ids=[batch.ids[row]],
        mixture=batch.mixture[row : row + 1, :length],
        clean=batch.clean[row : row + 1, :length],
        sources=batch.sources[row : row + 1, :length],
        lengths=batch.lengths[row : row + 1],
    )


@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("length", [1, 7, 15, 16, 17, 100, 333])
def test_any_length_from_one_sample(backbone, length):
    network = UnifiedNetwork(tiny_modules(backbone)).eval()
    mixture = torch.randn(2, length)
    assert network.separate_batch(mixture).shape == (2, length, 2)
    assert network.enhance_batch(mixture).shape == (2, length)
    assert network.separate_batch(mixture[:1]).shape == (1, length, 2)


def test_number_of_speakers_is_that_of_the_masknet():
    assert count_speakers(tiny_modules(num_spks=3)) == 3


def test_without_an_enhancer_the_features_pass_unchanged():
    modules = tiny_modules()
    modules["enhancer"] = NoEnhancer()
    mixture = torch.randn(1, 400)
    torch.testing.assert_close(separate(modules, mixture).features, modules["encoder"](mixture))


def test_batch_rows_do_not_influence_each_other():
    network = UnifiedNetwork(tiny_modules("sepformer")).eval()
    mixture = torch.randn(3, 500)
    torch.testing.assert_close(
        network.separate_batch(mixture)[1:2], network.separate_batch(mixture[1:2]), atol=1e-5, rtol=1e-5
    )


class Mapped(torch.nn.Module):
    """Gives the features of two sources itself, and learns from every batch that it hears."""

    maps = True

    def __init__(self):
        super().__init__()
        self.norm = torch.nn.BatchNorm1d(8)

    def forward(self, features):
        return torch.stack((self.norm(features), 1 - features))


def test_a_network_that_maps_gives_features_and_one_that_masks_factors():
    modules, mixture = tiny_modules(), torch.randn(2, 300)
    modules["masknet"] = Mapped().eval()
    output = separate(modules, mixture)
    for maps in (True, False):
        modules["masknet"].maps = maps
        sources = separate(modules, mixture).sources
        for k, given in enumerate(modules["masknet"](output.features)):
            wanted = given if maps else given * output.features
            torch.testing.assert_close(sources[..., k], decode(modules, wanted, 300))


def test_counting_speakers_teaches_the_network_nothing():
    """Regression: silence went into the running statistics of a batch norm before every training."""
    modules = tiny_modules()
    modules["masknet"] = Mapped()
    before = copy.deepcopy(modules["masknet"].state_dict())
    assert count_speakers(modules) == 2 and modules["masknet"].norm.training
    torch.testing.assert_close(modules["masknet"].state_dict(), before)


def test_a_composite_masks_what_a_mapping_network_gives():
    modules = tiny_modules()
    features, composite = torch.rand(2, 8, 9), CompositeMaskNet(modules["enhancer"], Mapped().eval())
    features[0, 3] = 0
    masks = composite(features)
    wanted = composite.masknet(features * modules["enhancer"](features)[0])
    assert masks.isfinite().all()
    torch.testing.assert_close((masks * features)[:, 1], wanted[:, 1])
