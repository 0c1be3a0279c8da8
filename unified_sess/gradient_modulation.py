"""Gradient modulation: merge the gradients of speech enhancement (SE) and of separation (SS) on shared parameters.

Every rule but TorchJD's is a function of three numbers a group of tensors, ||G_SE||^2, <G_SE, G_SS> and ||G_SS||^2,
and gives the 2 x 2 coefficients of G_SE' and G_SS'. All groups are handled at once in two flat buffers: a handful of
large kernels a step, and the device never waits for the host. Imports torch only.
"""

import ast
import importlib

import torch

GRANULARITIES = ("tensor", "module", "global")
COLUMNS = ("conflict_rate", "cosine", "se_norm", "ss_norm")
_ROW = 1024  # every tensor starts at a multiple of it in the flat buffer, so that a row belongs to one tensor


class ModulationError(ValueError):
    """A rule or granularity that does not exist or cannot be used; the message names the way out."""


class Sum:
    """Joint training: both gradients stay as they are."""

    def __call__(self, se, dot, ss):
        one, zero = torch.ones_like(dot), torch.zeros_like(dot)
        return (one, zero), (zero, one)


class OneSidedProjection(Sum):
    """Gradient modulation, arXiv 2302.11131: where <G_SE, G_SS> < 0, G_SE' = G_SE - (<G_SE, G_SS> / ||G_SS||^2) G_SS."""

    def __call__(self, se, dot, ss):
        (one, _), (zero, _) = super().__call__(se, dot, ss)
        return (one, -_quotient(dot.clamp(max=0), ss)), (zero, one)


