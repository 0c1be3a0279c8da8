"""Network files build what they say; show-network counts it right."""

from pathlib import Path

import pytest
import torch

from unified_sess.model_io.show_network import (
    count_parameters,
    load_network,
    multiply_accumulates,
    receptive_field,
    show_network,
    training_memory,
)
from unified_sess.network import enhance, separate
from unified_sess.utils.errors import UserError

NETWORKS = sorted(path.stem for path in Path(__file__).resolve().parents[2].glob("hparams/networks/*.yaml"))
PUBLISHED = [  # millions of parameters with two speakers, with three, alone with two
    ("sepformer", 29.17, 29.24, 25.68),
    ("dprnn", 19.68, 19.75, 14.62),
    ("convtasnet", None, None, 5.1),
]


def build(repository, name, **overrides):
    return load_network(repository / "hparams" / "networks" / f"{name}.yaml", overrides)[0]


@pytest.mark.parametrize(("name", "two", "three", "alone"), PUBLISHED)
def test_published_sizes(repository, name, two, three, alone):
    modules = build(repository, name)
    total = count_parameters(modules.values()) / 1e6
    separator = total - count_parameters([modules["enhancer"]]) / 1e6
    assert round(separator, 1 if name == "convtasnet" else 2) == alone
    if two is not None:
        assert round(total, 2) == two
        assert round(count_parameters(build(repository, name, num_spks=3).values()) / 1e6, 2) == three


@pytest.mark.parametrize(
    ("name", "alone"),
    [
        ("sepreformer-t", 3.7),
        ("sepreformer-s", 4.5),
        ("sepreformer-b", 14.2),
        ("sepreformer-m", 17.3),
        ("tf-locoformer-s", 5.0),
        ("tf-locoformer-m", 15.0),
    ],
)
def test_sizes_of_those_that_map_are_the_published_ones_within_two_percent(repository, name, alone):
    """Counted as published: without the enhancer and without the output layers of losses at earlier stages."""
    modules = build(repository, name)
    parts = [modules["encoder"], modules["masknet"], modules["decoder"]]
    training_only = [modules["masknet"].step_outputs] if hasattr(modules["masknet"], "step_outputs") else []
    assert (count_parameters(parts) - count_parameters(training_only)) / 1e6 == pytest.approx(alone, rel=0.02)


@pytest.mark.parametrize("name", [name for name in NETWORKS if name.endswith("-small")])
def test_small_sizes_stay_small(repository, name):
    limit = (
        3e6 if name in ("tfdprnn-small", "tfdprnn-wide", "bandsplit-small") else 1e6
    )  # few frames a second: width is cheap
    assert count_parameters(build(repository, name).values()) < limit


@pytest.mark.parametrize("num_spks", [2, 3])
@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_separates_and_its_batch_stays_apart(repository, name, num_spks):
    modules = build(repository, name, num_spks=num_spks)
    for module in modules.values():
        module.eval()
    mixture = torch.randn(2, 801)
    with torch.no_grad():
        sources = separate(modules, mixture).sources
        alone = separate(modules, mixture[1:]).sources
    assert sources.shape == (2, 801, num_spks)
    assert sources.isfinite().all()
    torch.testing.assert_close(sources[1:], alone, rtol=1e-3, atol=1e-5)


def test_enhancer_gives_one_mask(repository):
    modules = build(repository, "convtasnet-small")
    assert enhance(modules, torch.randn(3, 1000)).shape[0] == 3


def test_work_of_a_transformer_and_of_an_lstm_is_counted(repository):
    """Against the formulas by hand: 4 s are 2000 frames of stride 16, 42 chunks of 100 frames."""
    frames = 42 * 100
    work = multiply_accumulates(build(repository, "sepformer-small"), 8000)
    layer = frames * (4 * 64**2 + 2 * 64 * 256) + 2 * frames * 100 * 64  # projections and attention within chunks
    assert 4 * work["masknet"] == pytest.approx(4 * layer, rel=0.1)
    work = multiply_accumulates(build(repository, "dprnn-small"), 8000)
    lstm = 2 * frames * 4 * 64 * (64 + 64) + frames * 128 * 64
    assert 4 * work["masknet"] == pytest.approx(4 * lstm, rel=0.1)


@pytest.mark.slow
def test_receptive_field_is_what_a_change_of_the_input_reaches(repository):
    """cLN, so that norms see a frame alone; a sample outside the field changes nothing, one inside does."""
    modules = build(repository, "convtasnet-small", norm_type="cLN", num_spks=2)
    samples = int(receptive_field(modules, 8000).split("(")[1].split()[0])
    modules = {name: module.double() for name, module in modules.items()}
    mixture = torch.randn(1, 16000, dtype=torch.float64, requires_grad=True)
    reach = torch.zeros(16000, dtype=torch.bool)
    for at in range(8000, 8016):
        output = separate(modules, mixture).sources[0, at].sum()
        reach |= torch.autograd.grad(output, mixture)[0][0] != 0
    seen = reach.nonzero()
    extent = int(seen.max() - seen.min()) + 1
    assert samples - 32 <= extent <= samples + 32


@pytest.mark.parametrize("name", ["sepformer-small", "sepreformer-small", "tf-locoformer-small"])
def test_memory_shrinks_with_checkpointing(repository, name):
    plain = training_memory(build(repository, name), 8000)
    saved = training_memory(build(repository, name, activation_checkpointing=True), 8000)
    assert saved[0] == plain[0]
    assert saved[1] < plain[1]


def test_show_network_prints_every_module(repository, capsys):
    show_network(repository / "hparams" / "networks" / "convtasnet-small.yaml", {"num_spks": 3})
    text = capsys.readouterr().out
    for word in ("encoder", "enhancer", "masknet", "decoder", "total", "receptive field", "training step"):
        assert word in text


@pytest.mark.parametrize(
    ("text", "word"),
    [
        (None, "cannot read"),
        ("encoder: [", "not valid YAML"),
        ("encoder: !new:no.such.Thing", "cannot be built"),
        ("num_spks: 2", "encoder"),
        ("", "encoder"),
    ],
)
def test_bad_files_are_one_line_naming_the_file(tmp_path, text, word):
    path = tmp_path / "network.yaml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(UserError, match=word) as caught:
        show_network(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "wait"),
    [("tfdprnn-small", 256), ("tfdprnn-laptop", 512), ("tfdprnn-wide", 512 + 256), ("bandsplit-small", 512)],
)
def test_a_causal_network_needs_no_more_than_its_frames(repository, name, wait):
    """Samples of a frame; dereverberation in front may add a stride."""
    torch.manual_seed(0)
    mixture, sample = torch.randn(1, 12000), 7000
    changed = mixture.clone()
    changed[:, sample:] = torch.randn_like(changed[:, sample:])
    for causal in (True, False):
        modules = build(repository, name, causal=causal, hidden=16)
        with torch.no_grad():
            before, after = (separate(modules, x).sources[:, : sample - wait] for x in (mixture, changed))
        assert torch.allclose(before, after, atol=1e-4) == causal
