"""Choices of `GradientModulation`: wrong ones, what is not installed, TorchJD's rules, equal norms, steps."""

import ast
import importlib
import sys
from pathlib import Path

import pytest
import torch

from unified_sess.gradient_modulation import GradientModulation, ModulationError
from unified_sess.gradient_modulation import modulation as gradient_modulation


@pytest.mark.parametrize(
    "arguments, words",
    [
        (("gmm",), "unknown"),
        (("gm", "layer"), "unknown"),
        (("torchjd:Nothing",), "no aggregator"),
        (("torchjd:CAGrad",), "argument"),
        (("torchjd:Krum(n_byzantine=1)",), "gradients of two tasks"),
        (("torchjd:CAGrad(c=",), "not like"),
        (("remedy(5)",), r"not like remedy\(K=5\)"),
        (("remedy(K=0)",), "above 0"),
        (("remedy(K='much')",), "remedy takes K"),
        (("remedy(threshold=5)",), "remedy takes K"),
        (("gm(K=5)",), "no arguments"),
    ],
)
def test_wrong_choices_are_one_clear_line(arguments, words):
    if arguments[0].startswith("torchjd"):
        pytest.importorskip("torchjd")
    with pytest.raises(ModulationError, match=words) as error:
        GradientModulation(*arguments)
    assert "\n" not in str(error.value)


def test_missing_torchjd_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchjd.aggregation", None)
    with pytest.raises(ModulationError, match="pip install"):
        GradientModulation("torchjd:MGDA")


def test_torchjd_gives_the_merged_gradient_only():
    pytest.importorskip("torchjd")
    with pytest.raises(ModulationError, match="merged gradient only"):
        GradientModulation("torchjd:MGDA").modulate([torch.ones(2)], [torch.ones(2)])


def test_module_granularity_needs_names():
    with pytest.raises(ModulationError, match="names"):
        GradientModulation("gm", "module")([torch.ones(2)], [torch.ones(2)])
    with pytest.raises(ModulationError, match="2 parameters"):
        GradientModulation("gm", names=["a", "b"])([torch.ones(2)], [torch.ones(2)])


def test_imports_torch_only():
    waiting, seen, others = [gradient_modulation.__name__], set(), set()
    while waiting:
        name = waiting.pop()
        seen.add(name)
        tree = ast.parse(Path(importlib.import_module(name).__file__).read_text(encoding="utf-8"))
        imported = {a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
        imported |= {n.module for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}
        ours = {name for name in imported if name.startswith("unified_sess")}
        waiting += ours - seen
        others |= {name.split(".")[0] for name in imported - ours}
    assert len(seen) > 1
    assert others - sys.stdlib_module_names == {"torch"}


@pytest.mark.parametrize("rule", ["sum", "gm", "pcgrad", "torchjd:MGDA"])
def test_with_equal_norms_lambda_says_nothing(rule):
    if rule.startswith("torchjd"):
        pytest.importorskip("torchjd")
    generator = torch.Generator().manual_seed(0)
    se, ss = ([torch.randn(5, 4, generator=generator), torch.randn(3, generator=generator)] for _ in range(2))
    merged = [GradientModulation(rule, equal_norms=True)([w * g for g in se], ss) for w in (0.01, 100.0)]
    torch.testing.assert_close(merged[0], merged[1])
    if rule == "sum":
        length = [torch.cat([g.flatten() for g in gradients]).norm() for gradients in (se, ss)]
        torch.testing.assert_close(merged[0], [s + g * length[1] / length[0] for g, s in zip(se, ss)])


@pytest.mark.parametrize("granularity", ["tensor", "global"])
def test_conflict_of_steps_is_taken_out_where_the_weights_go(granularity):
    generator = torch.Generator().manual_seed(0)
    se, ss = ([torch.randn(6, generator=generator) for _ in range(20)] for _ in range(2))
    factors = [torch.rand(6, generator=generator) ** 4 + 1e-3 for _ in range(20)]
    merged = GradientModulation("gm", granularity)(se, ss, preconditioner=factors)

    def opposes(gradients):
        """How far the SE part of a merged gradient goes against the SS part, both as steps, at most."""
        dots = torch.stack([((m - s) * f) @ (s * f) for m, s, f in zip(gradients, ss, factors)])
        return float((dots if granularity == "tensor" else dots.sum()).min())

    assert opposes(merged) > -1e-5
    if granularity == "tensor":
        assert opposes(GradientModulation("gm")(se, ss)) < -1e-3  # the gradient's own projection does not do that
    same = GradientModulation("gm", granularity)(se, ss, preconditioner=[torch.full((6,), 0.5)] * 20)
    torch.testing.assert_close(same, GradientModulation("gm", granularity)(se, ss))


@pytest.mark.parametrize("name", ["AlignedMTL", "ConFIG", "IMTLG", "UPGrad", "CAGrad(c=0.4)", "Random"])
def test_torchjd_s_rules_of_the_ablation_run_with_the_extra(name):
    pytest.importorskip("torchjd")
    for module in {"UPGrad": ("qpsolvers", "quadprog"), "CAGrad(c=0.4)": ("cvxpy", "clarabel")}.get(name, ()):
        pytest.importorskip(module)
    merged = GradientModulation(f"torchjd:{name}", "global")([torch.tensor([-0.5, 1.0])], [torch.tensor([1.0, 0.0])])
    assert merged[0].shape == (2,) and merged[0].isfinite().all() and merged[0].abs().sum() > 0


G32 = [torch.tensor([-1.0, 1.0, 2.0])]


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda m: m(G32, [torch.tensor([1.0])]), "shapes \\[3\\] \\(SE\\) and \\[1\\] \\(SS\\)"),
        (lambda m: [m(G32, G32), m(2 * G32, 2 * G32)], "2 parameters where there were 1: call reset"),
        (lambda m: m(2 * G32, 2 * G32, preconditioner=G32), "1 factors for 2 SE and 2 SS"),
        (lambda m: m([torch.ones(2, dtype=torch.complex64)], [torch.ones(2, dtype=torch.complex64)]), "complex"),
    ],
)
def test_gradients_that_do_not_fit_are_refused(call, says):
    """Another shape was spread over the gradient, other numbers of tensors mixed up the statistics, in silence."""
    with pytest.raises(ModulationError, match=says):
        call(GradientModulation("gm"))


def test_the_wider_of_two_kinds_of_numbers_is_kept():
    """Half precision of one task made the other's gradient infinite."""
    (merged,) = GradientModulation("gm")([torch.ones(2, dtype=torch.float16)], [torch.full((2,), 1e6)])
    assert merged.dtype == torch.float32 and merged.tolist() == [1000001.0, 1000001.0]
    a, b = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])
    (merged, other) = GradientModulation("gm")([a, a], [b, b], preconditioner=[None, torch.ones(2)])
    assert merged.tolist() == other.tolist() == [1.0, 1.0]


def test_statistics_without_names_say_nothing_of_modules():
    plain, of_modules = GradientModulation("gm"), GradientModulation("gm", "module", names=None)
    plain(G32, G32)
    of_modules.load_state_dict(plain.state_dict())
    assert of_modules.statistics()["conflict_rate"] is None
