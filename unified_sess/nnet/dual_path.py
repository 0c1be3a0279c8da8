"""SpeechBrain's dual-path model (DPRNN, SepFormer), faster and in less memory, with interchangeable checkpoints.

Luo et al., "Dual-path RNN", 2020; Subakan et al., "Attention is all you need in speech separation", 2021.

SpeechBrain keeps chunks as [batch, channels, size, chunks] and copies them around every model and norm. Here they
are [batch, chunks, size, channels] from cutting to adding up: within chunks nothing is copied, across chunks the two
middle dimensions are exchanged once before and once after.
"""

from typing import Any

import torch
import torch.nn.functional as F
from speechbrain.lobes.models import dual_path

from unified_sess.nnet.chunking import add_chunks, cut_chunks
from unified_sess.nnet.kernels.global_norm import global_layer_norm
from unified_sess.nnet.kernels.prelu import prelu
from unified_sess.nnet.transformer import SBTransformerBlock

__all__ = ["Dual_Path_Model", "SBRNNBlock", "SBTransformerBlock"]


class Dual_Path_Model(dual_path.Dual_Path_Model):
    """Drop-in for `speechbrain.lobes.models.dual_path.Dual_Path_Model`: same arguments, state-dict keys and numbers.

    Any model of `[batch, frames, channels]` serves within or across chunks, SpeechBrain's own too; with
    `SBTransformerBlock` and `SBRNNBlock` of this package all is fast.

    Example
    -------
    >>> block = SBTransformerBlock(num_layers=1, d_model=16, nhead=4, d_ffn=32)
    >>> Dual_Path_Model(16, 16, block, block, num_spks=2)(torch.randn(3, 16, 500)).shape
    torch.Size([2, 3, 16, 500])
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Returns masks `[speakers, batch, channels, frames]` for an encoded mixture `[batch, channels, frames]`."""
        x = self.norm(x).transpose(1, 2)
        x = F.linear(x, self.conv1d.weight.squeeze(2))
        if self.use_global_pos_enc:
            x = self.pos_enc(x) + x * x.shape[2] ** 0.5
        frames = x.shape[1]
        x = cut_chunks(x, self.K)
        for block in self.dual_mdl:
            x = _computation_block(block, x)

        # The 1x1 convolution is linear, so it may follow the adding up; each frame has its offset from two chunks.
        x = add_chunks(prelu(x, self.prelu.weight), frames)
        x = F.linear(x, self.conv2d.weight.flatten(1), 2 * self.conv2d.bias)
        x = x.unflatten(2, (self.num_spks, -1))
        x = torch.tanh(_pointwise(self.output[0], x)) * torch.sigmoid(_pointwise(self.output_gate[0], x))
        x = F.relu(_pointwise(self.end_conv1x1, x))
        return x.permute(2, 0, 3, 1)


class SBRNNBlock(dual_path.SBRNNBlock):
    """Drop-in for `speechbrain.lobes.models.dual_path.SBRNNBlock`, without what breaks the graph of `torch.compile`.

    Example
    -------
    >>> SBRNNBlock(64, 100, num_layers=1, bidirectional=True)(torch.randn(10, 100, 64)).shape
    torch.Size([10, 100, 200])
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Returns `[batch, frames, hidden_channels]`, twice as many channels where bidirectional."""
        return self.mdl.rnn(x)[0]


def _computation_block(block: Any, x: torch.Tensor) -> torch.Tensor:
    """One pass within chunks and one across them, `[batch, chunks, size, channels]` to the same."""
    batch = x.shape[0]
    within = block.intra_mdl(x.flatten(0, 1)).unflatten(0, (batch, -1))
    if block.linear_layer_after_inter_intra:
        within = block.intra_linear(within)
    if block.norm is not None:
        within = _chunk_norm(block.intra_norm, within)
    if block.skip_around_intra:
        within = within + x

    across = block.inter_mdl(within.transpose(1, 2).flatten(0, 1)).unflatten(0, (batch, -1))
    if block.linear_layer_after_inter_intra:
        across = block.inter_linear(across)
    if block.norm is not None:
        across = _chunk_norm(block.inter_norm, across)
    return within + across.transpose(1, 2)  # a sum lies in memory as its first part does


def _chunk_norm(norm: Any, x: torch.Tensor) -> torch.Tensor:
    """Applies SpeechBrain's `ln`, `gln` or `cln` of `[batch, channels, ...]` to channels in the last dimension."""
    gain, offset = norm.weight.flatten(), norm.bias.flatten()
    if isinstance(norm, dual_path.CumulativeLayerNorm):
        return F.layer_norm(x, x.shape[-1:], gain, offset, norm.eps)
    return global_layer_norm(x, gain, offset, norm.eps)


def _pointwise(conv: Any, x: torch.Tensor) -> torch.Tensor:
    return F.linear(x, conv.weight.squeeze(2), conv.bias)