class PCGrad(OneSidedProjection):
    """PCGrad of two tasks, arXiv 2001.06782, algorithm 1: each is projected on the normal plane of the other."""

    def __call__(self, se, dot, ss):
        to_se, (_, one) = super().__call__(se, dot, ss)
        return to_se, (-_quotient(dot.clamp(max=0), se), one)


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
    """

    def __init__(self, K=5.0):
        if not float(K) > 0:
            raise ValueError(f"K must be above 0, not {K}")
        self.threshold = float(K)

    def __call__(self, se, dot, ss):
        (one, projection), (zero, _) = super().__call__(se, dot, ss)
        conflict = (dot < 0) & (ss > 0)
        cosine = _quotient(dot, se.sqrt() * ss.sqrt()).clamp(-1, 1)
        sine = (1 - cosine.square()).sqrt()
        # ||P|| = ||G_SE|| sin, so the push is sin * G_SS.
        push = torch.where(conflict, sine, zero)
        norm = torch.where(conflict, sine * (se + ss).sqrt(), se.sqrt())
        new_cosine = torch.where(conflict, _quotient(sine * ss.sqrt(), norm), cosine)
        rescale = (norm > self.threshold * ss.sqrt()) & (new_cosine != 0)
        compress = torch.where(rescale, new_cosine, one)
        stretch = torch.where(rescale, 1 / new_cosine.clamp(min=1e-6), one)
        return (compress, compress * (projection + push)), (zero, stretch)


RULES = {"sum": Sum, "gm": OneSidedProjection, "pcgrad": PCGrad, "remedy": Remedy}


class GradientModulation:
    """Merge two lists of gradients by a rule and keep the statistics of their conflict.

    Arguments
    ---------
    rule : str
        `sum` (joint training), `gm` (arXiv 2302.11131), `pcgrad` (arXiv 2001.06782), `remedy` (arXiv 2302.11362,
        see `Remedy`), or `torchjd:NAME`, an aggregator of TorchJD; with arguments as in `remedy(K=5)` and
        `torchjd:CAGrad(c=0.4)`. TorchJD takes a Python loop over the groups and many aggregators wait for the
        device; what an aggregator remembers between steps is not saved in a checkpoint.
    granularity : str
        What is compared: each `tensor`, all tensors of a `module` (the layer that owns them; needs names), or the
        `global` vector of all.
    module_of : callable
        Name of a tensor to the name of its module; by default the name up to its last dot.
    names : list of str
        Names of the tensors, as in `encoder.conv1d.weight`; also given by `bind`.

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

    def __init__(self, rule="gm", granularity="tensor", module_of=None, names=None):
        if granularity not in GRANULARITIES:
            raise ModulationError(f"granularity {granularity!r} is unknown: choose {', '.join(GRANULARITIES)}")
        self.rule, self.granularity = str(rule), granularity
        self.aggregator, self.coefficients = None, None
        if self.rule.startswith("torchjd:"):
            self.aggregator = _TorchJD(self.rule)
        else:
            self.coefficients = _rule(self.rule)
        self.module_of = module_of or (lambda name: name.rpartition(".")[0] or name)
        self.names, self._layouts = None, {}
        self.reset()
        if names is not None:
            self.bind(names)

    def bind(self, names):
        """Name the tensors of all later calls, in their order; forgets the statistics of other names."""
        if self.names != list(names):
            self.names, self._layouts = list(names), {}
            self.reset()

    def __call__(self, se_grads, ss_grads, scale=None):
        """Merge gradients.

        Arguments
        ---------
        se_grads, ss_grads : list of torch.Tensor
            Gradients of lambda * L_SE and of L_SS, pairwise of one shape; None where a task does not use a parameter.
        scale : float or torch.Tensor
            Factor that both gradients carry (loss scale of mixed precision); only the statistics divide by it.

        Returns
        -------
        merged : list of torch.Tensor
            G_SE' + G_SS' of every parameter; None where both gradients are None.
        """
        pair = self._measure(se_grads, ss_grads, scale)
        if pair is None:
            return [None] * len(se_grads)
        if self.aggregator is not None:
            return self.aggregator(se_grads, ss_grads, pair.layout.members[self.granularity])
        (a, b), (c, d) = self._coefficients(pair)
        return pair.combine(a + c, b + d, last=True)

    def modulate(self, se_grads, ss_grads, scale=None):
        """Like the call, but the modified gradients one by one: the lists G_SE' and G_SS'; not for TorchJD."""
        if self.aggregator is not None:
            raise ModulationError(f"{self.rule} gives the merged gradient only: call the GradientModulation itself")
        pair = self._measure(se_grads, ss_grads, scale)
        if pair is None:
            return [None] * len(se_grads), [None] * len(se_grads)
        to_se, to_ss = self._coefficients(pair)
        return pair.combine(*to_se), pair.combine(*to_ss, last=True)

    def reset(self):
        """Forget the statistics, as at the start of an epoch."""
        self._sums = {}

    def statistics(self):
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

    def table(self):
        """The statistics of every tensor and module: a list of dicts with `level`, `name` and `COLUMNS`."""
        rows = []
        for level in ("tensor", "module"):
            sums = self._sums.get(level, torch.zeros(0, 6)).tolist()
            names = _groups(self.names or [str(i) for i in range(len(sums))], level, self.module_of)[0]
            rows += [{"level": level, "name": name} | _means(row) for name, row in zip(names, sums)]
        return rows

    def state_dict(self):
        """The statistics so far, to be saved."""
        sums = {key: value.cpu() for key, value in self._sums.items()}
        return {"names": self.names, "sums": sums, "calls": self.aggregator.calls if self.aggregator else 0}

    def load_state_dict(self, state):
        """Go on with saved statistics; those of other tensors are left aside."""
        self._sums = dict(state["sums"]) if self.names in (None, state["names"]) else {}
        if self.aggregator:
            self.aggregator.calls = state["calls"]  # the seed of random aggregators

    def _measure(self, se_grads, ss_grads, scale):
        """Both gradients in flat buffers, their products, and the statistics one call further."""
        se_grads, ss_grads = list(se_grads), list(ss_grads)
        names = self.names or [str(i) for i in range(len(se_grads))]
        if not len(se_grads) == len(ss_grads) == len(names):
            raise ModulationError(f"{len(se_grads)} SE and {len(ss_grads)} SS gradients for {len(names)} parameters")
        if self.granularity == "module" and self.names is None:
            raise ModulationError("granularity 'module' needs the names of the parameters: give them to bind")
        either = [b if a is None else a for a, b in zip(se_grads, ss_grads)]
        if all(g is None for g in either):
            return None
        key = tuple(None if g is None else (g.shape, g.dtype, g.device) for g in either)
        if key not in self._layouts:
            self._layouts[key] = _Layout(either, names, self.module_of, with_modules=self.names is not None)
        pair = _FlatPair(self._layouts[key], se_grads, ss_grads)
        new = {level: _measures(*pair.grams[level], 1.0 if scale is None else scale) for level in pair.grams}
        new["nonfinite"] = (~pair.finite).sum().double()
        for name, value in new.items():
            self._sums[name] = self._sums[name].to(value.device) + value if name in self._sums else value
        return pair

    def _coefficients(self, pair):
        index = pair.layout.index[self.granularity]
        gram, _ = pair.grams[self.granularity]
        return tuple(tuple(c[index] for c in row) for row in self.coefficients(*gram))


