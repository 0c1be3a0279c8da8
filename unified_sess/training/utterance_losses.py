"""The forward pass of training: both losses of every utterance of a batch."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import nn

from unified_sess import losses
from unified_sess.data.batches import Batch
from unified_sess.network import encode, enhanced_mixture, for_each_length, separate
from unified_sess.utils.errors import UserError


class UtteranceLosses(NamedTuple):
    """Losses of each utterance and the estimates.

    separation, enhancement : `[batch]`; enhancement is None where it was not asked for.
    sources : `[batch, time, speakers]`, zeros behind the end of shorter utterances.
    features : enhanced features W_e `[utterances, channels, frames]`, a tensor for each length in the batch.
    """

    separation: torch.Tensor
    enhancement: torch.Tensor | None
    sources: torch.Tensor
    features: tuple

    def detach(self) -> "UtteranceLosses":
        """The losses and sources without their history; features are left out."""
        enhancement = None if self.enhancement is None else self.enhancement.detach()
        return UtteranceLosses(self.separation.detach(), enhancement, self.sources.detach(), ())


class LossChoice(NamedTuple):
    """Which losses train the two tasks; the defaults are the paper's.

    separation : "si_snr" (the paper), or with a soft limit "si_snr_level" or "snr", which know level, polarity and
        silent sources.
    enhancement : "feature_distance" (the paper), or in dB "log_feature_distance" or "snr" (of the enhanced mixture);
        None leaves the task out.
    limit : dB, at which the losses in dB stop rewarding.
    detach_clean : whether the clean features are a fixed target; False as in the authors' code.
    step_weight : share of the earlier steps in L_SS, 0 to 1, for a separator that refines its sources step by step.
    step_decay : [epoch, factor, every]: from the epoch after that one on, the share is multiplied every so many epochs.
    step_loss : of the earlier steps: "as_last", or "magnitude": of spectra without their phase.
    sum_weight : of the loss of the sources' sum against the clean mixture, in dB, which is added to L_SS.
    """

    separation: str = "si_snr"
    enhancement: str | None = "feature_distance"
    limit: float = 30.0
    detach_clean: bool = False
    step_weight: float = 0.0
    step_decay: Sequence[float] | None = None
    step_loss: str = "as_last"
    sum_weight: float = 0.0

    @classmethod
    def of(cls, hparams: Any, with_enhancement: bool) -> "LossChoice":
        """The choice of an experiment's settings; a file that does not name the losses has the paper's.

        `UserError` where there is a `silence_threshold` and the loss does not know levels.
        """
        names: dict[str, Any] = cls._field_defaults
        enhancement = getattr(hparams, "enhancement_loss", names["enhancement"])
        separation = getattr(hparams, "separation_loss", names["separation"])
        if getattr(hparams, "silence_threshold", None) is not None and separation not in losses.LIMITED_RATIOS:
            raise UserError(
                f"silence_threshold is {hparams.silence_threshold:g}, but sources trained by {separation} have no level: "
                "give --silence_threshold null --enhanced_from enhancer, or a separation_loss that knows it "
                f"({' or '.join(losses.LIMITED_RATIOS)})"
            )
        return cls(
            separation,
            enhancement if with_enhancement else None,
            getattr(hparams, "snr_limit", names["limit"]),
            hparams.detach_clean_features,
            *(getattr(hparams, name, names[name]) for name in ("step_weight", "step_decay", "step_loss", "sum_weight")),
        ).check()

    def in_epoch(self, epoch: int) -> "LossChoice":
        """The choice with the share of the earlier steps that they have in an epoch, from 1."""
        if self.step_decay is None or epoch <= self.step_decay[0]:
            return self
        start, factor, every = self.step_decay
        return self._replace(step_weight=self.step_weight * factor ** (1 + (epoch - start - 1) // every))

    def of_the_last_step(self) -> "LossChoice":
        """The choice for validation, where neither earlier steps nor the sum count."""
        return self._replace(step_weight=0.0, sum_weight=0.0)

    @property
    def floors(self) -> tuple[float, float]:
        """The lowest that L_SE and L_SS count for, in their units: a loss in dB stops at the limit."""
        enhancement = 0.0 if self.enhancement == "feature_distance" else -self.limit
        return enhancement, -self.limit * (1 + self.sum_weight)

    def check(self) -> "LossChoice":
        """The choice itself; raises `UserError` for a loss that does not exist."""
        known = (
            ("separation_loss", self.separation, losses.SEPARATION_LOSSES),
            ("enhancement_loss", self.enhancement or losses.ENHANCEMENT_LOSSES[0], losses.ENHANCEMENT_LOSSES),
            ("step_loss", self.step_loss, losses.STEP_LOSSES),
        )
        for setting, name, names in known:
            if name not in names:
                raise UserError(f"{setting} is '{name}': choose one of {', '.join(names)}")
        if self.sum_weight > 0 and self.separation not in losses.LIMITED_RATIOS:
            raise UserError(
                f"sum_weight is {self.sum_weight:g}, but sources trained by {self.separation} have no level and do not "
                f"add up: choose a separation_loss that knows it ({' or '.join(losses.LIMITED_RATIOS)})"
            )
        if self.step_decay is not None and (len(self.step_decay) != 3 or self.step_decay[2] < 1):
            raise UserError(
                f"step_decay is {list(self.step_decay)}: give [epoch, factor, every], such as [100, 0.8, 5], or null"
            )
        return self


PAPER = LossChoice()


def refuse_missing_steps(masknet: nn.Module, step_weight: float | None) -> None:
    """`UserError` where a separator that does not work in steps is to have a loss on them."""
    if step_weight and not hasattr(masknet, "steps"):
        raise UserError(
            f"step_weight is {step_weight:g}, but the separator does not work in steps as those of SepReformer and "
            "bandsplit-small do: give --step_weight 0, or another --network"
        )


def utterance_losses(modules: Mapping[str, nn.Module], batch: Batch, choice: LossChoice = PAPER) -> UtteranceLosses:
    """Run the network on a batch and give both losses of every utterance (paper, equations of L_SS and L_SE).

    Utterances of different lengths run by themselves, so that each loss is that of the utterance alone.

    Arguments
    ---------
    modules : mapping
        encoder, enhancer, masknet, decoder.
    batch : unified_sess.data.batches.Batch
        Mixture, clean mixture, sources and lengths.
    choice : LossChoice
        The losses.

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
        output = separate(modules, mixture, all_steps=choice.step_weight > 0)
        distance = _enhancement_loss(modules, output, mixture, clean, choice)
        separation = _separation_loss(output.sources, sources, mixture, choice)
        if output.earlier:
            earlier = [_step_loss(estimates, sources, mixture, choice) for estimates in output.earlier]
            separation = torch.lerp(separation, torch.stack(earlier).mean(0), choice.step_weight)
        if choice.sum_weight > 0:
            ratio = losses.LIMITED_RATIOS[choice.separation]
            total = output.sources.to(clean.dtype).sum(2)
            separation = separation - choice.sum_weight * ratio(total, clean, mixture, choice.limit)
        parts.append((separation, distance, output.sources))
        features.append(output.features)
        order += rows
    if len(parts) == 1 and len(order) == len(batch.lengths) and parts[0][2].shape[1] == batch.mixture.shape[1]:
        return UtteranceLosses(*parts[0], tuple(features))
    back = torch.tensor(order, device=batch.mixture.device).argsort()
    longest = batch.mixture.shape[1]
    padded = [nn.functional.pad(s, (0, 0, 0, longest - s.shape[1])) for _, _, s in parts]
    return UtteranceLosses(
        torch.cat([p[0] for p in parts])[back],
        torch.cat([p[1] for p in parts])[back] if choice.enhancement else None,
        torch.cat(padded)[back],
        tuple(features),
    )


