"""The conflict of the two tasks beside what it would be by chance.

Two gradients of one task, of different mixtures, conflict too: each mixture pulls its own way, and where the common pull
is weak, a tensor's two gradients are nearly at right angles. Only a conflict of the tasks that goes beyond this is one.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch

from unified_sess.data.batches import Batch
from unified_sess.gradient_modulation import GradientModulation
from unified_sess.training.adam_steps import adam_factors
from unified_sess.training.joint_step import BatchGradients, JointStep

COMPARISONS = {
    "tasks": "SE and SS, same mixtures",
    "tasks_apart": "SE and SS, other mixtures",
    "enhancement": "SE and SE, other mixtures",
    "separation": "SS and SS, other mixtures",
    "steps": "SE and SS, same mixtures, after Adam",
}


class ConflictNull:
    """Every so many steps, compares the gradients of both halves of a batch in all ways of `COMPARISONS`.

    A batch of one mixture is compared with the one before it. Costs about one step more at each measurement, and changes
    nothing in the training. With several processes each measures its own batches; the main process's are written.

    Arguments
    ---------
    joint_step : JointStep
        Of the training.
    every : int
        Steps from one measurement to the next; 0 never measures.
    gradients_of : callable
        A batch to its `BatchGradients`, both apart.
    """

    def __init__(self, joint_step: JointStep, every: int, gradients_of: Callable[[Batch], BatchGradients]) -> None:
        self.every = every if joint_step.with_enhancement else 0
        self.gradients_of, self.shared = gradients_of, joint_step.shared
        names = joint_step.modulation.names
        self.meters = {comparison: GradientModulation("sum", names=names) for comparison in COMPARISONS}
        self.before: Batch | None = None

    def see(self, batch: Batch, step: int, optimizer: torch.optim.Optimizer) -> None:
        """Measure on a batch where that is due before this step."""
        if not self.every:
            return
        due = step % self.every == 0
        if len(batch.ids) > 1:
            half = len(batch.ids) // 2
            halves = [_part(batch, 0, half), _part(batch, half, None)]
        else:
            halves = [b for b in (batch, self.before) if b is not None]
            self.before = batch
        if due and len(halves) == 2:
            devices = [self.shared[0].device] if self.shared[0].is_cuda else []
            with torch.random.fork_rng(devices):  # dropout may draw, and training must not notice
                first, second = (
                    (g.enhancement, g.separation[: len(self.shared)]) for g in map(self.gradients_of, halves)
                )
            self.compare(first, second, adam_factors(optimizer, self.shared))

    def compare(self, first: Sequence, second: Sequence, factors: Sequence[torch.Tensor] | None) -> None:
        """Add the comparisons of two draws, each a pair (G_SE, G_SS) of lists; `factors` are Adam's."""
        for comparison, a, b in (
            ("tasks", first[0], first[1]),
            ("tasks", second[0], second[1]),
            ("tasks_apart", first[0], second[1]),
            ("tasks_apart", second[0], first[1]),
            ("enhancement", first[0], second[0]),
            ("separation", first[1], second[1]),
        ):
            self.meters[comparison].measure(a, b)
        if factors is not None:
            for pair in (first, second):
                se, ss = ([None if g is None else g * f for g, f in zip(gradients, factors)] for gradients in pair)
                self.meters["steps"].measure(se, ss)

    def table(self) -> list[dict[str, Any]]:
        """Rows like those of `GradientModulation.table`, each with its `comparison`; empty where nothing was measured."""
        rows = [{"comparison": name} | row for name, meter in self.meters.items() for row in meter.table()]
        return [row for row in rows if row["cosine"] is not None]

    def reset(self) -> None:
        """Forget the statistics, as at the start of an epoch."""
        for meter in self.meters.values():
            meter.reset()

    def state_dict(self) -> dict[str, Any]:
        """The statistics so far, to be saved."""
        return {name: meter.state_dict() for name, meter in self.meters.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on with saved statistics."""
        for name, meter in self.meters.items():
            if name in state:
                meter.load_state_dict(state[name])


def _part(batch: Batch, start: int, stop: int | None) -> Batch:
    return Batch(batch.ids[start:stop], *(part[start:stop] for part in batch[1:]))
