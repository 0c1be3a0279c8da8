"""A model for tests of what is around a network: each output is the mixture at a gain of its own."""

import torch

from unified_sess.inference.separating import Separating
from unified_sess.model_io.model_folder import ModelConfig


class GainModel(Separating):
    """Gives the mixture times each of `gains`; with `threshold`, as a model that has learnt silence and level."""

    def __init__(self, *gains, threshold=None, sample_rate=8000):
        self.gains = torch.tensor(gains)
        self.mods = torch.nn.ModuleDict({"encoder": torch.nn.Linear(1, 1)})
        torch.nn.init.constant_(self.mods.encoder.weight, float(self.gains.sum()))
        torch.nn.init.zeros_(self.mods.encoder.bias)
        self.num_spks, self.sample_rate, self.name = len(gains), sample_rate, "the stub"
        self.config = ModelConfig({}, len(gains), sample_rate, threshold)

    def run(self, mix, enhanced=False):
        gains = torch.cat((self.gains, self.gains.sum(0, keepdim=True))) if enhanced else self.gains
        return mix[..., None] * gains
