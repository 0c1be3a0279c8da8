"""Small networks and data that several tests use."""

import torch
from speechbrain.lobes.models import dual_path
from speechbrain.utils.epoch_loop import EpochCounter
from torch import nn

from unified_sess.data.batches import Batch
from unified_sess.gradient_modulation import GradientModulation
from unified_sess.nnet.conv_tasnet import MaskNet


def tiny_modules(backbone="convtasnet", num_spks=2, channels=8):
    """A unified network of a few thousand parameters."""
    make = {"convtasnet": _convtasnet, "dprnn": _dprnn, "sepformer": _sepformer}[backbone]
    return nn.ModuleDict(
        {
            "encoder": dual_path.Encoder(kernel_size=16, out_channels=channels),
            "enhancer": make(channels, 1),
            "masknet": make(channels, num_spks),
            "decoder": dual_path.Decoder(channels, 1, kernel_size=16, stride=8, bias=False),
        }
    )


def _convtasnet(channels, num_spks):
    return MaskNet(channels, 8, 16, 3, 2, 1, num_spks)


def _dprnn(channels, num_spks):
    blocks = [dual_path.SBRNNBlock(channels, 8, 1, "LSTM", bidirectional=True) for _ in range(2)]
    return dual_path.Dual_Path_Model(
        channels,
        channels,
        blocks[0],
        blocks[1],
        num_layers=1,
        norm="ln",
        K=20,
        num_spks=num_spks,
        skip_around_intra=True,
        linear_layer_after_inter_intra=True,
    )


def _sepformer(channels, num_spks):
    blocks = [
        dual_path.SBTransformerBlock(
            1, channels, 2, d_ffn=16, dropout=0, use_positional_encoding=True, norm_before=True
        )
        for _ in range(2)
    ]
    return dual_path.Dual_Path_Model(
        channels,
        channels,
        blocks[0],
        blocks[1],
        num_layers=1,
        norm="ln",
        K=20,
        num_spks=num_spks,
        skip_around_intra=True,
        linear_layer_after_inter_intra=False,
    )


def random_batch(lengths, num_spks=2, seed=0):
    """A `Batch` of noise-like sources with zeros behind the end of shorter utterances."""
    generator = torch.Generator().manual_seed(seed)
    sources = torch.zeros(len(lengths), max(lengths), num_spks)
    noise = torch.zeros(len(lengths), max(lengths))
    for row, length in enumerate(lengths):
        sources[row, :length] = 0.1 * torch.randn(length, num_spks, generator=generator)
        noise[row, :length] = 0.03 * torch.randn(length, generator=generator)
    clean = sources.sum(-1)
    ids = [f"u{row}" for row in range(len(lengths))]
    return Batch(ids, clean + noise, clean, sources, torch.tensor(lengths))


def brain_settings(rule="gm", cuda_graphs=False, training_signal_len=4, **losses):
    """Settings of an experiment that a `UnifiedBrain` wants to take steps."""
    return {
        "modulation": GradientModulation(rule),
        "enhancement_weight": 0.5,
        "threshold": None,
        "gradient_statistics": False,
        "detach_clean_features": False,
        "lr": 1e-3,
        "lr_factors": {},
        "freeze": [],
        "cuda_graphs": cuda_graphs,
        "training_signal_len": training_signal_len,
        "epoch_counter": EpochCounter(1),
    } | losses
