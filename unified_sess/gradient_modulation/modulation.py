"""Gradient modulation: merge the gradients of speech enhancement (SE) and of separation (SS) on shared parameters.

Every rule but TorchJD's is a function of three numbers a group of tensors, ||G_SE||^2, <G_SE, G_SS> and ||G_SS||^2,
and gives the 2 x 2 coefficients of G_SE' and G_SS'. All groups are handled at once in two flat buffers: a handful of
large kernels a step, and the device never waits for the host. Imports torch only.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch

from unified_sess.gradient_modulation.flat_gradients import (
    GRANULARITIES,
    FlatLayout,
    FlatPair,
    Gradients,
    groups_of,
    quotient,
)
from unified_sess.gradient_modulation.loss_weighting import LOSS_WEIGHTINGS, LossWeighting
from unified_sess.gradient_modulation.rule_description import ModulationError, name_and_arguments
from unified_sess.gradient_modulation.torchjd_rule import TorchJDRule

# Of G_SE and G_SS in G_SE', then of both in G_SS', each `[groups]`.
Coefficients = tuple[tuple[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]
Rule = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], Coefficients]  # ||G_SE||^2, <G_SE, G_SS>, ||G_SS||^2

COLUMNS = ("conflict_rate", "cosine", "se_norm", "ss_norm")


class Sum:
    """Joint training: both gradients stay as they are."""

    def __call__(self, se: torch.Tensor, dot: torch.Tensor, ss: torch.Tensor) -> Coefficients:
        one, zero = torch.ones_like(dot), torch.zeros_like(dot)
        return (one, zero), (zero, one)


class OneSidedProjection(Sum):
    """Gradient modulation, arXiv 2302.11131: where <G_SE, G_SS> < 0, G_SE' = G_SE - (<G_SE, G_SS> / ||G_SS||^2) G_SS."""

    def __call__(self, se: torch.Tensor, dot: torch.Tensor, ss: torch.Tensor) -> Coefficients:
        (one, _), (zero, _) = super().__call__(se, dot, ss)
        return (one, -quotient(dot.clamp(max=0), ss)), (zero, one)


class PCGrad(OneSidedProjection):
    """PCGrad of two tasks, arXiv 2001.06782, algorithm 1: each is projected on the normal plane of the other."""

    def __call__(self, se: torch.Tensor, dot: torch.Tensor, ss: torch.Tensor) -> Coefficients:
        to_se, (_, one) = super().__call__(se, dot, ss)
        return to_se, (-quotient(dot.clamp(max=0), se), one)


class Remedy(OneSidedProjection):
    """Gradient Remedy, arXiv 2302.11362, written for the SE and recognition tasks; here SS is the main task.

    With tan(theta) = ||G_SE|| / ||G_SS||:

    1. Where <G_SE, G_SS> < 0, P = G_SE - (<G_SE, G_SS> / ||G_SS||^2) G_SS is pushed to the acute angle theta with
       G_SS: G_SE' = P + (||P|| / tan(theta)) G_SS / ||G_SS||.
    2. Where then ||G_SE'|| > K ||G_SS|| and c = cos(G_SE', G_SS) is not 0: G_SE'' = c G_SE' and G_SS'' = G_SS / c.

    The formulas and K = 5 are those of the authors' program (YUCHEN005/Gradient-Remedy), checked line by line; the
    paper's own equations were not at hand. Uncertain: the program divides by c however small it is and by a zero
    G_SS; here c is at least 1e-6 in the division, and a zero G_SS leaves G_SE as it is. The program decides for every
    batch before gradients accumulate, here once a step. K was chosen for recognition: no value for separation is
    published.

    Arguments
    ---------
    K : float
        Above 0: how many times as long as G_SS an SE gradient may be; about 1 to 10.

    Raises
    ------
    ValueError
        When K is not above 0.
    """

    def __init__(self, K: float = 5.0) -> None:
        if not float(K) > 0:
            raise ValueError(f"K must be above 0, not {K}")
        self.threshold = float(K)

    def __call__(self, se: torch.Tensor, dot: torch.Tensor, ss: torch.Tensor) -> Coefficients:
        (one, projection), (zero, _) = super().__call__(se, dot, ss)
        conflict = (dot < 0) & (ss > 0)
        cosine = quotient(dot, se.sqrt() * ss.sqrt()).clamp(-1, 1)
        sine = (1 - cosine.square()).sqrt()
        # ||P|| = ||G_SE|| sin, so the push is sin * G_SS.
        push = torch.where(conflict, sine, zero)
        norm = torch.where(conflict, sine * (se + ss).sqrt(), se.sqrt())
        new_cosine = torch.where(conflict, quotient(sine * ss.sqrt(), norm), cosine)
        rescale = (norm > self.threshold * ss.sqrt()) & (new_cosine != 0)
        compress = torch.where(rescale, new_cosine, one)
        stretch = torch.where(rescale, 1 / new_cosine.clamp(min=1e-6), one)
        return (compress, compress * (projection + push)), (zero, stretch)


