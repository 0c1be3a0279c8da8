"""Properties of gradient modulation over gradients of every kind, and agreement with NumPy and TorchJD."""

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from unified_sess.gradient_modulation import GRANULARITIES, RULES, GradientModulation, flat_gradients
from unified_sess.gradient_modulation import modulation as gradient_modulation

SHAPES = [(), (1,), (3,), (5, 7), (1023,), (1024,), (1025,), (16, 1, 64), (4, 0), (70, 90)]
SCALES = [(1, 1), (1e-20, 1e-20), (1e18, 1e18), (1e18, 1e-20), (1e-20, 1e18), (1e3, 1e-3)]
KINDS = ["random", "parallel", "opposed", "nearly opposed", "orthogonal", "zero se", "zero ss", "both zero", "mixed"]
NAMES = [f"encoder.layer{i // 3}.tensor{i}" for i in range(len(SHAPES))]
DTYPES = [torch.float32, torch.float64]


def pair(kind, shape, dtype, se_scale=1.0, ss_scale=1.0):
    """SE and SS gradients of a kind, before scaling of norm about 1 an element."""
    ss, other = torch.randn(shape, dtype=torch.float64), torch.randn(shape, dtype=torch.float64)
    along = (other * ss).sum() / ss.square().sum().clamp(min=1e-300)
    se = {
        "random": other,
        "parallel": 0.7 * ss,
        "opposed": -0.7 * ss,
        "nearly opposed": -ss + 1e-4 * other,
        "orthogonal": other - along * ss,
        "zero se": 0 * ss,
        "zero ss": other,
        "both zero": 0 * ss,
        "mixed": other * 10.0 ** torch.randint(-6, 7, shape).double(),
    }[kind]
    if kind in ("zero ss", "both zero"):
        ss = 0 * ss
    return (se * se_scale).to(dtype), (ss * ss_scale).to(dtype)


def lists(kind, dtype, scales=(1.0, 1.0), shapes=SHAPES):
    """Gradients of all shapes."""
    return map(list, zip(*(pair(kind, shape, dtype, *scales) for shape in shapes)))


def vector(tensors):
    """All values in float64."""
    return torch.cat([t.double().flatten() for t in tensors])


def groups(granularity, tensors):
    """Tensors by the groups of a granularity, as vectors."""
    if granularity == "tensor":
        return [vector([t]) for t in tensors]
    if granularity == "global":
        return [vector(tensors)]
    modules = [name.rpartition(".")[0] for name in NAMES[: len(tensors)]]
    return [vector([t for t, m in zip(tensors, modules) if m == module]) for module in dict.fromkeys(modules)]


def reference(rule, se, ss):
    """The formulas of the papers for one group of float64 NumPy vectors: the pair (G_SE', G_SS')."""
    rule, _, K = rule.rstrip(")").partition("(K=")
    threshold = float(K or 5)
    se, ss = se.numpy(), ss.numpy()
    dot, norm_se, norm_ss = se @ ss, np.linalg.norm(se), np.linalg.norm(ss)
    new_se, new_ss = se, ss
    if rule != "sum" and dot < 0:
        new_se = se - dot / norm_ss**2 * ss
        if rule == "pcgrad":
            new_ss = ss - dot / norm_se**2 * se
        if rule == "remedy":
            new_se = new_se + np.linalg.norm(new_se) / (norm_se / norm_ss) * ss / norm_ss
    if rule == "remedy" and norm_ss > 0 and np.linalg.norm(new_se) > threshold * norm_ss:
        cosine = new_se @ ss / (np.linalg.norm(new_se) * norm_ss)
        if cosine != 0:
            new_se, new_ss = new_se * cosine, ss / max(cosine, 1e-6)
    return torch.from_numpy(new_se), torch.from_numpy(new_ss)


