"""The gradients of both tasks in flat buffers: their products by tensor, module or globally, and weighted sums of them."""

from collections.abc import Callable, Sequence

import torch

Gradients = Sequence[torch.Tensor | None]  # of each parameter; None where a task does not use it

GRANULARITIES = ("tensor", "module", "global")
_ROW_LENGTH = 1024  # every tensor starts at a multiple of it in the flat buffer, so that a row belongs to one tensor


class FlatLayout:
    """Where each gradient lies in a flat buffer `[rows, 1024]`, and the groups; made once for a list of shapes."""

    def __init__(
        self,
        tensors: Sequence[torch.Tensor | None],
        names: Sequence[str],
        module_of: Callable[[str], str],
        with_modules: bool,
    ) -> None:
        self.tensors = [None if t is None else (t.shape, t.dtype) for t in tensors]
        sizes = [0 if t is None else t.numel() for t in tensors]
        rows = [-(-size // _ROW_LENGTH) for size in sizes]
        self.starts = [sum(rows[:i]) * _ROW_LENGTH for i in range(len(rows))]
        self.rows = sum(rows)
        first = next(t for t in tensors if t is not None)
        self.device = first.device
        self.dtype = (
            torch.float64 if any(t is not None and t.dtype == torch.float64 for t in tensors) else torch.float32
        )
        self.lengths = torch.tensor(rows, device=self.device)
        self.row_of = torch.repeat_interleave(torch.arange(len(rows)), torch.tensor(rows)).to(self.device)
        self.used = torch.tensor([t is not None for t in tensors], device=self.device)
        self.members, self.index, self.membership = {}, {}, {}
        for level in GRANULARITIES if with_modules else ("tensor", "global"):
            groups, members = groups_of(names, level, module_of)
            self.members[level] = members
            self.index[level] = torch.tensor(members, device=self.device)
            ones = torch.nn.functional.one_hot(torch.tensor(members), len(groups)).double()
            self.membership[level] = None if level == "tensor" else ones.to(self.device)

    def views(self, buffer: torch.Tensor) -> list[torch.Tensor | None]:
        """The flat buffer as tensors of the parameters' shapes; None for a parameter that neither task uses."""
        flat = buffer.view(-1)
        spans = zip(self.starts, self.tensors)
        return [None if t is None else flat[start : start + t[0].numel()].view(t[0]) for start, t in spans]

    def flatten(self, gradients: Gradients) -> torch.Tensor:
        """Gradients to a new buffer, zeros where there is none."""
        buffer = torch.zeros(self.rows, _ROW_LENGTH, dtype=self.dtype, device=self.device)
        pairs = [(v, g.detach()) for v, g in zip(self.views(buffer), gradients) if v is not None and g is not None]
        if pairs:
            torch._foreach_copy_([view for view, _ in pairs], [g for _, g in pairs])
        return buffer

    def reduce(self, of_rows: torch.Tensor, how: str) -> torch.Tensor:
        """Numbers of the rows `[rows]` to those of the tensors `[tensors]`, added in a fixed order."""
        return torch.segment_reduce(of_rows, how, lengths=self.lengths, initial=0, unsafe=True)


class FlatPair:
    """Both gradients, each tensor scaled by a power of two to a largest value in [1, 2), and their products.

    grams : level to (`[3, groups]` of ||G_SE||^2, <G_SE, G_SS>, ||G_SS||^2 in float64, `[groups]` whether measured)
        A tensor that is not finite counts as zero, so it does not reach the others of its group.
    """

    def __init__(self, layout: FlatLayout, se_grads: Gradients, ss_grads: Gradients) -> None:
        self.layout = layout
        self.se, self.se_unit, se_finite = self._scaled(se_grads)
        self.ss, self.ss_unit, ss_finite = self._scaled(ss_grads)
        self.finite = se_finite & ss_finite
        reduce = layout.reduce
        se = reduce(torch.linalg.vector_norm(self.se, dim=1).double().square(), "sum") * self.se_unit.square()
        ss = reduce(torch.linalg.vector_norm(self.ss, dim=1).double().square(), "sum") * self.ss_unit.square()
        dot = reduce(torch.linalg.vecdot(self.se, self.ss).double(), "sum") * self.se_unit * self.ss_unit
        gram = torch.where(self.finite, torch.stack([se, dot, ss]), 0)
        seen = self.finite & layout.used
        self.grams = {}
        for level, membership in layout.membership.items():
            # A product with a 0-1 matrix: index_add_ adds in any order on a GPU, and ranks must decide alike.
            grouped = (gram, seen) if membership is None else (gram @ membership, seen.double() @ membership > 0)
            self.grams[level] = grouped

    @property
    def ratio(self) -> torch.Tensor:
        """||G_SS|| / ||G_SE|| of all tensors together, `[1]`; 0 where G_SE is zero."""
        se, _, ss = self.grams["global"][0]
        return quotient(ss.sqrt(), se.sqrt())

    def _scaled(self, gradients: Gradients) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        buffer = self.layout.flatten(gradients)
        largest = torch.maximum(buffer.amax(1), -buffer.amin(1))  # the norm of order inf is ten times as slow on a CPU
        largest = self.layout.reduce(torch.where(largest.isfinite(), largest, float("inf")), "max")
        finite = largest.isfinite()
        exponent = torch.frexp(torch.where(finite & (largest > 0), largest, 1)).exponent - 1
        exponent = exponent.clamp(min=-126 if buffer.dtype == torch.float32 else -1022)  # its inverse must exist too
        unit = torch.ldexp(torch.ones_like(exponent, dtype=torch.float64), exponent)
        return buffer.mul_(self._rows(1 / unit)), unit, finite

    def _rows(self, of_tensors: torch.Tensor) -> torch.Tensor:
        return of_tensors.to(self.layout.dtype)[self.layout.row_of].unsqueeze(1)

    def combine(self, a: torch.Tensor, b: torch.Tensor, last: bool = False) -> list[torch.Tensor | None]:
        """a * G_SE + b * G_SS of every tensor; `a` and `b` are `[tensors]`. The last time, G_SE's buffer is used up."""
        # b alone may overflow float32 (1e18 against 1e-20), b times the unit of G_SS does not.
        buffer = (self.se if last else self.se.clone()).mul_(self._rows(a * self.se_unit))
        buffer.addcmul_(self.ss, self._rows(b * self.ss_unit))
        spans = zip(self.layout.views(buffer), self.layout.tensors)
        return [None if view is None or t is None else view.to(t[1]) for view, t in spans]


def groups_of(names: Sequence[str], level: str, module_of: Callable[[str], str]) -> tuple[list[str], list[int]]:
    """Names of the groups of a level, and the number of the group of each tensor."""
    if level == "tensor":
        return list(names), list(range(len(names)))
    modules = [module_of(name) if level == "module" else "all" for name in names]
    groups = list(dict.fromkeys(modules))
    return groups, [groups.index(m) for m in modules]


def quotient(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """x / y where y is above 0, else 0."""
    return torch.where(y > 0, x / y, 0)
