"""The passes of a batch through the network: losses, and gradients that are launched or replayed."""

from typing import Any

import speechbrain as sb
import torch


class BatchPasses:
    """Part of `UnifiedBrain`, whose attributes it uses."""

    training_ctx: Any
    scaler: Any
    device: Any
    replay: Any
    joint_step: Any
    grad_accumulation_factor: int
    compute_forward: Any
    compute_objectives: Any

    def _losses_and_gradients(self, batch):
        """Losses of a batch, their mean total and the `BatchGradients`."""
        scale = self._loss_scale()
        # What depends on lengths cannot be recorded.
        if self.replay is None or (batch.lengths != batch.mixture.shape[1]).any():
            return self._compute_gradients(batch, scale)
        losses, loss, gradients = self.replay(batch.to(self.device, non_blocking=True), scale)
        # The next batch writes over them.
        if self.grad_accumulation_factor > 1:
            loss, gradients = loss.clone(), gradients.clone()
        return losses, loss, gradients

    def _compute_gradients(self, batch, scale):
        """The same, each kernel launched as usual."""
        with self.training_ctx:
            losses = self.compute_forward(batch, sb.Stage.TRAIN)
            loss = self.compute_objectives(losses, batch, sb.Stage.TRAIN).detach()
        return losses, loss, self.joint_step.gradients(losses, scale)

    def _gradients_to_keep(self, batch, scale):
        """As `_compute_gradients`, without the history of the losses, which a recorded step would keep."""
        losses, loss, gradients = self._compute_gradients(batch, scale)
        return losses.detach(), loss, gradients

    def _losses_now(self, batch):
        """The losses of a batch at the present weights, without gradients."""
        with torch.no_grad(), self.training_ctx:
            return self.compute_forward(batch, sb.Stage.TRAIN)

    def _gradients_apart(self, batch):
        """The `BatchGradients` of a batch, both apart, without a step."""
        with self.training_ctx:
            losses = self.compute_forward(batch, sb.Stage.TRAIN)
        return self.joint_step.gradients(losses, self._loss_scale(), apart=True)

    def _loss_scale(self):
        return self.scaler.scale(torch.ones((), device=self.device)) if self.scaler.is_enabled() else None
