"""Separation with SpeechBrain alone, for a folder made by `unified-sess export`.

    from speechbrain.inference.interfaces import foreign_class
    model = foreign_class(source=FOLDER, pymodule_file="custom.py", classname="CustomInterface")
    sources = model.separate_batch(mixture)  # [batch, time] to [batch, time, speakers]

Where the package `unified_sess` is not installed, the names that `hyperparams.yaml` uses are given SpeechBrain's
classes with the same parameters; they give the same numbers, slower.
"""

import importlib.util
import sys
import types

import torch
from speechbrain.inference.interfaces import Pretrained
from speechbrain.lobes.models import conv_tasnet, dual_path, resepformer


class CustomInterface(Pretrained):
    """Enhances and separates mixtures at `hparams.sample_rate` Hz."""

    MODULES_NEEDED = ("encoder", "masknet", "decoder")

    @torch.no_grad()
    def separate_batch(self, mix: torch.Tensor) -> torch.Tensor:
        """Mixtures `[batch, time]` to sources `[batch, time, speakers]`."""
        sources = estimate(self.mods.masknet.masknet, self._enhance(mix))
        return torch.stack([self._decode(source, mix) for source in sources], dim=2)

    @torch.no_grad()
    def enhance_batch(self, mix: torch.Tensor) -> torch.Tensor:
        """Mixtures `[batch, time]` to enhanced mixtures `[batch, time]`."""
        if getattr(self.hparams, "enhanced_from", "enhancer") == "sources":
            return self.separate_batch(mix).sum(2)
        return self._decode(self._enhance(mix), mix)

    def forward(self, mix: torch.Tensor) -> torch.Tensor:
        """The same as `separate_batch`."""
        return self.separate_batch(mix)

    def _enhance(self, mix):
        kernel = self.mods.encoder.conv1d.kernel_size[0]
        features = self.mods.encoder(torch.nn.functional.pad(mix.to(self.device), (0, max(0, kernel - mix.shape[1]))))
        return estimate(self.mods.masknet.enhancer, features)[0]

    def _decode(self, features, mix):
        signal = self.mods.decoder(features).reshape(len(mix), -1)
        return torch.nn.functional.pad(signal, (0, mix.shape[1] - signal.shape[1]))


def estimate(network: torch.nn.Module, features: torch.Tensor) -> torch.Tensor:
    """The features that a network makes of others: masked, or where it `maps` what it gives."""
    output = network(features)
    return output if getattr(network, "maps", False) else features * output


class NoEnhancer(torch.nn.Module):
    """Lets every feature pass."""

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Returns a mask of ones."""
        return torch.ones_like(features).unsqueeze(0)


class CompositeMaskNet(torch.nn.Module):
    """Enhancer and separator in one."""

    def __init__(self, enhancer: torch.nn.Module, masknet: torch.nn.Module) -> None:
        super().__init__()
        self.enhancer, self.masknet = enhancer, masknet


class Separator(resepformer.ResourceEfficientSeparator):
    """Each utterance of a batch by itself: SpeechBrain's class mixes them."""

    def forward(self, inpt: torch.Tensor) -> torch.Tensor:
        """Returns masks `[speakers, batch, channels, frames]`."""
        return torch.cat([super(Separator, self).forward(x) for x in inpt.split(1)], dim=1)


STAND_INS: dict[str, dict] = {
    "unified_sess.network": {"NoEnhancer": NoEnhancer},
    "unified_sess.model_io.composite": {"CompositeMaskNet": CompositeMaskNet},
    "unified_sess.nnet.conv_tasnet": {"MaskNet": conv_tasnet.MaskNet},
    "unified_sess.nnet.dual_path": {
        name: getattr(dual_path, name) for name in ("Dual_Path_Model", "SBRNNBlock", "SBTransformerBlock")
    },
    "unified_sess.nnet.resepformer": {"ResourceEfficientSeparator": Separator},
}
# SpeechBrain does not have these networks: the export of one begins this file with its classes.
for _module, _names in {
    "time_frequency": ("SpectralDecoder", "SpectralEncoder", "TimeFrequencyNet"),
    "band_split": ("BandSplitNet",),
    "locoformer": ("TFLocoformer",),
    "sepreformer": ("GeluEncoder", "SepReformer"),
}.items():
    STAND_INS[f"unified_sess.nnet.{_module}"] = {name: globals()[name] for name in _names if name in globals()}


def provide_stand_ins() -> None:
    """Make the names of `STAND_INS` importable."""
    for path, members in STAND_INS.items():
        parent: types.ModuleType | None = None
        names = path.split(".")
        for depth, name in enumerate(names, start=1):
            whole = ".".join(names[:depth])
            if whole not in sys.modules:
                sys.modules[whole] = types.ModuleType(whole)
                sys.modules[whole].__path__ = []
            if parent is not None:
                setattr(parent, name, sys.modules[whole])
            parent = sys.modules[whole]
        vars(parent).update(members)


if "unified_sess" not in sys.modules and importlib.util.find_spec("unified_sess") is None:
    provide_stand_ins()
