"""SpeechBrain's transformer block for dual-path models, with fused attention and no transposes."""

import torch.nn.functional as F
from speechbrain.lobes.models import dual_path
from speechbrain.nnet.attention import MultiheadAttention
from torch import nn
from torch.utils.checkpoint import checkpoint

from unified_sess.nnet.feed_forward import feed_forward


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

    def __init__(self, *args, activation_checkpointing=False, **kwargs):
        super().__init__(*args, **kwargs)
        self.activation_checkpointing = activation_checkpointing

    def forward(self, x):
        """Returns the transformed sequence `[batch, frames, channels]`, of the shape of `x`."""
        if self.use_positional_encoding:
            x = x + self.pos_enc(x)
        for layer in self.mdl.layers:
            if self.activation_checkpointing and self.training:
                x = checkpoint(encoder_layer, layer, x, use_reentrant=False)
            else:
                x = encoder_layer(layer, x)
        return self.mdl.norm(x)


def encoder_layer(layer, x):
    """Forward pass of SpeechBrain's `TransformerEncoderLayer` for `x` `[batch, frames, channels]`."""
    if type(layer.self_att) is not MultiheadAttention or layer.self_att.att.in_proj_weight is None:
        return layer(x)[0]
    if layer.normalize_before:
        x = x + layer.dropout1(_attention(layer.self_att.att, layer.norm1(x)))
        return x + layer.dropout2(_feed_forward(layer.pos_ffn.ffn, layer.norm2(x)))
    x = layer.norm1(x + layer.dropout1(_attention(layer.self_att.att, x)))
    return layer.norm2(x + layer.dropout2(_feed_forward(layer.pos_ffn.ffn, x)))


def _attention(attention, x):
    qkv = F.linear(x, attention.in_proj_weight, attention.in_proj_bias)
    query, key, value = (y.unflatten(2, (attention.num_heads, -1)).transpose(1, 2) for y in qkv.chunk(3, dim=2))
    dropout = attention.dropout if attention.training else 0.0
    y = F.scaled_dot_product_attention(query, key, value, dropout_p=dropout)
    return attention.out_proj(y.transpose(1, 2).flatten(2))


def _feed_forward(ffn, x):
    wide, activation, dropout, narrow = ffn
    if type(activation) is nn.ReLU and not (dropout.training and dropout.p):
        return feed_forward(x, wide.weight, wide.bias, narrow.weight, narrow.bias)
    return ffn(x)
