"""Fine-tuning: strict weights, an enhancer that starts as an identity, one line for what does not fit."""

import pytest
import torch
from hyperpyyaml import load_hyperpyyaml
from speechbrain.inference.separation import SepformerSeparation
from speechbrain.lobes.models import conv_tasnet

from tests.model_io.results import make_results, trees
from tests.networks import random_batch, tiny_modules
from unified_sess.inference import UnifiedSeparation
from unified_sess.model_io.export import export
from unified_sess.model_io.module_tree import build
from unified_sess.network import SHARED_MODULES, NoEnhancer, separate
from unified_sess.nnet.conv_tasnet import MaskNet
from unified_sess.training.pretrained import load_pretrained, start_as_identity
from unified_sess.training.utterance_losses import utterance_losses
from unified_sess.utils.errors import UserError

SEPFORMER = """
sample_rate: 8000
num_spks: 2
encoder: !new:speechbrain.lobes.models.dual_path.Encoder {kernel_size: 16, out_channels: 8}
intra: !new:speechbrain.lobes.models.dual_path.SBTransformerBlock
    {num_layers: 1, d_model: 8, nhead: 2, d_ffn: 16, dropout: 0, use_positional_encoding: True, norm_before: True}
inter: !new:speechbrain.lobes.models.dual_path.SBTransformerBlock
    {num_layers: 1, d_model: 8, nhead: 2, d_ffn: 16, dropout: 0, use_positional_encoding: True, norm_before: True}
masknet: !new:speechbrain.lobes.models.dual_path.Dual_Path_Model
    num_spks: 2
    in_channels: 8
    out_channels: 8
    num_layers: 1
    K: 20
    intra_model: !ref <intra>
    inter_model: !ref <inter>
    norm: ln
    linear_layer_after_inter_intra: False
    skip_around_intra: True
decoder: !new:speechbrain.lobes.models.dual_path.Decoder
    {in_channels: 8, out_channels: 1, kernel_size: 16, stride: 8, bias: False}
modules:
    encoder: !ref <encoder>
    masknet: !ref <masknet>
    decoder: !ref <decoder>
num_spks_out: 2
pretrainer: !new:speechbrain.utils.parameter_transfer.Pretrainer
    loadables:
        encoder: !ref <encoder>
        masknet: !ref <masknet>
        decoder: !ref <decoder>
"""


@pytest.fixture
def folder(tmp_path):
    """A model folder as SpeechBrain's hub has them, made from SpeechBrain's own classes."""
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "hyperparams.yaml").write_text(SEPFORMER, encoding="utf-8")
    (folder / "config.json").write_text('{"speechbrain_interface": "SepformerSeparation"}', encoding="utf-8")
    for name, module in load_hyperpyyaml(SEPFORMER)["modules"].items():
        torch.save(module.state_dict(), folder / f"{name}.ckpt")
    return folder


def test_before_the_first_step_the_network_gives_what_the_source_model_gives(folder, tmp_path):
    modules = tiny_modules("sepformer").eval()
    load_pretrained(modules, str(folder), 8000)
    stock = SepformerSeparation.from_hparams(source=str(folder), savedir=str(tmp_path / "cache"))
    mixture = torch.randn(2, 900)
    torch.testing.assert_close(separate(modules, mixture).sources, stock.separate_batch(mixture), atol=1e-4, rtol=1e-4)


def test_a_separator_exported_here_starts_as_one_of_speechbrains(folder):
    """Its enhancer has no weights, which is not the enhancer of another network."""
    mixture, modules = torch.randn(1, 900), tiny_modules("sepformer")
    load_pretrained(modules, str(folder), 8000)
    expected = separate(modules, mixture).sources
    torch.save(NoEnhancer().state_dict(), folder / "enhancer.ckpt")
    modules = tiny_modules("sepformer")
    load_pretrained(modules, str(folder), 8000)
    torch.testing.assert_close(separate(modules, mixture).sources, expected)


@pytest.mark.parametrize("unified", [False, True])
def test_a_hub_id_is_read_as_a_folder_is(folder, unified, monkeypatch, tmp_path):
    """Regression: the YAML file of a hub id was executed, though that of a folder with the same files never was.

    A unified model of the hub gives its own enhancer and its masknet alone, not the composite of both.
    """
    source, modules = tiny_modules("sepformer"), tiny_modules("sepformer")
    if unified:
        for name, module in source.items():
            torch.save(module.state_dict(), folder / f"{name}.ckpt")
    else:
        load_pretrained(source, str(folder), 8000)
    (folder / "hyperparams.yaml").write_text(f"sample_rate: 8000\na: !apply:os.mkdir ['{tmp_path / 'executed'}']\n")

    def download(repo_id, allow_patterns, **_):
        assert repo_id == "someone/some-model" and {"hyperparams.yaml", "enhancer.ckpt"} <= set(allow_patterns)
        assert not [name for name in allow_patterns if name.endswith(".py")]
        return folder

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    load_pretrained(modules, "someone/some-model", 8000)
    mixture = torch.randn(1, 900)
    torch.testing.assert_close(separate(modules, mixture).sources, separate(source, mixture).sources)
    with pytest.raises(UserError, match="works at 8000 Hz"):
        load_pretrained(modules, "someone/some-model", 16000)
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("stock", [False, True])
def test_a_softmax_enhancer_is_no_identity(stock):
    """Regression: its mask is 1 / channels at every frequency, and training went on behind it."""
    kind = conv_tasnet.MaskNet if stock else MaskNet
    enhancer = kind(8, 8, 16, 3, 2, 1, 1, mask_nonlinear="softmax")
    with pytest.raises(UserError, match=r"cannot start as an identity \(it is 0\.125 instead of 1\).*relu"):
        start_as_identity(enhancer)