RULES: dict[str, Callable[..., Rule]] = {"sum": Sum, "gm": OneSidedProjection, "pcgrad": PCGrad, "remedy": Remedy}
TAKES = {
    "remedy": "K, as in remedy(K=5)",
    "uncertainty": "lr, as in uncertainty(lr=0.01)",
    "famo": "lr and weight_decay, as in famo(lr=0.025)",
}


class GradientModulation:
    """Merge two lists of gradients by a rule and keep the statistics of their conflict.

    Arguments
    ---------
    rule : str
        `sum` (joint training), `gm` (arXiv 2302.11131), `pcgrad` (arXiv 2001.06782), `remedy` (arXiv 2302.11362,
        see `Remedy`), or `torchjd:NAME`, an aggregator of TorchJD; with arguments as in `remedy(K=5)` and
        `torchjd:CAGrad(c=0.4)`. TorchJD takes a Python loop over the groups and many aggregators wait for the
        device. What they remember between steps is in a checkpoint, unless an aggregator keeps a solver
        (NashMTL): that one starts anew. Rules of one backward pass
        weigh the losses before it, see `loss_weighting.py`: `random`, `uncertainty(lr=0.01)`, `famo`; merging is then
        the sum.
    granularity : str
        What is compared: each `tensor`, all tensors of a `module` (the layer that owns them; needs names), or the
        `global` vector of all.
    module_of : callable
        Name of a tensor to the name of its module; by default the name up to its last dot.
    names : list of str
        Names of the tensors, as in `encoder.conv1d.weight`; also given by `bind`.
    equal_norms : bool
        Whether the whole G_SE is first made as long as the whole G_SS, so that lambda says nothing.

    Attributes
    ----------
    weighting : LossWeighting
        Of a rule of one backward pass; None of the others.

    Raises
    ------
    ModulationError
        The rule, the granularity or TorchJD's aggregator is unknown, or its arguments are not what it takes.

    Example
    -------
    >>> modulation = GradientModulation("gm")
    >>> modulation([torch.tensor([-1.0, 1.0])], [torch.tensor([1.0, 0.0])])
    [tensor([1., 1.])]
    >>> modulation.statistics()["conflict_rate"]
    1.0
    """

    def __init__(
        self,
        rule: str = "gm",
        granularity: str = "tensor",
        module_of: Callable[[str], str] | None = None,
        names: Sequence[str] | None = None,
        equal_norms: bool = False,
    ) -> None:
        if granularity not in GRANULARITIES:
            raise ModulationError(f"granularity {granularity!r} is unknown: choose {', '.join(GRANULARITIES)}")
        self.rule, self.granularity = str(rule), granularity
        self.aggregator: TorchJDRule | None = None
        self.coefficients: Rule | None = None
        self.weighting: LossWeighting | None = None
        self.equal_norms = equal_norms
        if self.rule.startswith("torchjd:"):
            self.aggregator = TorchJDRule(self.rule)
        else:
            rule_or_weighting = _rule(self.rule)
            self.weighting = rule_or_weighting if isinstance(rule_or_weighting, LossWeighting) else None
            self.coefficients = Sum() if isinstance(rule_or_weighting, LossWeighting) else rule_or_weighting
        self.module_of = module_of or (lambda name: name.rpartition(".")[0] or name)
        self.names: list[str] | None = None
        self._layouts: dict[tuple, FlatLayout] = {}
        self.reset()
        if names is not None:
            self.bind(names)

    def bind(self, names: Sequence[str]) -> None:
        """Name the tensors of all later calls, in their order; forgets the statistics of other names."""
        if self.names != list(names):
            self.names, self._layouts = list(names), {}
            self.reset()

    def __call__(
        self,
        se_grads: Gradients,
        ss_grads: Gradients,
        scale: float | torch.Tensor | None = None,
        preconditioner: Gradients | None = None,
    ) -> list[torch.Tensor | None]:
        """Merge gradients.

        Arguments
        ---------
        se_grads, ss_grads : list of torch.Tensor
            Gradients of lambda * L_SE and of L_SS, pairwise of one shape; None where a task does not use a parameter.
        scale : float or torch.Tensor
            Factor that both gradients carry (loss scale of mixed precision); only the statistics divide by it.
        preconditioner : list of torch.Tensor
            Positive factors of each gradient, such as Adam's, None for 1: conflict is that of the gradients times these,
            which is where the weights go, and what is projected too. Not for TorchJD.

        Returns
        -------
        merged : list of torch.Tensor
            G_SE' + G_SS' of every parameter; None where both gradients are None.

        Raises
        ------
        ModulationError
            When the lists are not of one length, or of another than before, two gradients of one parameter are not of one
            shape, gradients are complex, the names are missing that granularity `module` needs, or TorchJD's rule is given
            a preconditioner.
        """
        if preconditioner is not None and self.aggregator is None:
            return self._merge_of_steps(se_grads, ss_grads, scale, preconditioner)
        if preconditioner is not None:
            raise ModulationError(f"{self.rule} merges gradients, not steps: choose {', '.join(RULES)}")
        pair = self._measure(se_grads, ss_grads, scale)
        if pair is None:
            return [None] * len(se_grads)
        if self.aggregator is not None:
            if self.equal_norms:
                ratio = pair.ratio
                se_grads = [None if g is None else g * ratio.to(g.dtype) for g in se_grads]
            return self.aggregator(se_grads, ss_grads, pair.layout.members[self.granularity])
        (a, b), (c, d) = self._coefficients(pair)
        return pair.combine(a + c, b + d, last=True)

    def _merge_of_steps(
        self,
        se_grads: Gradients,
        ss_grads: Gradients,
        scale: float | torch.Tensor | None,
        preconditioner: Gradients,
    ) -> list[torch.Tensor | None]:
        """Coefficients from the preconditioned gradients, which then merge the gradients themselves."""
        if not len(se_grads) == len(ss_grads) == len(preconditioner):
            raise ModulationError(
                f"{len(preconditioner)} factors for {len(se_grads)} SE and {len(ss_grads)} SS gradients"
            )
        steps = [
            [g if g is None or f is None else g * f.to(g.dtype) for g, f in zip(gradients, preconditioner)]
            for gradients in (se_grads, ss_grads)
        ]
        pair = self._measure(steps[0], steps[1], scale)
        if pair is None:
            return [None] * len(se_grads)
        (a, b), (c, d) = self._coefficients(pair)
        return FlatPair(pair.layout, se_grads, ss_grads).combine(a + c, b + d, last=True)

    def measure(self, se_grads: Gradients, ss_grads: Gradients, scale: float | torch.Tensor | None = None) -> None:
        """Add two gradients to the statistics, without merging them; arguments as in the call."""
        self._measure(se_grads, ss_grads, scale)

    def modulate(
        self, se_grads: Gradients, ss_grads: Gradients, scale: float | torch.Tensor | None = None
    ) -> tuple[list[torch.Tensor | None], list[torch.Tensor | None]]:
        """Like the call, but the modified gradients one by one: the lists G_SE' and G_SS'.

        TorchJD's rules have the merged gradient alone: a `ModulationError`.
        """
        if self.aggregator is not None:
            raise ModulationError(f"{self.rule} gives the merged gradient only: call the GradientModulation itself")
        pair = self._measure(se_grads, ss_grads, scale)
        if pair is None:
            return [None] * len(se_grads), [None] * len(se_grads)
        to_se, to_ss = self._coefficients(pair)
        return pair.combine(*to_se), pair.combine(*to_ss, last=True)

    def reset(self) -> None:
        """Forget the statistics, as at the start of an epoch."""
        self._sums: dict[str, torch.Tensor] = {}

    def statistics(self) -> dict[str, Any]:
        """Means over the calls since the last reset, as floats; None where nothing was measured.

        `conflict_rate` and `cosine` are means over the groups of the granularity (where neither gradient is zero),
        `se_norm` and `ss_norm` those of the whole shared gradients; `nonfinite` counts the gradient pairs of a
        parameter that were not finite.
        """
        if not self._sums:
            return dict.fromkeys(COLUMNS) | {"nonfinite": 0}
        means = _means(self._sums[self.granularity].sum(0).tolist())
        whole = _means(self._sums["global"][0].tolist())
        means |= {name: whole[name] for name in ("se_norm", "ss_norm")}
        return means | {"nonfinite": round(self._sums["nonfinite"].item())}

    def table(self) -> list[dict[str, Any]]:
        """The statistics of every tensor and module: a list of dicts with `level`, `name` and `COLUMNS`."""
        rows = []
        for level in ("tensor", "module"):
            sums = self._sums.get(level, torch.zeros(0, 6)).tolist()
            names = groups_of(self.names or [str(i) for i in range(len(sums))], level, self.module_of)[0]
            rows += [{"level": level, "name": name} | _means(row) for name, row in zip(names, sums)]
        return rows

    def state_dict(self) -> dict[str, Any]:
        """The statistics so far and what the rule remembers, to be saved."""
        sums = {key: value.cpu() for key, value in self._sums.items()}
        state: dict[str, Any] = {"names": self.names, "sums": sums, "rule": self.rule, "granularity": self.granularity}
        if self.weighting is not None:
            state["weighting"] = self.weighting.state_dict()
        return state | (self.aggregator.state_dict() if self.aggregator is not None else {})

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on with a saved state; statistics of other tensors, and what another rule remembers, are left aside."""
        known = self.names in (None, state["names"]) and (not state["sums"] or self.granularity in state["sums"])
        self._sums = dict(state["sums"]) if known else {}
        # Older checkpoints name no rule.
        of_another = _name(state.get("rule", self.rule)) != _name(self.rule)
        if self.aggregator is not None and "calls" in state and not of_another:
            same_groups = state.get("granularity", self.granularity) == self.granularity
            self.aggregator.load_state_dict(state if same_groups else {"calls": state["calls"]})
        if self.weighting is not None and not of_another:
            weighting = state.get("weighting", {})
            if weighting.keys() == self.weighting.state_dict().keys():
                self.weighting.load_state_dict(weighting)

    def _measure(self, se_grads: Gradients, ss_grads: Gradients, scale: float | torch.Tensor | None) -> FlatPair | None:
        """Both gradients in flat buffers, their products, and the statistics one call further."""
        se_grads, ss_grads = list(se_grads), list(ss_grads)
        names = self.names or [str(i) for i in range(len(se_grads))]
        if not len(se_grads) == len(ss_grads) == len(names):
            raise ModulationError(f"{len(se_grads)} SE and {len(ss_grads)} SS gradients for {len(names)} parameters")
        if self.granularity == "module" and self.names is None:
            raise ModulationError("granularity 'module' needs the names of the parameters: give them to bind")
        if self._sums and len(self._sums["tensor"]) != len(names):
            raise ModulationError(
                f"{len(names)} parameters where there were {len(self._sums['tensor'])}: call reset first"
            )
        for name, a, b in zip(names, se_grads, ss_grads):
            if a is not None and b is not None and a.shape != b.shape:
                raise ModulationError(
                    f"gradients of {name} have the shapes {list(a.shape)} (SE) and {list(b.shape)} (SS)"
                )
        either = [_wider(a, b) for a, b in zip(se_grads, ss_grads)]
        if any(g is not None and g.dtype.is_complex for g in either):
            raise ModulationError("complex gradients: give their real and imaginary parts (torch.view_as_real)")
        if all(g is None for g in either):
            return None
        key = tuple(None if g is None else (g.shape, g.dtype, g.device) for g in either)
        if key not in self._layouts:
            self._layouts[key] = FlatLayout(either, names, self.module_of, with_modules=self.names is not None)
        pair = FlatPair(self._layouts[key], se_grads, ss_grads)
        new = {level: _measures(*pair.grams[level], 1.0 if scale is None else scale) for level in pair.grams}
        new["nonfinite"] = (~pair.finite).sum().double()
        for name, value in new.items():
            self._sums[name] = self._sums[name].to(value.device) + value if name in self._sums else value
        return pair

    def _coefficients(self, pair: FlatPair) -> Coefficients:
        index = pair.layout.index[self.granularity]
        se, dot, ss = pair.grams[self.granularity][0]
        assert self.coefficients is not None  # a rule of TorchJD has none, and does not come here
        ratio = pair.ratio if self.equal_norms else torch.ones_like(dot[:1])
        (a, b), (c, d) = self.coefficients(se * ratio.square(), dot * ratio, ss)
        return (a[index] * ratio, b[index]), (c[index] * ratio, d[index])


def _wider(a: torch.Tensor | None, b: torch.Tensor | None) -> torch.Tensor | None:
    """Of two gradients that there are, the one whose numbers hold more."""
    if a is None or b is None:
        return b if a is None else a
    return a if a.dtype == b.dtype or torch.promote_types(a.dtype, b.dtype) == a.dtype else b


def _name(description: str) -> str:
    """`torchjd:NAME` of `torchjd:NAME(argument=value)`."""
    return description.partition("(")[0]


def _rule(description: str) -> Rule | LossWeighting:
    name, arguments = name_and_arguments(description, "remedy(K=5)")
    known: dict[str, Callable[..., Rule | LossWeighting]] = {**RULES, **LOSS_WEIGHTINGS}
    if name not in known:
        choices = f"{', '.join(known)} or torchjd:NAME"
        raise ModulationError(f"gradient modulation {description!r} is unknown: choose {choices}")
    try:
        return known[name](**arguments)
    except (TypeError, ValueError) as error:
        takes = TAKES.get(name, "no arguments")
        raise ModulationError(f"gradient modulation {description!r}: {name} takes {takes} ({error})") from error


def _measures(gram: torch.Tensor, seen: torch.Tensor, scale: float | torch.Tensor) -> torch.Tensor:
    """`[groups, 6]`: compared, in conflict, cosine, ||G_SE||, ||G_SS||, seen."""
    se, dot, ss = gram
    compared = (se > 0) & (ss > 0)
    cosine = quotient(dot, se.sqrt() * ss.sqrt())
    norms = [se.sqrt() / scale, ss.sqrt() / scale]
    return torch.stack([compared.double(), (dot < 0).double(), cosine, *norms, seen.double()], dim=1)


def _means(sums: Sequence[float]) -> dict[str, float | None]:
    compared, conflicts, cosine, se, ss, seen = sums
    counts = (compared, compared, seen, seen)
    return {n: s / c if c else None for n, s, c in zip(COLUMNS, (conflicts, cosine, se, ss), counts)}
