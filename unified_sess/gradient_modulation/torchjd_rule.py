"""Aggregators of TorchJD (https://torchjd.org) as a rule of gradient modulation."""

import importlib
from collections.abc import Sequence
from types import FunctionType
from typing import Any

import torch

from unified_sess.gradient_modulation.flat_gradients import Gradients
from unified_sess.gradient_modulation.rule_description import ModulationError, name_and_arguments


class TorchJDRule:
    """An aggregator of TorchJD for each group, called with its two-row Jacobian matrix (SE, SS).

    Arguments
    ---------
    rule : str
        `torchjd:NAME` or `torchjd:NAME(argument=value, ...)`.

    Raises
    ------
    ModulationError
        When TorchJD is missing, has no such aggregator, or it takes other arguments.
    """

    def __init__(self, rule: str) -> None:
        try:
            module = importlib.import_module("torchjd.aggregation")
        except ImportError as error:
            raise ModulationError(f"{rule} needs TorchJD: pip install torchjd (the extra `torchjd`)") from error
        self.name, arguments = name_and_arguments(rule.partition(":")[2], "torchjd:CAGrad(c=0.4)")
        base = module.Aggregator
        known = {n: c for n, c in vars(module).items() if isinstance(c, type) and issubclass(c, base) and c is not base}
        if self.name not in known:
            raise ModulationError(f"TorchJD has no aggregator {self.name!r}: choose {', '.join(sorted(known))}")
        self.make = lambda: known[self.name](**arguments)
        try:
            aggregator = self.make()
        except ImportError as error:
            raise ModulationError(f"{rule}: {error}") from error
        except (TypeError, ValueError) as error:
            raise ModulationError(f"{rule} needs other arguments, torchjd:{self.name}(...): {error}") from error
        try:
            with torch.random.fork_rng([]), torch.no_grad():
                aggregator(torch.tensor([[1.0, 0.5], [0.5, 1.0]]))
        except (TypeError, ValueError, RuntimeError) as error:
            raise ModulationError(f"{rule} does not take the gradients of two tasks: {error}") from error
        self.aggregators: dict[int, Any] = {}
        self.calls = 0
        self._remembered: dict[int, list[dict[str, Any]]] = {}

    def __call__(self, se_grads: Gradients, ss_grads: Gradients, members: Sequence[int]) -> list[torch.Tensor | None]:
        merged: list[torch.Tensor | None] = [None] * len(members)
        groups: dict[int, list[tuple[int, torch.Tensor, torch.Tensor]]] = {}
        for i, (group, se, ss) in enumerate(zip(members, se_grads, ss_grads)):
            either = ss if se is None else se
            if either is not None:
                zeros = torch.zeros_like(either)
                groups.setdefault(group, []).append((i, zeros if se is None else se, zeros if ss is None else ss))
        device = next(iter(groups.values()))[0][1].device
        # Ranks hold different random states, and random aggregators must decide alike on all.
        with torch.random.fork_rng([device] if device.type == "cuda" else []), torch.no_grad():
            torch.manual_seed(self.calls)
            for group, tensors in groups.items():
                rows = zip(*[(se.flatten(), ss.flatten()) for _, se, ss in tensors])
                matrix = torch.stack([torch.cat(row) for row in rows])
                parts = self._aggregate(group, matrix).split([t[1].numel() for t in tensors])
                for (i, se, _), part in zip(tensors, parts):
                    merged[i] = part.view_as(se)
        self.calls += 1
        return merged

    def state_dict(self) -> dict[str, Any]:
        """How often it was called, and what the aggregator of each group remembers."""
        memories = {group: _memory(one, self.make()) for group, one in self.aggregators.items()}
        return {"calls": self.calls, "memories": memories}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on with a saved state; aggregators that keep what cannot be saved start anew."""
        self.calls, self.aggregators = state["calls"], {}  # the number of calls seeds random aggregators
        self._remembered = {group: memory for group, memory in state.get("memories", {}).items() if memory is not None}

    def _aggregate(self, group: int, matrix: torch.Tensor) -> torch.Tensor:
        if (
            not matrix.isfinite().all()
        ):  # many solvers raise on it; the sum is not finite either, so the step is skipped
            return matrix.sum(0)
        if group not in self.aggregators:
            self.aggregators[group] = self.make().to(matrix.device)
            for part, memory in zip(self.aggregators[group].modules(), self._remembered.get(group, ())):
                for name, value in memory.items():
                    if isinstance(value, tuple) and value and isinstance(value[0], torch.Tensor):
                        value = value[0] if value[1] else value[0].to(matrix.device)
                    setattr(part, name, value)
        return self.aggregators[group](matrix)


def _memory(aggregator: torch.nn.Module, fresh: torch.nn.Module) -> list[dict[str, Any]] | None:
    """What each part of an aggregator holds otherwise than a fresh one; None where that is no plain value.

    A tensor stands on the CPU, beside whether it was there.
    """
    memory: list[dict[str, Any]] = []
    for part, new in zip(aggregator.modules(), fresh.modules()):
        before, now = _attributes(new), _attributes(part)
        changed = {name: value for name, value in now.items() if name not in before or not _alike(value, before[name])}
        if not all(map(_is_plain, changed.values())):
            return None
        memory.append({k: (v.cpu(), v.is_cpu) if isinstance(v, torch.Tensor) else v for k, v in changed.items()})
    return memory


def _attributes(part: torch.nn.Module) -> dict[str, Any]:
    inside = set(vars(torch.nn.Module()))
    own = {name: value for name, value in vars(part).items() if name not in inside}
    return {k: v for k, v in own.items() if not isinstance(v, FunctionType)} | dict(part.named_buffers(recurse=False))


def _alike(value: object, other: object) -> bool:
    if isinstance(value, torch.Tensor) or isinstance(other, torch.Tensor):
        return (
            isinstance(value, torch.Tensor)
            and isinstance(other, torch.Tensor)
            and torch.equal(value.cpu(), other.cpu())
        )
    return value is other or (_is_plain(value) and type(value) is type(other) and value == other)


def _is_plain(value: object) -> bool:
    if isinstance(value, (tuple, list)):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, (torch.Tensor, torch.dtype, torch.device, str, bool, int, float))
