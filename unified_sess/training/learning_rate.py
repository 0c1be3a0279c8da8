"""The learning rate, epoch by epoch and module by module.

The rate of the experiment is one number; a module's is that number times its factor (`lr_factors`), which may be 0.
"""

from types import SimpleNamespace
from typing import Any

import torch
from speechbrain.nnet.schedulers import ReduceLROnPlateau

from unified_sess.utils.errors import UserError


class LearningRate:
    """The rate of the coming steps.

    Arguments
    ---------
    asked : float
        `lr` of the experiment, the rate of the first epoch.
    factors : dict of str to float
        Multiples of it by module; 1 for the others.
    scheduler : callable
        SpeechBrain's: `ReduceLROnPlateau`, or a function of the epoch such as `LinearScheduler`; None keeps the rate.
    warmup : int
        Steps of the optimizer at the start over which the rate grows linearly to what it would be.
    """

    def __init__(self, asked: float, factors: dict, scheduler: Any = None, warmup: int = 0) -> None:
        self.asked, self.factors, self.scheduler, self.warmup = asked, factors, scheduler, warmup
        self.value = asked

    def groups(self, modules: torch.nn.ModuleDict) -> list:
        """Parameter groups for an optimizer, one a module with anything to train.

        Raises
        ------
        UserError
            When nothing is to train.
        """
        trained = {name: [p for p in module.parameters() if p.requires_grad] for name, module in modules.items()}
        self.modules = [name for name, parameters in trained.items() if parameters]
        if not self.modules:
            raise UserError("every module is frozen, so there is nothing to train: shorten freeze")
        return [{"params": trained[name], "lr": self.value * self._factor(name)} for name in self.modules]

    def apply(self, optimizer: torch.optim.Optimizer) -> None:
        """Give an optimizer made of `groups` the rate."""
        self._give(optimizer, self.value)

    def warm_up(self, optimizer: torch.optim.Optimizer, step: int) -> None:
        """Give it the rate of a step of the optimizer, the first of which is 1, while it still grows."""
        if step <= self.warmup:
            self._give(optimizer, self.value * step / self.warmup)

    def _give(self, optimizer, value):
        for group, name in zip(optimizer.param_groups, self.modules, strict=True):
            group["lr"] = value * self._factor(name)

    def end_epoch(self, epoch: int, loss: float) -> None:
        """Set the rate of the next epoch; `loss` is that of validation, NaN where it has none."""
        if self.scheduler is None:
            return
        if not isinstance(self.scheduler, ReduceLROnPlateau):
            _, self.value = self.scheduler(epoch)
        elif loss == loss:  # the scheduler would keep NaN as the loss to compare with
            _, self.value = self.scheduler([SimpleNamespace(param_groups=[{"lr": self.value}])], epoch, loss)

    def resume(self, epochs: int, state: dict) -> None:
        """Set the rate of the first step after a resume: the one asked for, as the schedule has changed it since.

        Arguments
        ---------
        epochs : int
            Whole epochs that were trained.
        state : dict
            `state()` at the time of the checkpoint.
        """
        self.value = self.asked
        if self.scheduler is None or epochs == 0:
            return
        if not isinstance(self.scheduler, ReduceLROnPlateau):
            _, self.value = self.scheduler(epochs)
        elif state["asked"] == self.asked:
            self.value = state["value"]

    def state(self) -> dict:
        """What `resume` takes."""
        return {"asked": self.asked, "value": self.value}

    def state_of(self, optimizer: torch.optim.Optimizer) -> dict:
        """`state()` of a checkpoint of before it was saved, from the optimizer that it recovered."""
        groups = [g for g in optimizer.param_groups if g.get("lr_factor")]
        return {"asked": self.asked, "value": groups[0]["lr"] / groups[0]["lr_factor"] if groups else self.asked}

    def _factor(self, name):
        return float(self.factors.get(name, 1.0))


class FallAtEnd:
    """A rate that stays and falls linearly to nothing over the last epochs, so that a training can be prolonged.

    Give more epochs while the rate is still constant, and the fall comes later.

    Arguments
    ---------
    lr : float
        The rate.
    epochs : int
        Of the whole training.
    falling : int
        How many of them, at the end, have less than the whole rate; 0 keeps it.

    Example
    -------
    >>> schedule = FallAtEnd(0.001, epochs=10, falling=4)
    >>> [schedule(epoch)[1] for epoch in (5, 6, 7, 9)]
    [0.001, 0.0008, 0.0006, 0.0002]
    """

    def __init__(self, lr: float, epochs: int, falling: int = 0) -> None:
        self.lr, self.epochs, self.falling = lr, epochs, falling

    def __call__(self, epoch: int) -> tuple[float, float]:
        """The rate of an epoch and that of the next; SpeechBrain's interface."""
        return self._rate(epoch - 1), self._rate(epoch)

    def _rate(self, done):
        left = max(0, self.epochs - done)
        return self.lr * min(1.0, left / (self.falling + 1))
