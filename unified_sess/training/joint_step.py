"""One optimizer step from two gradients: accumulate both, average them over ranks, modulate, hand over."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple, cast

import torch

from unified_sess.gradient_modulation import GradientModulation
from unified_sess.gradient_modulation.loss_weighting import LossWeighting
from unified_sess.network import MODULE_NAMES, SHARED_MODULES
from unified_sess.training.distributed import average_gradients
from unified_sess.training.utterance_losses import UtteranceLosses


class BatchGradients(NamedTuple):
    """Gradients of a batch: of the SE task on the shared parameters, of the SS task on all, and utterances kept.

    In one backward pass the SE gradient is in that of the SS task. `measures` are the sums `[2]` over kept utterances
    that a loss weighting learns from.
    """

    enhancement: Sequence[torch.Tensor | None]
    separation: Sequence[torch.Tensor | None]
    count: torch.Tensor  # type: ignore[assignment]  # not the `count` of tuples
    measures: torch.Tensor | None = None

    def clone(self) -> "BatchGradients":
        """A copy with memory of its own."""
        enhancement, separation = ([g if g is None else g.clone() for g in gradients] for gradients in self[:2])
        measures = None if self.measures is None else self.measures.clone()
        return BatchGradients(enhancement, separation, self.count.clone(), measures)


class JointStep:
    """The two gradients of a step, from the first batch of an accumulation window to the optimizer.

    G_SE, the gradient of lambda * L_SE, is taken on the shared parameters (encoder and enhancer), G_SS, that of L_SS,
    on all. Both are gradients of *sums* over utterances, so that they can be added over batches and ranks and divided
    once by the number of utterances that were kept: the mean over the whole step, however it was split.

    Arguments
    ---------
    modules : mapping
        encoder, enhancer, masknet, decoder.
    modulation : unified_sess.gradient_modulation.GradientModulation
        Merges the two gradients of the shared parameters.
    enhancement_weight : float
        lambda; 0 leaves the enhancement task out.
    threshold : float
        Utterances whose L_SS is below it (dB, negative) are good enough and left out of both losses; None keeps all.
    statistics : bool
        Whether rules that need one backward pass only take both gradients to measure their conflict: `sum` and those
        that weigh the losses.
    """

    def __init__(
        self,
        modules: Mapping[str, torch.nn.Module],
        modulation: GradientModulation,
        enhancement_weight: float = 0.1,
        threshold: float | None = -30.0,
        statistics: bool = True,
    ) -> None:
        named = [(f"{m}.{name}", p) for m in MODULE_NAMES for name, p in modules[m].named_parameters()]
        # The same parameter under two names would be averaged twice: its first one counts, so it is shared if one is.
        named = list({id(p): (name, p) for name, p in reversed(named) if p.requires_grad}.values())[::-1]
        named.sort(key=lambda item: item[0].split(".")[0] not in SHARED_MODULES)
        self.parameters = [p for _, p in named]
        self.shared = [p for name, p in named if name.split(".")[0] in SHARED_MODULES]
        # A decoder that has the encoder's weights: the SS gradient reaches them on two ways.
        behind = {id(p) for m in MODULE_NAMES if m not in SHARED_MODULES for p in modules[m].parameters()}
        self.tied = any(id(p) in behind for p in self.shared)
        self.modulation = modulation
        self.modulation.bind([name for name, _ in named[: len(self.shared)]])
        self.enhancement_weight, self.threshold = enhancement_weight, threshold
        adds_up = modulation.rule == "sum" or modulation.weighting is not None
        self.one_pass = adds_up and not statistics and not modulation.equal_norms
        self.step_measures: torch.Tensor | None = None  # of the step that was merged last
        self.step_count: torch.Tensor | None = None
        self.reset()

    @property
    def with_enhancement(self) -> bool:
        """Whether the enhancement task takes part."""
        return self.enhancement_weight > 0 and len(self.shared) > 0

    def reset(self) -> None:
        """Forget the gradients of an unfinished window."""
        self.se_gradients: list[torch.Tensor | None] = [None] * len(self.shared)
        self.ss_gradients: list[torch.Tensor | None] = [None] * len(self.parameters)
        self.count: torch.Tensor | None = None
        self.measures: torch.Tensor | None = None
        self.pending = False

    def kept(self, separation: torch.Tensor) -> torch.Tensor:
        """Which utterances take part, `[batch]`; a loss that is not finite does, so that it is noticed."""
        if self.threshold is None:
            return torch.ones_like(separation, dtype=torch.bool)
        return ~(separation.detach() <= self.threshold)

    def accumulate(self, losses: UtteranceLosses | None, scale: torch.Tensor | None = None) -> None:
        """Add the gradients of a batch.

        Arguments
        ---------
        losses : unified_sess.training.utterance_losses.UtteranceLosses
            `[batch]` losses; None for a rank without utterances in a short last batch.
        scale : torch.Tensor
            Loss scale of mixed precision; None is 1.
        """
        self.add(None if losses is None else self.gradients(losses, scale))

    def gradients(
        self, losses: UtteranceLosses, scale: torch.Tensor | None = None, apart: bool = False
    ) -> BatchGradients:
        """The gradients of a batch, which `add` adds; arguments as in `accumulate`. Never waits for the device.

        `apart` gives both gradients also where the rule needs one backward pass only.
        """
        kept = self.kept(losses.separation)
        separation, enhancement, measures = losses.separation, losses.enhancement, None
        if self.with_enhancement:
            enhancement = self.enhancement_weight * cast(torch.Tensor, enhancement)  # there where the task takes part
            if self.modulation.weighting is not None:
                pair = self._pair(losses)
                weights = self.modulation.weighting.weights(pair)
                enhancement, separation = weights[0] * enhancement, weights[1] * separation
                measures = torch.where(kept, self.modulation.weighting.measure(pair), 0).sum(1)
        # where, not a product: zero times NaN is NaN.
        ss = torch.where(kept, separation, 0).sum()
        se = torch.where(kept, enhancement, 0).sum() if self.with_enhancement and enhancement is not None else None
        if scale is not None:
            ss, se = ss * scale, None if se is None else se * scale
        nothing = [None] * len(self.shared)
        if se is None:
            return BatchGradients(nothing, torch.autograd.grad(ss, self.parameters, allow_unused=True), kept.sum())
        together = self.one_pass and not apart
        se_gradients, ss_gradients = self._both(se, ss, losses.features, together)
        return BatchGradients(nothing if together else se_gradients, ss_gradients, kept.sum(), measures)

    @staticmethod
    def _pair(losses):
        """Both losses `[2, batch]`, in the order of a loss weighting."""
        return torch.stack([losses.enhancement, losses.separation]).detach()

    def measures_of(self, losses: UtteranceLosses, kept: torch.Tensor) -> torch.Tensor:
        """Sums `[2]` over the kept utterances of what the loss weighting learns from."""
        measured = cast(LossWeighting, self.modulation.weighting).measure(self._pair(losses))
        return torch.where(kept, measured, 0).sum(1)

    def add(self, gradients: BatchGradients | None) -> None:
        """Add the `BatchGradients` of a batch to those of the window; None for a rank without utterances."""
        self.pending = True
        if gradients is None:
            return
        self.se_gradients = _added(self.se_gradients, gradients.enhancement)
        self.ss_gradients = _added(self.ss_gradients, gradients.separation)
        self.count = gradients.count if self.count is None else self.count + gradients.count
        if gradients.measures is not None:
            self.measures = gradients.measures if self.measures is None else self.measures + gradients.measures

    def _both(self, se, ss, features, together):
        """Gradients of `se` on the shared and of `ss` on all parameters; `together` adds the former to the latter.

        L_SE of the sound goes through the decoder, which its gradient must not reach. The separator's part of the backward pass comes first and frees what it kept, so that nothing of the SE task
        adds to the peak of memory, which is there.
        """
        # One batched backward pass for both through the shared part was tried, with `torch.func.vmap`: forward and
        # backward then take 1.27 (SepFormer), 1.16 (Conv-TasNet) and 1.09 (DPRNN) times as long on a CPU.
        if self.tied:
            se_gradients = torch.autograd.grad(se, self.shared, retain_graph=True, allow_unused=True)
            ss_gradients = torch.autograd.grad(ss, self.parameters, allow_unused=True)
            if together:
                shared = _added(se_gradients, ss_gradients[: len(self.shared)])
                return [], [*shared, *ss_gradients[len(self.shared) :]]
            return se_gradients, ss_gradients
        separator = self.parameters[len(self.shared) :]
        gradients = torch.autograd.grad(ss, [*features, *separator], allow_unused=True)
        at_features = gradients[: len(features)]
        if together:
            outputs, ones = [*features, se], [*at_features, torch.ones_like(se)]
            shared = torch.autograd.grad(outputs, self.shared, ones, allow_unused=True)
            return [], [*shared, *gradients[len(features) :]]
        se_gradients = torch.autograd.grad(se, self.shared, retain_graph=True, allow_unused=True)
        ss_gradients = torch.autograd.grad(features, self.shared, at_features, allow_unused=True)
        return se_gradients, [*ss_gradients, *gradients[len(features) :]]

    def merge(
        self, scale: torch.Tensor | None = None, preconditioner: Sequence[torch.Tensor] | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Put the merged gradient in every parameter's `grad`, still scaled, and start a new window.

        With a `preconditioner` of the shared parameters, conflict is that of the gradients times it.

        Returns
        -------
        count : torch.Tensor
            Utterances of the step on all ranks, on the device.
        finite : torch.Tensor
            Whether the whole merged gradient is finite, on the device; alike on all ranks.
        """
        device = self.parameters[0].device
        count = torch.zeros((), device=device) if self.count is None else self.count
        (se, ss), count = average_gradients([self.se_gradients, self.ss_gradients], count, like=self.parameters)
        merged = ss
        if self.with_enhancement and not self.one_pass:
            merged = self.modulation(se, ss[: len(self.shared)], scale, preconditioner) + ss[len(self.shared) :]
        for parameter, gradient in zip(self.parameters, merged):
            parameter.grad = gradient
        self.step_measures, self.step_count = self.measures, count
        self.reset()
        return count, _all_finite([g for g in merged if g is not None], device)


def _added(old, new):
    if all(g is None for g in old):
        return list(new)
    both = [i for i, (a, b) in enumerate(zip(old, new)) if a is not None and b is not None]
    # Not in place: autograd may return one tensor for two parameters.
    sums = dict(zip(both, torch._foreach_add([old[i] for i in both], [new[i] for i in both])))
    return [sums.get(i, b if a is None else a) for i, (a, b) in enumerate(zip(old, new))]


def _all_finite(gradients, device):
    if not gradients:
        return torch.ones((), dtype=torch.bool, device=device)
    # Order 1 overflows far behind anything that clipping could still use; order inf is twice as slow on a CPU.
    return torch.isfinite(torch.stack(torch._foreach_norm(gradients, 1))).all()
