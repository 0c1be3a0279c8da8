"""Results folders as a training leaves them, with small random networks."""

import yaml
from speechbrain.utils.epoch_loop import EpochCounter

from tests.networks import tiny_modules
from unified_sess.model_io.module_tree import TreeDumper, as_yaml, build
from unified_sess.training.checkpoints import AtomicCheckpointer

LOBES = "speechbrain.lobes.models.dual_path"


def node(name, **arguments):
    """A tree of `module_tree`."""
    return {"class": name, "args": arguments}


def trees(backbone, num_spks=2, channels=8):
    """Trees of a network like that of `tests.networks.tiny_modules`, or of one that SpeechBrain does not have."""
    if backbone in ("tfdprnn", "wide", "bandsplit", "locoformer"):
        return _spectral(backbone, num_spks)
    if backbone == "sepreformer":
        return _sepreformer(channels, num_spks)
    make = {"convtasnet": _convtasnet, "dprnn": _dprnn, "sepformer": _sepformer, "none": _convtasnet}[backbone]
    enhancer = node("unified_sess.network.NoEnhancer") if backbone == "none" else make(channels, 1)
    return {
        "encoder": node(f"{LOBES}.Encoder", kernel_size=16, out_channels=channels),
        "enhancer": enhancer,
        "masknet": make(channels, num_spks),
        "decoder": node(f"{LOBES}.Decoder", in_channels=channels, out_channels=1, kernel_size=16, stride=8, bias=False),
    }


def _convtasnet(channels, num_spks):
    return node("unified_sess.nnet.conv_tasnet.MaskNet", N=channels, B=8, H=16, P=3, X=2, R=1, C=num_spks)


def _dual_path(channels, num_spks, block, linear):
    return node(
        "unified_sess.nnet.dual_path.Dual_Path_Model", in_channels=channels, out_channels=channels, num_layers=1,
        K=20, norm="ln", num_spks=num_spks, skip_around_intra=True, linear_layer_after_inter_intra=linear,
        intra_model=block, inter_model=block,
    )  # fmt: skip


def _dprnn(channels, num_spks):
    block = node("unified_sess.nnet.dual_path.SBRNNBlock", input_size=channels, hidden_channels=8, num_layers=1)
    return _dual_path(channels, num_spks, block, True)


def _sepformer(channels, num_spks):
    block = node(
        "unified_sess.nnet.dual_path.SBTransformerBlock", num_layers=1, d_model=channels, nhead=2, d_ffn=16, dropout=0,
        use_positional_encoding=True, norm_before=True, activation_checkpointing=True,
    )  # fmt: skip
    return _dual_path(channels, num_spks, block, False)


def _sepreformer(channels, num_spks):
    net = "unified_sess.nnet.sepreformer"
    more = {"in_channels": channels, "channels": 8, "stages": 2, "encoder_blocks": 1, "decoder_blocks": 1, "nhead": 2}
    more |= {"kernel_size": 5, "max_distance": 20, "activation_checkpointing": True}
    return {
        "encoder": node(f"{net}.GeluEncoder", kernel_size=16, out_channels=channels, stride=8),
        "enhancer": node(f"{net}.SepReformer", num_spks=1, maps=False, step_outputs=False, **more),
        "masknet": node(f"{net}.SepReformer", num_spks=num_spks, **more),
        "decoder": node(f"{LOBES}.Decoder", in_channels=channels, out_channels=1, kernel_size=16, stride=8, bias=False),
    }


def _spectral(backbone, num_spks):
    kind = "unified_sess.nnet.time_frequency"
    net, more = f"{kind}.TimeFrequencyNet", {}
    if backbone == "wide":
        more = {"high_frequencies": 16, "high_pooling": 8}
    if backbone == "bandsplit":
        net, more = "unified_sess.nnet.band_split.BandSplitNet", {"bands": [[8, 2], [25, 5]], "frequency_hidden": 4}
    more = {"frequencies": 33, "channels": 4, "hidden": 4, "num_layers": 1, "block": 3, **more}
    enhancer = {}
    if backbone == "locoformer":
        net, enhancer = "unified_sess.nnet.locoformer.TFLocoformer", {"maps": False}
        more = {"channels": 8, "num_layers": 1, "hidden": 4, "kernel_size": 4, "width": 8, "nhead": 2, "groups": 2}
    return {
        "encoder": node(f"{kind}.SpectralEncoder", kernel_size=64, stride=32),
        "enhancer": node(net, num_spks=1, **enhancer, **more),
        "masknet": node(net, num_spks=num_spks, **more),
        "decoder": node(f"{kind}.SpectralDecoder", kernel_size=64, stride=32),
    }


def make_results(folder, backbone="convtasnet", num_spks=2, modules=None, content=None, si_snri=(5.0, 3.0)):
    """Write a results folder with one checkpoint for each SI-SNRi; the first has the weights of `modules`.

    Returns
    -------
    modules : torch.nn.ModuleDict
    """
    content = content or trees(backbone, num_spks)
    modules = modules or {name: build(tree, name) for name, tree in content.items()}
    folder.mkdir(parents=True)
    experiment = {"num_spks": num_spks, "sample_rate": 8000, "modules": as_yaml(content)}
    (folder / "hyperparams.yaml").write_text(yaml.dump(experiment, Dumper=TreeDumper))
    recoverables = {**modules, "counter": EpochCounter(1)}
    for number, value in enumerate(si_snri):
        if number:
            recoverables |= dict(tiny_modules(num_spks=num_spks).items())
        checkpointer = AtomicCheckpointer(folder / "save", recoverables)
        checkpointer.save_checkpoint({"si_snri": value, "epoch": number}, name=f"epoch{number}")
    return {name: module.eval() for name, module in modules.items()}