# Remedy's decision hangs on an angle, which is rounding alone in two kinds; test_remedy_properties has its bounds there.
NUMPY_CASES = [(rule, kind) for rule in ("sum", "gm", "pcgrad") for kind in KINDS] + [
    (rule, kind)
    for rule in ("remedy", "remedy(K=0.5)", "remedy(K=50)")
    for kind in KINDS
    if kind not in ("opposed", "orthogonal")
]


@pytest.mark.parametrize("granularity", GRANULARITIES)
@pytest.mark.parametrize("rule, kind", NUMPY_CASES)
def test_agrees_with_numpy(rule, kind, granularity):
    apart = [(1e18, 1e-20), (1e-20, 1e18)] if rule in ("sum", "gm", "pcgrad") else []  # remedy: lost to rounding
    for scales in [(1, 1), (20, 1), (1, 20), (1e18, 1e18), *apart]:
        se, ss = lists(kind, torch.float64, scales)
        merged = GradientModulation(rule, granularity, names=NAMES)(se, ss)
        parts = zip(groups(granularity, se), groups(granularity, ss), groups(granularity, merged))
        for a, b, got in parts:
            new_se, new_ss = reference(rule, a, b)
            # Rounding scales with what is added, not with what is left of it.
            limit = 1e-9 * max(a.norm(), b.norm(), new_ss.norm())
            assert (got - new_se - new_ss).norm() <= limit, (scales, a.shape)


