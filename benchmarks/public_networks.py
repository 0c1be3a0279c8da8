"""The authors' own SepReformer and TF-Locoformer as separators, from checkouts beside this repository.

Nothing of theirs is here: `networks.py --public FOLDER` imports what FOLDER holds, `git clone` of
https://github.com/dmlguq456/SepReformer and https://github.com/merlresearch/tf-locoformer, with their packages
(`pip install loguru rotary-embedding-torch==0.6.1`). ESPnet, from which TF-Locoformer takes a base class and a way to
make complex numbers, is not needed.
"""

import importlib.util
import sys
import types
from pathlib import Path

import torch
import yaml
from torch import nn

from unified_sess.nnet.locoformer import TFLocoformer
from unified_sess.nnet.sepreformer import SepReformer

SEPREFORMER = "models/SepReformer_Base_WSJ0"
LOCOFORMER = "espnet2/enh/separator/tflocoformer_separator.py"


def public_separator(ours: nn.Module, folder: Path, settings: dict) -> nn.Module:
    """The public code's separator of the size of ours, with the same interface.

    Arguments
    ---------
    ours : torch.nn.Module
        A `SepReformer` or `TFLocoformer`.
    folder : Path
        Holds the checkouts `SepReformer` and `tf-locoformer`.
    settings : dict
        Of the network's file.
    """
    if isinstance(ours, SepReformer):
        return PublicSepReformer(folder / "SepReformer", settings)
    if isinstance(ours, TFLocoformer):
        return PublicLocoformer(folder / "tf-locoformer", settings)
    raise SystemExit(f"--public knows SepReformer and TF-Locoformer, not {type(ours).__name__}")


class PublicSepReformer(nn.Module):
    """Its projection, separator and output layers between our encoder and decoder."""

    maps = True

    def __init__(self, checkout: Path, settings: dict) -> None:
        super().__init__()
        sys.path.insert(0, str(checkout))
        from loguru import logger

        logger.remove()
        from models.SepReformer_Base_WSJ0.model import Model

        sys.path.pop(0)
        config = yaml.safe_load((checkout / SEPREFORMER / "configs.yaml").read_text())["config"]["model"]
        wide = config["module_feature_projector"]["out_channels"]
        config = _resized(config, wide, settings["channels"])
        config["num_stages"] = config["module_separator"]["num_stages"] = settings["stages"]
        self.model = Model(**config)
        for unused in ("audio_encoder", "audio_decoder", "decoder_bn"):
            delattr(self.model, unused)

    def steps(self, features: torch.Tensor) -> list[torch.Tensor]:
        """As of ours; their code makes all of them whenever it is called."""
        last, stages = self.model.separator(self.model.feature_projector(features))
        layers = zip(self.model.out_layer_bn, stages)
        frames = features.shape[2]
        earlier = [layer(nn.functional.interpolate(x, frames), features) for layer, x in layers]
        return [*earlier, self.model.out_layer(last, features)]

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """As of ours."""
        return self.steps(features)[-1]


def _resized(config, wide, channels):
    """The configuration with other channels in the separator."""
    if isinstance(config, dict):
        return {key: _resized(value, wide, channels) for key, value in config.items()}
    return channels if config == wide and type(config) is int else config


class PublicLocoformer(nn.Module):
    """Its separator, which takes complex spectra, between our encoder and decoder."""

    maps = True

    def __init__(self, checkout: Path, settings: dict) -> None:
        super().__init__()
        for name in ("layers.complex_utils", "separator.abs_separator"):
            for depth in range(1, 5):
                part = ".".join(f"espnet2.enh.{name}".split(".")[:depth])
                sys.modules.setdefault(part, types.ModuleType(part))
        sys.modules["espnet2.enh.separator.abs_separator"].AbsSeparator = nn.Module
        sys.modules["espnet2.enh.layers.complex_utils"].new_complex_like = lambda _, parts: torch.complex(*parts)
        spec = importlib.util.spec_from_file_location("tflocoformer_separator", checkout / LOCOFORMER)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        self.network = module.TFLocoformerSeparator(
            None,
            n_layers=settings["num_layers"],
            emb_dim=settings["channels"],
            norm_type="rmsgroupnorm",
            num_groups=settings["groups"],
            n_heads=settings["heads"],
            attention_dim=settings["width"],
            ffn_type=["swiglu_conv1d"] * 2,
            ffn_hidden_dim=[settings["hidden"]] * 2,
            conv1d_kernel=settings["conv_size"],
        )

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """As of ours."""
        spectrum = torch.complex(*features.float().chunk(2, dim=1)).transpose(1, 2)
        sources, _, _ = self.network(spectrum, None)
        sources = torch.stack(sources).transpose(2, 3)
        return torch.cat((sources.real, sources.imag), dim=2)
