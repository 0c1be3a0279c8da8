"""What a rule that weighs the losses learns from a step; see `unified_sess/gradient_modulation/loss_weighting.py`."""

from collections.abc import Callable
from typing import cast

import torch

from unified_sess.data.batches import Batch
from unified_sess.training.distributed import sum_over_ranks
from unified_sess.training.joint_step import JointStep
from unified_sess.training.utterance_losses import UtteranceLosses


class WeightLearning:
    """Hands a loss weighting the losses of each step, where asked for also those after it.

    Arguments
    ---------
    joint_step : JointStep
        Of the training.
    losses_of : callable
        A batch to its `UtteranceLosses`, without gradients.
    floors : pair of floats
        Lowest values of L_SE and L_SS, from which the weighting counts.
    """

    def __init__(
        self,
        joint_step: JointStep,
        losses_of: Callable[[Batch], UtteranceLosses],
        floors: tuple[float, float],
    ) -> None:
        self.joint_step, self.losses_of = joint_step, losses_of
        self.weighting = joint_step.modulation.weighting if joint_step.with_enhancement else None
        if self.weighting is not None:
            self.weighting.floors = floors
        self.window: list[tuple[Batch, torch.Tensor]] = []  # batches of the step and which utterances take part

    def remember(self, batch: Batch, losses: UtteranceLosses) -> None:
        """Keep a batch until the step is made, where its losses after the step are wanted."""
        if self.weighting is not None and self.weighting.needs_losses_after:
            self.window.append((batch, self.joint_step.kept(losses.separation)))

    def learn(self, stepped: bool) -> None:
        """Learn from the step that was made, or forget one that was not; called on all ranks alike."""
        window, self.window = self.window, []
        if self.weighting is None or not stepped:
            return
        nothing = torch.zeros(2, device=self.joint_step.parameters[0].device)
        count = cast(torch.Tensor, self.joint_step.step_count)
        before = nothing if self.joint_step.step_measures is None else self.joint_step.step_measures
        sums = [before]
        if self.weighting.needs_losses_after:
            after = [self.joint_step.measures_of(self.losses_of(batch), kept) for batch, kept in window]
            sums.append(torch.stack(after).sum(0) if after else nothing)
        self.weighting.update(*(sum_over_ranks(torch.stack(sums)) / count).tolist())