@pytest.mark.parametrize("granularity", GRANULARITIES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("scales", SCALES)
@pytest.mark.parametrize("kind", KINDS)
def test_gm_properties(kind, scales, dtype, granularity):
    se, ss = lists(kind, dtype, scales)
    modulation = GradientModulation("gm", granularity, names=NAMES)
    new_se, new_ss = modulation.modulate(se, ss)
    merged = modulation(se, ss)
    assert all(torch.equal(a, b) for a, b in zip(new_ss, ss)), "G_SS always stays"
    assert all(m.shape == s.shape and m.dtype == dtype and m.isfinite().all() for m, s in zip(merged, se))
    rows = [groups(granularity, x) for x in (se, ss, new_se, merged)]
    for a, b, projected, total in zip(*rows):
        size = a.norm() * b.norm()
        cosine = (a / a.norm().clamp(min=1e-300)) @ (b / b.norm().clamp(min=1e-300))
        if cosine < -1e-6:
            assert (projected @ b).abs() <= 1e-6 * size
        elif cosine > 1e-6 or size == 0:
            assert torch.equal(projected, a), "without conflict, G_SE stays"
            assert torch.equal(total, torch.cat([(x.to(dtype) + y.to(dtype)).double() for x, y in [(a, b)]]))
        assert total @ b >= -1e-6 * size, "the merged gradient opposes G_SS"


@pytest.mark.parametrize("rule", ["sum", "gm", "pcgrad"])
def test_without_conflict_is_the_plain_sum(rule):
    for scales in SCALES:
        se, ss = lists("parallel", torch.float32, scales)
        for merged, a, b in zip(GradientModulation(rule)(se, ss), se, ss):
            assert torch.equal(merged, a + b)


def test_bound_holds_for_millions_of_entries():
    for overlap in (-1e-3, -0.1, -0.999):
        ss = torch.randn(3_000_000)
        se = overlap * ss + (1 - overlap**2) ** 0.5 * torch.randn(3_000_000)
        (projected,), _ = GradientModulation("gm").modulate([se], [ss])
        size = se.double().norm() * ss.double().norm()
        assert (projected.double() @ ss.double()).abs() <= 1e-6 * size


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("scales", [(1, 1), (1e-20, 1e-20), (1e18, 1e18), (1e18, 1e-20), (20, 1), (1, 20)])
@pytest.mark.parametrize("kind", ["random", "opposed", "nearly opposed", "orthogonal", "mixed", "parallel"])
def test_remedy_properties(kind, scales, dtype):
    se, ss = lists(kind, dtype, scales)
    new_se, new_ss = GradientModulation("remedy").modulate(se, ss)
    for a, b, c, d in zip(*([vector([t]) for t in x] for x in (se, ss, new_se, new_ss))):
        assert c.isfinite().all() and d.isfinite().all()
        assert c @ b >= -1e-6 * a.norm() * b.norm(), "G_SE'' assists separation"
        assert d @ b >= 0 and d.norm() >= b.norm() * (1 - 1e-6), "G_SS is stretched, never turned"
        if a @ b < -0.01 * a.norm() * b.norm() and 0 < a.norm() <= b.norm() and kind == "random" and len(a) > 3:
            theta = torch.atan2(a.norm(), b.norm())
            assert (c @ b / (c.norm() * b.norm()) - theta.cos()).abs() < 1e-5


def test_remedy_rescales_above_its_threshold():
    se, ss = torch.tensor([3.0, 3.0]), torch.tensor([1.0, 0.0])  # 4.24 times as long, at 45 degrees
    cosine = 0.5**0.5
    for K, expected in ((4, cosine * se + ss / cosine), (4.5, se + ss)):
        (merged,) = GradientModulation(f"remedy(K={K})")([se], [ss])
        torch.testing.assert_close(merged, expected)


@pytest.mark.parametrize("dtype", DTYPES)
def test_pcgrad_agrees_with_torchjd(dtype):
    pytest.importorskip("torchjd")
    limit = 1e-5 if dtype == torch.float32 else 1e-10
    for granularity in GRANULARITIES:
        for kind in ("random", "parallel", "opposed", "nearly opposed", "mixed"):
            se, ss = lists(kind, dtype)
            ours = GradientModulation("pcgrad", granularity, names=NAMES)(se, ss)
            theirs = GradientModulation("torchjd:PCGrad", granularity, names=NAMES)(se, ss)
            for a, b, c, d in zip(*(groups(granularity, x) for x in (ours, theirs, se, ss))):
                assert (a - b).norm() <= limit * (c.norm() + d.norm())


@pytest.mark.parametrize("rule", [*RULES, "torchjd:MGDA"])
@pytest.mark.parametrize("granularity", GRANULARITIES)
def test_a_parameter_that_one_task_does_not_use(rule, granularity):
    if rule.startswith("torchjd"):
        pytest.importorskip("torchjd")
    names = ["a.x", "a.y", "b.x", "b.y"]
    se = [torch.randn(4), None, torch.randn(3), None]
    ss = [torch.randn(4), torch.randn(2), None, None]
    filled_se, filled_ss = [se[0], torch.zeros(2), se[2]], [ss[0], ss[1], torch.zeros(3)]
    merged = GradientModulation(rule, granularity, names=names)(se, ss)
    expected = GradientModulation(rule, granularity, names=names[:3])(filled_se, filled_ss)
    assert merged[3] is None
    assert all(torch.equal(a, b) for a, b in zip(merged, expected))
    assert GradientModulation(rule)([None], [None]) == [None]


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize("granularity", GRANULARITIES)
@pytest.mark.parametrize("rule", RULES)
def test_nonfinite_input_does_not_spread_and_is_reported(rule, granularity, which, bad):
    both = list(lists("random", torch.float32))
    names = NAMES
    others = [i for i in range(len(SHAPES)) if i != 3]
    clean = GradientModulation(rule, granularity, names=[names[i] for i in others])
    expected = clean(*([gradients[i] for i in others] for gradients in both))
    both[which][3][2, 2] = bad
    modulation = GradientModulation(rule, granularity, names=names)
    merged = modulation(*both)
    assert not merged[3].isfinite().all()
    for i, value in zip(others, expected):
        torch.testing.assert_close(merged[i], value, rtol=1e-6, atol=0)
    statistics = modulation.statistics()
    assert statistics["nonfinite"] == 1
    assert all(np.isfinite(statistics[name]) for name in gradient_modulation.COLUMNS)
    assert all(
        np.isfinite(row[c]) for row in modulation.table() for c in gradient_modulation.COLUMNS if row[c] is not None
    )


def test_statistics_are_means_of_what_was_given():
    names = ["encoder.conv.weight", "encoder.conv.bias", "enhancer.norm.weight"]
    modulation = GradientModulation("gm", names=names)
    calls = [[[torch.randn(4, 3), torch.randn(3), torch.randn(5)] for _ in range(2)] for _ in range(4)]
    scales = [1.0, 1024.0, torch.tensor(65536.0), None]
    for (se, ss), scale in zip(calls, scales):
        factor = 1.0 if scale is None else scale
        modulation([g * factor for g in se], [g * factor for g in ss], scale=scale)
    rows = {(row["level"], row["name"]): row for row in modulation.table()}
    assert list(rows) == [("tensor", n) for n in names] + [("module", "encoder.conv"), ("module", "enhancer.norm")]
    members = {("tensor", n): [i] for i, n in enumerate(names)}
    members |= {("module", "encoder.conv"): [0, 1], ("module", "enhancer.norm"): [2]}
    for key, index in members.items():
        pairs = [(vector([se[i] for i in index]), vector([ss[i] for i in index])) for se, ss in calls]
        cosines = [float(a @ b / a.norm() / b.norm()) for a, b in pairs]
        assert rows[key]["cosine"] == pytest.approx(np.mean(cosines), abs=1e-6)
        assert rows[key]["conflict_rate"] == np.mean([c < 0 for c in cosines])
        assert rows[key]["se_norm"] == pytest.approx(np.mean([float(a.norm()) for a, _ in pairs]), rel=1e-6)
        assert rows[key]["ss_norm"] == pytest.approx(np.mean([float(b.norm()) for _, b in pairs]), rel=1e-6)
    total = modulation.statistics()
    tensors = [rows["tensor", n] for n in names]
    assert total["conflict_rate"] == pytest.approx(np.mean([r["conflict_rate"] for r in tensors]))
    assert total["cosine"] == pytest.approx(np.mean([r["cosine"] for r in tensors]))
    assert total["ss_norm"] == pytest.approx(np.mean([float(vector(ss).norm()) for _, ss in calls]), rel=1e-6)
    modulation.reset()
    assert modulation.statistics()["cosine"] is None and modulation.table() == []


def test_statistics_survive_a_checkpoint(tmp_path):
    calls = [[[torch.randn(3)], [torch.randn(3)]] for _ in range(4)]
    whole = GradientModulation("gm", names=["a.w"])
    first = GradientModulation("gm", names=["a.w"])
    for number, call in enumerate(calls):
        whole(*call)
        if number < 2:
            first(*call)
    torch.save(first.state_dict(), tmp_path / "state")
    resumed = GradientModulation("gm", names=["a.w"])
    resumed.load_state_dict(torch.load(tmp_path / "state", weights_only=True))
    for call in calls[2:]:
        resumed(*call)
    assert resumed.table() == whole.table() and resumed.statistics() == whole.statistics()


@pytest.mark.parametrize("rule", ["ExcessMTL()", "GradVac()", "PCD()", "Random()", "UPGrad()"])
@pytest.mark.parametrize("granularity", ["tensor", "global"])
def test_what_an_aggregator_remembers_survives_a_checkpoint(tmp_path, rule, granularity):
    """A resumed run of ExcessMTL ended half a decibel from the one that was not interrupted."""
    pytest.importorskip("torchjd")
    calls = [[[torch.randn(3), torch.randn(2, 2)], [torch.randn(3), torch.randn(2, 2)]] for _ in range(8)]

    def new(granularity=granularity):
        return GradientModulation(f"torchjd:{rule}", granularity, names=["a.w", "b.w"])

    whole, first, resumed = new(), new(), new()
    for number, call in enumerate(calls):
        expected = whole(*call)
        if number == 4:
            torch.save(first.state_dict(), tmp_path / "state")
            resumed.load_state_dict(torch.load(tmp_path / "state", weights_only=True))
        found = (first if number < 4 else resumed)(*call)
        assert all(torch.equal(a, b) for a, b in zip(found, expected))
    other = new("global" if granularity == "tensor" else "tensor")  # groups of another kind remember nothing
    other.load_state_dict(torch.load(tmp_path / "state", weights_only=True))
    other(*calls[0])


def test_an_aggregator_goes_on_with_the_arguments_of_now():
    """What was saved of an aggregator held its arguments, which took the place of new ones."""
    pytest.importorskip("torchjd")
    calls = [[[torch.randn(5)], [torch.randn(5)]] for _ in range(2)]
    before, after, fresh = (GradientModulation(f"torchjd:CAGrad(c={c})") for c in (0.4, 0.9, 0.9))
    before(*calls[0])
    after.load_state_dict(before.state_dict())
    assert torch.equal(after(*calls[1])[0], fresh(*calls[1])[0])
    assert not torch.equal(before(*calls[1])[0], fresh(*calls[1])[0])


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("granularity", GRANULARITIES)
def test_decisions_stay_on_the_device(rule, granularity):
    """Reading a value of a fake tensor raises, as it would wait for a real device."""
    modulation = GradientModulation(rule, granularity, names=NAMES)
    se, ss = lists("random", torch.float32)
    modulation(se, ss)  # the layout is made once, from shapes
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        fake = [[mode.from_tensor(g) for g in gradients] for gradients in (se, ss)]
        merged = modulation(*fake, scale=mode.from_tensor(torch.tensor(2.0)))
        assert [m.shape for m in merged] == [g.shape for g in se]
        with pytest.raises(DataDependentOutputException):
            bool(merged[0] > 0)


@pytest.mark.parametrize("granularity", GRANULARITIES)
def test_kernels_do_not_grow_with_the_number_of_tensors(granularity):
    def operations(count):
        modulation = GradientModulation("gm", granularity, names=[f"layer{i}.weight" for i in range(count)])
        gradients = [[torch.randn(4, 4) for _ in range(count)] for _ in range(2)]
        modulation(*gradients)
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
            modulation(*gradients)
        cheap = ("view", "slice", "as_strided", "select", "alias", "copy_", "detach", "to", "reshape")
        return sum(e.count for e in profile.key_averages() if e.key.split("::")[-1] not in cheap)

    assert operations(200) <= operations(2) + 20


def test_inputs_stay_and_half_precision_is_kept():
    for dtype in (torch.bfloat16, torch.float16):
        se, ss = [torch.tensor([-1.0, 1.0], dtype=dtype)], [torch.tensor([1.0, 0.0], dtype=dtype)]
        (merged,) = GradientModulation("gm")(se, ss)
        assert merged.dtype == dtype and merged.tolist() == [1, 1]
        assert se[0].tolist() == [-1, 1] and ss[0].tolist() == [1, 0]


def test_noncontiguous_gradients():
    se, ss = torch.randn(6, 4).T, torch.randn(4, 6)
    for granularity in ("tensor", "global"):
        (a,), (b,) = (GradientModulation("gm", granularity)([x], [ss]) for x in (se, se.contiguous()))
        assert torch.equal(a, b)


def test_saved_gradient_is_not_overwritten_by_the_second_pass():
    """Trap: `param.grad` kept without a copy and zeroed in place becomes the other task's gradient."""
    weight = torch.nn.Parameter(torch.tensor([1.0, 1.0]))
    (weight * torch.tensor([-1.0, 1.0])).sum().backward()
    se = [weight.grad]
    layout = flat_gradients.FlatLayout(se, ["w"], None, with_modules=False)
    # Both are copied at once, whatever the caller's buffers do afterwards.
    kept = flat_gradients.FlatPair(layout, se, [torch.tensor([1.0, 0.0])])
    weight.grad.zero_()
    assert kept.se.flatten()[:2].tolist() == [-1, 1]
