"""The scale of separated signals against their mixture."""

import numpy as np
import pytest

from unified_sess.inference.scale import MixtureScale


@pytest.fixture
def signals():
    """A mixture `[time]` and sources `[time, 3]` that resemble it at another loudness."""
    generator = np.random.default_rng(0)
    sources = generator.standard_normal((1000, 3)).astype("f4")
    return 7 * sources.sum(1) + generator.standard_normal(1000).astype("f4"), sources


def test_factor_is_the_least_squares_solution(signals):
    mixture, sources = signals
    scale = MixtureScale()
    scale.add(mixture, sources)
    expected = np.linalg.lstsq(sources.sum(1, dtype=float)[:, None], mixture.astype(float), rcond=None)[0].item()
    assert scale.factors == pytest.approx(3 * [expected], rel=1e-6)


def test_blocks_give_the_factor_of_the_whole(signals):
    mixture, sources = signals
    whole, blocks = MixtureScale(), MixtureScale()
    whole.add(mixture, sources)
    for start in range(0, 1000, 77):
        blocks.add(mixture[start : start + 77], sources[start : start + 77])
    assert blocks.factors == pytest.approx(whole.factors, rel=1e-6)


@pytest.mark.parametrize("gain", [1e-6, 3.0, 1e6])
def test_loudness_of_the_network_does_not_matter(signals, gain):
    mixture, sources = signals
    scales = MixtureScale(), MixtureScale()
    scales[0].add(mixture, sources)
    scales[1].add(mixture, sources * np.float32(gain))
    assert scales[1].factors * gain == pytest.approx(scales[0].factors, rel=1e-4)


@pytest.mark.parametrize("silent", ["mixture", "sources", "both", "nothing added"])
def test_silence_keeps_the_scale(silent):
    scale = MixtureScale()
    if silent != "nothing added":
        scale.add(np.full(9, silent == "sources", np.float32), np.full((9, 2), silent == "mixture", np.float32))
    assert np.all(scale.factors == 1.0)


def test_a_source_of_the_wrong_polarity_is_turned_over(signals):
    mixture, sources = signals
    scales = MixtureScale(), MixtureScale()
    scales[0].add(mixture, sources)
    scales[1].add(mixture, sources * np.float32([1, -1, 1]))
    assert scales[1].factors == pytest.approx(scales[0].factors * [1, -1, 1], rel=1e-6)
