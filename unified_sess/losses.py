"""Losses of the two tasks: separation (PIT SI-SNR) and enhancement (distance of features)."""

import itertools
from functools import lru_cache
from typing import NamedTuple

import torch

from unified_sess.network import encode, for_each_length, separate

EPS = 1e-8


def si_snr(estimates, targets):
    """Scale-invariant signal-to-noise ratio in dB, along the last dimension; higher is better.

    Silent targets give a finite value (about -80 dB) with a gradient of zero.

    Arguments
    ---------
    estimates, targets : torch.Tensor
        `[..., time]`; leading dimensions broadcast. The mean is removed from both.

    Returns
    -------
    ratio : torch.Tensor
        `[...]`, dB.

    Example
    -------
    >>> s = torch.sin(torch.arange(800) / 5.0)
    >>> bool(si_snr(3 * s, s) > 60)
    True
    """
    estimates = estimates - estimates.mean(-1, keepdim=True)
    targets = targets - targets.mean(-1, keepdim=True)
    gain = (estimates * targets).sum(-1, keepdim=True) / (targets.square().sum(-1, keepdim=True) + EPS)
    wanted = gain * targets
    ratio = wanted.square().sum(-1) / ((estimates - wanted).square().sum(-1) + EPS)
    return 10 * torch.log10(ratio + EPS)


@lru_cache
def _permutations(speakers, device):
    return torch.tensor(list(itertools.permutations(range(speakers))), device=device)


def pit_si_snr(estimates, targets):
    """Permutation-invariant negative SI-SNR of each utterance.

    Arguments
    ---------
    estimates, targets : torch.Tensor
        `[batch, time, speakers]`.

    Returns
    -------
    loss : torch.Tensor
        `[batch]`, negative mean SI-SNR over the speakers in dB under the best permutation; lower is better.
    permutation : torch.Tensor
        `[batch, speakers]`: `estimates[b, :, permutation[b, c]]` belongs to `targets[b, :, c]`.
    """
    speakers = targets.shape[-1]
    table = si_snr(estimates.transpose(1, 2).unsqueeze(2), targets.transpose(1, 2).unsqueeze(1))  # [B, est, target]
    permutations = _permutations(speakers, table.device)  # [P, C]
    scores = table[:, permutations, torch.arange(speakers, device=table.device)].mean(-1)  # [B, P]
    best, index = scores.max(-1)
    return -best, permutations[index]


def feature_distance(enhanced, clean):
    """Sum over channels and frames of the squared difference of features `[batch, channels, frames]`, `[batch]`."""
    if enhanced.dtype.itemsize < 4:  # half precision: the sum has too many terms for it
        enhanced, clean = enhanced.float(), clean.float()
    return (enhanced - clean).square().sum((1, 2))


class UtteranceLosses(NamedTuple):
    """Losses of each utterance and the estimates.

    separation, enhancement : `[batch]`; enhancement is None where it was not asked for.
    sources : `[batch, time, speakers]`, zeros behind the end of shorter utterances.
    features : enhanced features W_e `[utterances, channels, frames]`, a tensor for each length in the batch.
    """

    separation: torch.Tensor
    enhancement: torch.Tensor
    sources: torch.Tensor
    features: tuple

    def detach(self):
        """The losses and sources without their history; features are left out."""
        enhancement = None if self.enhancement is None else self.enhancement.detach()
        return UtteranceLosses(self.separation.detach(), enhancement, self.sources.detach(), ())


def utterance_losses(modules, batch, with_enhancement=True, detach_clean=False):
    """Run the network on a batch and give both losses of every utterance (paper, equations of L_SS and L_SE).

    Utterances of different lengths run by themselves, so that each loss is that of the utterance alone.

    Arguments
    ---------
    modules : mapping
        encoder, enhancer, masknet, decoder.
    batch : unified_sess.data.batches.Batch
        Mixture, clean mixture, sources and lengths.
    with_enhancement : bool
        Whether L_SE is wanted; without it the clean mixture is not encoded.
    detach_clean : bool
        Whether the clean features are a fixed target; False as in the authors' code.

    Returns
    -------
    UtteranceLosses
    """
    groups = for_each_length(batch.lengths)
    parts, features, order = [], [], []
    for length, rows in groups:
        whole = len(groups) == 1 and length == batch.mixture.shape[1]
        mixture, clean, sources = (
            x if whole else x[rows, :length] for x in (batch.mixture, batch.clean, batch.sources)
        )
        output = separate(modules, mixture)
        distance = None
        if with_enhancement:
            target = encode(modules, clean)
            distance = feature_distance(output.features, target.detach() if detach_clean else target)
        # Sums over a whole utterance lose too much in half precision.
        separation, _ = pit_si_snr(output.sources.to(sources.dtype), sources)
        parts.append((separation, distance, output.sources))
        features.append(output.features)
        order += rows
    if len(parts) == 1 and len(order) == len(batch.lengths) and parts[0][2].shape[1] == batch.mixture.shape[1]:
        return UtteranceLosses(*parts[0], tuple(features))
    back = torch.tensor(order, device=batch.mixture.device).argsort()
    longest = batch.mixture.shape[1]
    padded = [torch.nn.functional.pad(s, (0, 0, 0, longest - s.shape[1])) for _, _, s in parts]
    return UtteranceLosses(
        torch.cat([p[0] for p in parts])[back],
        torch.cat([p[1] for p in parts])[back] if with_enhancement else None,
        torch.cat(padded)[back],
        tuple(features),
    )
