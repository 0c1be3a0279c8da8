"""An exponential moving average of the weights, which validates, tests and ships in the place of the trained ones."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from speechbrain.utils.checkpoints import mark_as_loader, mark_as_saver, register_checkpoint_hooks
from torch import nn

from unified_sess.utils.errors import UserError


@register_checkpoint_hooks
class WeightAverage:
    """Keeps a second set of weights beside those in the modules, and exchanges the two.

    While training, the modules hold the trained weights and this object their average; `use(True)` exchanges them.
    Checkpoints are saved with the average in the modules, so that whatever reads a module's file gets the average,
    and with the trained weights in this object's own file, so that training goes on exactly where it was.

    Arguments
    ---------
    modules : mapping
        Modules whose trained parameters are averaged.
    decay : float
        0 to 1: what remains of the average in a step; 0.999 averages about 1,000 steps. In the first steps it is less,
        (1 + steps) / (10 + steps), so that the average soon forgets the weights at the start.

    Raises
    ------
    UserError
        For a decay that is no number from 0 to 1.

    Example
    -------
    >>> layer = nn.Linear(1, 1, bias=False)
    >>> average = WeightAverage({"layer": layer}, decay=0.5)
    >>> average.start()
    >>> _ = layer.weight.data.add_(1)
    >>> average.update()
    >>> with average.in_use():
    ...     averaged = layer.weight.item()
    >>> averaged < layer.weight.item()
    True
    """

    def __init__(self, modules: Mapping[str, nn.Module], decay: float) -> None:
        if isinstance(decay, bool) or not isinstance(decay, (int, float)) or not 0 <= decay < 1:
            raise UserError(f"ema_decay must be a number from 0 to below 1, such as 0.999, not '{decay}'")
        self.modules, self.decay = modules, decay
        self.others: dict[str, torch.Tensor] | None = None  # the set of weights that is not in the modules, by name
        self.used = False  # whether the modules hold the average
        self.steps = 0

    def start(self) -> None:
        """Start with the weights that the modules hold, unless a checkpoint brought an average."""
        if self.others is None:
            self.others = {name: p.detach().clone() for name, p in self._parameters().items()}

    @torch.no_grad()
    def update(self) -> None:
        """Take in the weights after a step of training; `RuntimeError` before `start`."""
        if self.others is None:
            raise RuntimeError("the average has not been started: call start()")
        self.steps += 1
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        torch._foreach_lerp_(list(self.others.values()), list(self._parameters().values()), 1 - decay)

    @torch.no_grad()
    def use(self, average: bool) -> None:
        """Put the average, or the trained weights, into the modules; their memory stays where it is."""
        if self.others is None or average == self.used:
            return
        inside, others = list(self._parameters().values()), list(self.others.values())
        copies = [p.clone() for p in inside]
        torch._foreach_copy_(inside, others)
        torch._foreach_copy_(others, copies)
        self.used = average

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """The modules hold the average inside, and afterwards what they held before."""
        before = self.used
        self.use(True)
        try:
            yield
        finally:
            self.use(before)

    def _parameters(self):
        return {
            f"{module}.{name}": p
            for module in self.modules
            for name, p in self.modules[module].named_parameters()
            if p.requires_grad
        }

    @mark_as_saver
    def save(self, path: str | Path) -> None:
        """Write the weights that are not in the modules."""
        torch.save({"steps": self.steps, "used": self.used, "weights": self.others}, path)

    @mark_as_loader
    def load(self, path: str | Path, end_of_epoch: bool) -> None:
        """Read them back; the modules' own files hold the other ones."""
        state = torch.load(path, weights_only=True)
        devices = {name: p.device for name, p in self._parameters().items()}
        self.steps, self.used = state["steps"], state["used"]
        self.others = {name: state["weights"][name].to(device) for name, device in devices.items()}