class _Layout:
    """Where each gradient lies in a flat buffer `[rows, 1024]`, and the groups; made once for a list of shapes."""

    def __init__(self, tensors, names, module_of, with_modules):
        self.tensors = [None if t is None else (t.shape, t.dtype) for t in tensors]
        sizes = [0 if t is None else t.numel() for t in tensors]
        rows = [-(-size // _ROW) for size in sizes]
        self.starts = [sum(rows[:i]) * _ROW for i in range(len(rows))]
        self.rows = sum(rows)
        first = next(t for t in tensors if t is not None)
        self.device = first.device
        self.dtype = torch.float64 if any(t is not None and t.dtype == torch.float64 for t in tensors) else torch.float32
        self.lengths = torch.tensor(rows, device=self.device)
        self.row_of = torch.repeat_interleave(torch.arange(len(rows)), torch.tensor(rows)).to(self.device)
        self.used = torch.tensor([t is not None for t in tensors], device=self.device)
        self.members, self.index, self.membership = {}, {}, {}
        for level in GRANULARITIES if with_modules else ("tensor", "global"):
            groups, members = _groups(names, level, module_of)
            self.members[level] = members
            self.index[level] = torch.tensor(members, device=self.device)
            ones = torch.nn.functional.one_hot(torch.tensor(members), len(groups)).double()
            self.membership[level] = None if level == "tensor" else ones.to(self.device)

    def views(self, buffer):
        """The flat buffer as tensors of the parameters' shapes; None for a parameter that neither task uses."""
        flat = buffer.view(-1)
        spans = zip(self.starts, self.tensors)
        return [None if t is None else flat[start : start + t[0].numel()].view(t[0]) for start, t in spans]

    def flatten(self, gradients):
        """Gradients to a new buffer, zeros where there is none."""
        buffer = torch.zeros(self.rows, _ROW, dtype=self.dtype, device=self.device)
        pairs = [(view, g.detach()) for view, g in zip(self.views(buffer), gradients) if g is not None]
        if pairs:
            torch._foreach_copy_(*map(list, zip(*pairs)))
        return buffer

    def reduce(self, of_rows, how):
        """Numbers of the rows `[rows]` to those of the tensors `[tensors]`, added in a fixed order."""
        return torch.segment_reduce(of_rows, how, lengths=self.lengths, initial=0, unsafe=True)


class _FlatPair:
    """Both gradients, each tensor scaled by a power of two to a largest value in [1, 2), and their products.

    grams : level to (`[3, groups]` of ||G_SE||^2, <G_SE, G_SS>, ||G_SS||^2 in float64, `[groups]` whether measured)
        A tensor that is not finite counts as zero, so it does not reach the others of its group.
    """

    def __init__(self, layout, se_grads, ss_grads):
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

    def _scaled(self, gradients):
        buffer = self.layout.flatten(gradients)
        largest = torch.maximum(buffer.amax(1), -buffer.amin(1))  # the norm of order inf is ten times as slow on a CPU
        largest = self.layout.reduce(torch.where(largest.isfinite(), largest, float("inf")), "max")
        finite = largest.isfinite()
        exponent = torch.frexp(torch.where(finite & (largest > 0), largest, 1)).exponent - 1
        exponent = exponent.clamp(min=-126 if buffer.dtype == torch.float32 else -1022)  # its inverse must exist too
        unit = torch.ldexp(torch.ones_like(exponent, dtype=torch.float64), exponent)
        return buffer.mul_(self._rows(1 / unit)), unit, finite

    def _rows(self, of_tensors):
        return of_tensors.to(self.layout.dtype)[self.layout.row_of].unsqueeze(1)

    def combine(self, a, b, last=False):
        """a * G_SE + b * G_SS of every tensor; `a` and `b` are `[tensors]`. The last time, G_SE's buffer is used up."""
        # b alone may overflow float32 (1e18 against 1e-20), b times the unit of G_SS does not.
        buffer = (self.se if last else self.se.clone()).mul_(self._rows(a * self.se_unit))
        buffer.addcmul_(self.ss, self._rows(b * self.ss_unit))
        spans = zip(self.layout.views(buffer), self.layout.tensors)
        return [None if view is None else view.to(t[1]) for view, t in spans]


class _TorchJD:
    """An aggregator of TorchJD for each group, called with its two-row Jacobian matrix (SE, SS)."""

    def __init__(self, rule):
        try:
            module = importlib.import_module("torchjd.aggregation")
        except ImportError as error:
            raise ModulationError(f"{rule} needs TorchJD: pip install 'unified_sess[torchjd]'") from error
        self.name, arguments = _name_and_arguments(rule.partition(":")[2], "torchjd:CAGrad(c=0.4)")
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
        self.aggregators, self.calls = {}, 0

    def __call__(self, se_grads, ss_grads, members):
        merged = [None] * len(members)
        groups = {}
        for i, (group, se, ss) in enumerate(zip(members, se_grads, ss_grads)):
            if se is not None or ss is not None:
                groups.setdefault(group, []).append(
                    (i, torch.zeros_like(ss) if se is None else se, torch.zeros_like(se) if ss is None else ss)
                )
        device = next(iter(groups.values()))[0][1].device
        # Ranks hold different random states, and random aggregators must decide alike on all.
        with torch.random.fork_rng([device] if device.type == "cuda" else []), torch.no_grad():
            torch.manual_seed(self.calls)
            for group, tensors in groups.items():
                matrix = torch.stack([torch.cat([t[row].flatten() for t in tensors]) for row in (1, 2)])
                parts = self._aggregate(group, matrix).split([t[1].numel() for t in tensors])
                for (i, se, _), part in zip(tensors, parts):
                    merged[i] = part.view_as(se)
        self.calls += 1
        return merged

    def _aggregate(self, group, matrix):
        if not matrix.isfinite().all():  # many solvers raise on it; the sum is not finite either, so the step is skipped
            return matrix.sum(0)
        if group not in self.aggregators:
            self.aggregators[group] = self.make().to(matrix.device)
        return self.aggregators[group](matrix)


def _rule(description):
    name, arguments = _name_and_arguments(description, "remedy(K=5)")
    if name not in RULES:
        choices = f"{', '.join(RULES)} or torchjd:NAME"
        raise ModulationError(f"gradient modulation {description!r} is unknown: choose {choices}")
    try:
        return RULES[name](**arguments)
    except (TypeError, ValueError) as error:
        takes = "K, as in remedy(K=5)" if name == "remedy" else "no arguments"
        raise ModulationError(f"gradient modulation {description!r}: {name} takes {takes} ({error})") from error


def _name_and_arguments(description, example):
    """`NAME` or `NAME(argument=value, ...)`, taken apart."""
    if "(" not in description:
        return description, {}
    try:
        call = ast.parse(description, mode="eval").body
        if call.args:
            raise ValueError
        return call.func.id, {k.arg: ast.literal_eval(k.value) for k in call.keywords}
    except (SyntaxError, ValueError, AttributeError) as error:
        raise ModulationError(f"gradient modulation {description!r} is not like {example}") from error


def _groups(names, level, module_of):
    """Names of the groups of a level, and the number of the group of each tensor."""
    if level == "tensor":
        return list(names), list(range(len(names)))
    modules = [module_of(name) if level == "module" else "all" for name in names]
    groups = list(dict.fromkeys(modules))
    return groups, [groups.index(m) for m in modules]


def _quotient(x, y):
    return torch.where(y > 0, x / y, 0)


def _measures(gram, seen, scale):
    """`[groups, 6]`: compared, in conflict, cosine, ||G_SE||, ||G_SS||, seen."""
    se, dot, ss = gram
    compared = (se > 0) & (ss > 0)
    cosine = _quotient(dot, se.sqrt() * ss.sqrt())
    norms = [se.sqrt() / scale, ss.sqrt() / scale]
    return torch.stack([compared.double(), (dot < 0).double(), cosine, *norms, seen.double()], dim=1)


def _means(sums):
    compared, conflicts, cosine, se, ss, seen = sums
    counts = (compared, compared, seen, seen)
    return {n: s / c if c else None for n, s, c in zip(COLUMNS, (conflicts, cosine, se, ss), counts)}
