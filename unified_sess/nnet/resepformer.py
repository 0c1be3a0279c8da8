"""SpeechBrain's resource-efficient separators (RE-SepFormer, SkiM), safe for batches of several utterances."""

import torch
from speechbrain.lobes.models import resepformer


class ResourceEfficientSeparator(resepformer.ResourceEfficientSeparator):
    """Drop-in for SpeechBrain's class of that name: same arguments, state-dict keys and numbers for one utterance.

    With the memory `av` SpeechBrain strings the segments of all utterances of a batch together, so that attention
    across segments mixes the utterances. Here each utterance goes through the memory alone.

    Example
    -------
    >>> segment = resepformer.SBTransformerBlock_wnormandskip(1, 64, 8)
    >>> memory = resepformer.SBTransformerBlock_wnormandskip(1, 64, 8)
    >>> net = ResourceEfficientSeparator(64, num_spk=3, mem_type="av", seg_model=segment, mem_model=memory)
    >>> net(torch.randn(10, 64, 100)).shape
    torch.Size([3, 10, 64, 100])
    """

    def forward(self, inpt: torch.Tensor) -> torch.Tensor:
        """Returns masks `[speakers, batch, channels, frames]` for an encoded mixture `[batch, channels, frames]`."""
        if self.model.mem_type != "av":
            return super().forward(inpt)
        return torch.cat([super(ResourceEfficientSeparator, self).forward(x) for x in inpt.split(1)], dim=1)