@pytest.mark.parametrize("backbone", ["convtasnet", "dprnn", "sepformer", "stock convtasnet"])
def test_an_enhancer_starts_as_an_identity_and_learns(backbone):
    stock = backbone == "stock convtasnet"
    modules = tiny_modules("convtasnet" if stock else backbone)
    if stock:
        modules["enhancer"] = conv_tasnet.MaskNet(8, 8, 16, 3, 2, 1, 1, "gLN", False, "relu")
    start_as_identity(modules["enhancer"])
    features = torch.randn(2, 8, 60).relu()
    torch.testing.assert_close(modules["enhancer"](features), torch.ones(1, 2, 8, 60))

    optimizer = torch.optim.SGD(modules.parameters(), lr=1e-4)
    batch = random_batch([500, 500])
    before = {n: p.detach().clone() for n, p in modules["enhancer"].named_parameters()}
    for _ in range(3):
        optimizer.zero_grad()
        losses = utterance_losses(modules, batch)
        (losses.separation + losses.enhancement).sum().backward()
        optimizer.step()
    still = [n for n, p in modules["enhancer"].named_parameters() if torch.equal(before[n], p)]
    assert not still


def test_the_best_checkpoint_of_a_training_is_taken(tmp_path):
    trained = make_results(tmp_path / "results", "none")
    modules = {name: build(tree, name) for name, tree in trees("convtasnet").items()}
    load_pretrained(modules, str(tmp_path / "results"), 8000)
    mixture = torch.randn(1, 900)
    torch.testing.assert_close(separate(modules, mixture).sources, separate(trained, mixture).sources)
    with pytest.raises(UserError, match="works at 8000 Hz"):
        load_pretrained(modules, str(tmp_path / "results"), 16000)


@pytest.mark.parametrize("from_the_hub", [False, True])
def test_a_model_that_executes_nothing_is_taken(tmp_path, monkeypatch, from_the_hub):
    """Regression: of what `export --plain` writes, only `config.json` and `model.safetensors`, nothing was read."""
    make_results(tmp_path / "results", "none")
    folder = tmp_path / "model"
    export(tmp_path / "results", folder, plain=True)
    source = str(folder)
    if from_the_hub:
        source = "someone/some-model"
        monkeypatch.setattr("huggingface_hub.snapshot_download", lambda repo_id, **_: folder)
    modules = {name: build(tree, name) for name, tree in trees("convtasnet").items()}
    load_pretrained(modules, source, 8000)
    mixture, expected = torch.randn(1, 900), UnifiedSeparation.from_pretrained(folder, device="cpu")
    torch.testing.assert_close(separate(modules, mixture).sources, expected.separate_batch(mixture))
    with pytest.raises(UserError, match="works at 8000 Hz"):
        load_pretrained(modules, source, 16000)


@pytest.mark.parametrize(
    ("backbone", "layer"),
    [("tfdprnn", "masks"), ("bandsplit", "masks.bands_out.0"), ("sepreformer", "outputs.2"), ("locoformer", "outputs")],
)
def test_an_enhancer_that_knows_how_starts_as_an_identity_and_learns(backbone, layer):
    tree = trees(backbone, channels=66)["enhancer"]
    enhancer = build(tree, backbone)
    start_as_identity(enhancer)
    features = torch.randn(2, 66, 10)
    assert torch.equal(enhancer(features), torch.ones(1, 2, 66, 10))
    enhancer(features).square().sum().backward()
    assert float(enhancer.get_submodule(layer).weight.grad.abs().max()) > 0


def test_our_own_checkpoints_bring_their_enhancer(tmp_path):
    source, target = tiny_modules("dprnn"), tiny_modules("dprnn")
    for name, module in source.items():
        torch.save(module.state_dict(), tmp_path / f"{name}.ckpt")
    load_pretrained(target, str(tmp_path), 8000)
    mixture = torch.randn(1, 700)
    torch.testing.assert_close(separate(target, mixture).sources, separate(source, mixture).sources)
    assert set(SHARED_MODULES) <= set(target)


def test_what_does_not_fit_is_one_line(folder):
    def line(says, backbone="sepformer", rate=8000, **options):
        with pytest.raises(UserError, match=says) as caught:
            load_pretrained(tiny_modules(backbone, **options), str(folder), rate)
        assert "\n" not in str(caught.value)

    line("works at 8000 Hz but sample_rate is 16000", rate=16000)
    line("masknet (lacks|has unexpected) weights .*--network", backbone="dprnn")
    shapes = r"\[16, 8, 1, 1\] where the network has \[24, 8, 1, 1\]"
    line(rf"masknet: weights 'conv2d\.weight' have the shape {shapes}: .*num_spks", num_spks=3)
    line(r"encoder: weights 'conv1d\.weight' have the shape", channels=16)
    data = (folder / "masknet.ckpt").read_bytes()
    (folder / "masknet.ckpt").write_bytes(data[: len(data) // 2])
    line("masknet.ckpt is corrupt")
    torch.save({"masknet": {"weight": torch.zeros(1)}}, folder / "masknet.ckpt")
    line("masknet.ckpt holds no weights")
    (folder / "masknet.ckpt").unlink()
    line("masknet.ckpt is missing")
