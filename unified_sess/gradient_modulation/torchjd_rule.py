"""Aggregators of TorchJD (https://torchjd.org) as a rule of gradient modulation."""

import importlib
from collections.abc import Sequence
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
            self.make()
        except ImportError as error:
            raise ModulationError(f"{rule}: {error}") from error
        except (TypeError, ValueError) as error:
            raise ModulationError(f"{rule} needs other arguments, torchjd:{self.name}(...): {error}") from error
        self.aggregators: dict[int, Any] = {}
        self.calls = 0

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

    def _aggregate(self, group: int, matrix: torch.Tensor) -> torch.Tensor:
        if (
            not matrix.isfinite().all()
        ):  # many solvers raise on it; the sum is not finite either, so the step is skipped
            return matrix.sum(0)
        if group not in self.aggregators:
            self.aggregators[group] = self.make().to(matrix.device)
        return self.aggregators[group](matrix)