def _separation_loss(estimates, sources, mixture, choice):
    """L_SS `[batch]` under the best permutation."""
    estimates = estimates.to(sources.dtype)  # sums over a whole utterance lose too much in half precision
    if choice.separation == "si_snr":
        return losses.pit_si_snr(estimates, sources)[0]
    return losses.pit_limited_snr(estimates, sources, mixture, choice.limit, losses.LIMITED_RATIOS[choice.separation])[
        0
    ]


def _step_loss(estimates, sources, mixture, choice):
    """L_SS `[batch]` of an earlier step."""
    if choice.step_loss == "magnitude":
        return losses.pit_magnitude_snr(estimates.to(sources.dtype), sources)[0]
    return _separation_loss(estimates, sources, mixture, choice)


def _enhancement_loss(modules, output, mixture, clean, choice):
    """L_SE `[batch]` of the enhanced features; None where the task is left out."""
    if choice.enhancement is None:
        return None
    if choice.enhancement == "snr":
        enhanced = enhanced_mixture(modules, output.features, mixture.shape[-1]).to(clean.dtype)
        return -losses.limited_snr(enhanced, clean, mixture, choice.limit)
    target = encode(modules, clean)
    if choice.detach_clean:
        target = target.detach()
    if choice.enhancement == "feature_distance":
        return losses.feature_distance(output.features, target)
    return losses.log_feature_distance(output.features, target, output.noisy, choice.limit)
