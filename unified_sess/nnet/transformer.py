"""SpeechBrain's transformer block for dual-path models, with fused attention and no transposes."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from speechbrain.lobes.models import dual_path
from speechbrain.nnet.attention import MultiheadAttention
from torch import nn
from torch.utils.checkpoint import checkpoint

from unified_sess.nnet import kernels
from unified_sess.nnet.attention import attend
from unified_sess.nnet.kernels.gpu_layer import NormProjections, OutputFeedForward, cast_together, weights_of


class SBTransformerBlock(dual_path.SBTransformerBlock):
    """Drop-in for `speechbrain.lobes.models.dual_path.SBTransformerBlock`: same arguments, state-dict keys and numbers.

    Attention goes through `scaled_dot_product_attention`, which never stores the attention weights, and a sequence
    stays `[batch, frames, channels]` from end to end. A layer with another attention than `regularMHA`, or with keys
    or values of another size, runs as in SpeechBrain.

    Arguments
    ---------
    activation_checkpointing : bool
        Keep only each layer's input for the backward pass and compute the layer again there: less memory, about a
        third more time.
    **kwargs
        As in SpeechBrain.

    Example
    -------
    >>> import torch
    >>> SBTransformerBlock(num_layers=1, d_model=64, nhead=8)(torch.rand(10, 100, 64)).shape
    torch.Size([10, 100, 64])
    """

    def __init__(self, *args: Any, activation_checkpointing: bool = False, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.activation_checkpointing = activation_checkpointing

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Returns the transformed sequence `[batch, frames, channels]`, of the shape of `x`."""
        if self.use_positional_encoding:
            x = x + self.pos_enc(x)
        layers = self.mdl.layers
        for layer, copies in zip(layers, weight_copies(layers, x), strict=True):
            if self.activation_checkpointing and self.training:
                x = checkpoint(encoder_layer, layer, x, copies, use_reentrant=False)
            else:
                x = encoder_layer(layer, x, copies)
        return self.mdl.norm(x)


def weight_copies(layers: nn.ModuleList, x: torch.Tensor) -> Sequence[list[torch.Tensor] | None]:
    """For each layer its weights in the type to calculate in, or None where it takes PyTorch's operations."""
    if not kernels.on_gpu(x) or not all(_is_plain(layer) for layer in layers):
        return [None] * len(layers)
    weights = [weights_of(layer) for layer in layers]
    if torch.is_autocast_enabled("cuda"):
        copies = iter(cast_together([w for of_layer in weights for w in of_layer], torch.get_autocast_dtype("cuda")))
        weights = [[next(copies) for _ in of_layer] for of_layer in weights]
    return weights


def encoder_layer(layer: Any, x: torch.Tensor, copies: list[torch.Tensor] | None = None) -> torch.Tensor:
    """Forward pass of SpeechBrain's `TransformerEncoderLayer` for `x` `[batch, frames, channels]`.

    With `copies` of its weights a layer that is plain goes through `unified_sess.nnet.kernels.gpu_layer`.
    """
    if type(layer.self_att) is not MultiheadAttention or layer.self_att.att.in_proj_weight is None:
        return layer(x)[0]
    attention, feed_forward, shape = layer.self_att.att, layer.pos_ffn.ffn, x.shape
    x = x.reshape(-1, shape[2])
    if copies is not None:
        return _gpu_layer(layer, x, copies, shape).view(shape)
    before = layer.norm1(x) if layer.normalize_before else x
    qkv = F.linear(before, attention.in_proj_weight, attention.in_proj_bias).chunk(3, dim=1)
    if not layer.normalize_before:
        x = layer.norm1(x + layer.dropout1(attention.out_proj(_attend(attention, qkv, shape))))
        return layer.norm2(x + layer.dropout2(feed_forward(x))).view(shape)
    x = x + layer.dropout1(attention.out_proj(_attend(attention, qkv, shape)))
    return (x + layer.dropout2(feed_forward(layer.norm2(x)))).view(shape)


def _is_plain(layer: Any) -> bool:
    """True for the layer of the published SepFormer: norms first, ReLU, no dropout outside the attention."""
    if type(layer.self_att) is not MultiheadAttention or not layer.normalize_before:
        return False
    _, activation, dropout, _ = layer.pos_ffn.ffn
    drops = layer.training and dropout.p + layer.dropout1.p + layer.dropout2.p
    attention = layer.self_att.att
    return type(activation) is nn.ReLU and not drops and attention.in_proj_weight is not None


def _gpu_layer(layer: Any, x: torch.Tensor, copies: list[torch.Tensor], shape: torch.Size) -> torch.Tensor:
    weights, first, second = weights_of(layer), layer.norm1.norm, layer.norm2.norm
    qkv = NormProjections.apply(x, first.weight, first.bias, first.eps, *weights[:2], *copies[:2])
    attended = _attend(layer.self_att.att, qkv, shape)
    norm = second.weight, second.bias, second.eps
    return OutputFeedForward.apply(x, attended, *norm, *weights[2:], *copies[2:])


def _attend(attention: Any, qkv: Sequence[torch.Tensor], shape: torch.Size) -> torch.Tensor:
    batch, frames, _ = shape
    query, key, value = (y.view(batch, frames, attention.num_heads, -1).transpose(1, 2) for y in qkv)
    dropout = attention.dropout if attention.training else 0.0
    y = attend(query, key, value, dropout)
    return y.transpose(1, 2).reshape(batch * frames, -1)
