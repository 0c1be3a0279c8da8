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
        features = self._encode(mix)
        return torch.stack([self._decode(mask * features, mix) for mask in self.mods.masknet(features)], dim=2)

    @torch.no_grad()
    def enhance_batch(self, mix: torch.Tensor) -> torch.Tensor:
        """Mixtures `[batch, time]` to enhanced mixtures `[batch, time]`."""
        if getattr(self.hparams, "enhanced_from", "enhancer") == "sources":
            return self.separate_batch(mix).sum(2)
        features = self._encode(mix)
        return self._decode(self.mods.masknet.enhancer(features)[0] * features, mix)

    def forward(self, mix: torch.Tensor) -> torch.Tensor:
        """The same as `separate_batch`."""
        return self.separate_batch(mix)

    def _encode(self, mix):
        kernel = self.mods.encoder.conv1d.kernel_size[0]
        return self.mods.encoder(torch.nn.functional.pad(mix.to(self.device), (0, max(0, kernel - mix.shape[1]))))

    def _decode(self, features, mix):
        signal = self.mods.decoder(features).reshape(len(mix), -1)
        return torch.nn.functional.pad(signal, (0, mix.shape[1] - signal.shape[1]))


class NoEnhancer(torch.nn.Module):
    """Lets every feature pass."""

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Returns a mask of ones."""
        return torch.ones_like(features).unsqueeze(0)


class CompositeMaskNet(torch.nn.Module):
    """The masks of enhancer and separator in one."""

    def __init__(self, enhancer: torch.nn.Module, masknet: torch.nn.Module) -> None:
        super().__init__()
        self.enhancer, self.masknet = enhancer, masknet

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Returns masks `[speakers, batch, channels, frames]`."""
        mask = self.enhancer(features)[0]
        return mask * self.masknet(features * mask)


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
# SpeechBrain has no network on a spectrogram: the export of one begins this file with the classes.
for _module, _names in {
    "time_frequency": ("SpectralDecoder", "SpectralEncoder", "TimeFrequencyNet"),
    "band_split": ("BandSplitNet",),
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
