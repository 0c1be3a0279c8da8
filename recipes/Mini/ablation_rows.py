"""Rows of the ablation: each is a few overrides over one experiment, `unified.yaml` with `BASE`."""

from pathlib import Path
from typing import NamedTuple

EXPERIMENT = Path(__file__).resolve().parent / "unified.yaml"

# What all rows share. Both losses are in dB, so that lambda means the same for every signal and network.
BASE = {
    "separation_loss": "si_snr",
    "enhancement_loss": "snr",
    "training_signal_len": 2.0,
    "batch_size": 4,
    "number_of_epochs": 4,
    "mixtures_per_epoch": 400,
    "lr": 0.003,
    "ema_decay": 0.98,  # an average of the weights: two trainings of one row differ by less
    "scenes": "{rooms: 0.5, room_count: 300}",
    "valid_mixtures": 20,
    "test_mixtures": 1,  # run_ablation.py tests, on every set alike
    "audio_examples": 0,
    "tensorboard": False,
    "gradient_statistics": False,  # a sum takes one backward pass
}
LAYERS = 3  # of the separator in `unified.yaml`

LAMBDAS = (0.01, 0.1, 1, 3, 10)  # of the fronts
DECISIVE = (0.1, 1, 10)  # those that every seed trains
RULE_LAMBDA = 1  # of every row that is no front
SEEDS = (1, 2, 3)
FIRST_SEED = SEEDS[:1]


TORCHJD = tuple(f"torchjd:{name}" for name in ("AlignedMTL", "ConFIG", "IMTLG", "UPGrad", "CAGrad(c=0.4)"))


class AblationRow(NamedTuple):
    """One row of the table.

    overrides : settings that differ from the base.
    part : front, control, rule or where: of which part of the table it is.
    seeds : the row is trained once with each; a single seed is a point without an interval.
    sum_row : the row that adds both losses and is the same otherwise; None for rows without two losses and for sums.
    layers : separator layers more than the base.
    warm : whether it starts from a trained separator instead of from scratch.
    """

    overrides: dict
    part: str
    seeds: tuple = FIRST_SEED
    sum_row: str | None = None
    layers: int = 0
    warm: bool = False


def front_name(rule: str, weight: float) -> str:
    """Name of a rule's row at a lambda."""
    return f"{rule}, lambda {weight:g}"


ALONE = "separation alone"
SUM = front_name("sum", RULE_LAMBDA)
SEPARATION_ALONE = {"enhancer": "none", "enhancement_weight": 0}


def _front(rule: str) -> dict[str, AblationRow]:
    rows = {}
    for weight in LAMBDAS:
        overrides = {"gradient_modulation": rule, "enhancement_weight": weight}
        seeds = SEEDS if weight in DECISIVE else FIRST_SEED
        other = None if rule == "sum" else front_name("sum", weight)
        rows[front_name(rule, weight)] = AblationRow(overrides, "front", seeds, other)
    return rows


def _rule(rule: str, part: str = "rule", **overrides) -> AblationRow:
    """A rule at the one lambda of the rows that are no front."""
    overrides = {"gradient_modulation": rule, "enhancement_weight": RULE_LAMBDA} | overrides
    return AblationRow(overrides, part, sum_row=SUM)


def _where(name: str, warm: bool = False, **overrides) -> dict[str, AblationRow]:
    """The sum and gradient modulation under a condition of both."""
    rows = {}
    for rule in ("sum", "gm"):
        row = _rule(rule, "where", **overrides)
        other = None if rule == "sum" else f"sum, {name}"
        rows[f"{rule}, {name}"] = row._replace(warm=warm, sum_row=other)
    return rows


ROWS = {
    ALONE: AblationRow(SEPARATION_ALONE, "control", SEEDS),
    "separation alone, as large": AblationRow(SEPARATION_ALONE, "control", layers=1),
    "cascade": AblationRow({"enhancement_weight": 0}, "control"),  # with the enhancer, without its loss
    **_front("sum"),
    **_front("gm"),
    **{name: _rule(name) for name in ("pcgrad", "remedy", "random", "uncertainty", "famo")},
    **{name: _rule(name, granularity="global") for name in TORCHJD},  # over the whole shared gradient, as published
    # Where it should help
    **_where("warm start", warm=True, lr=0.0005),
    **_where("equal norms", equal_norms=True),
    **_where("large enhancer, small separator", enhancer_layers=3, separator_layers=1),
    **_where("SNR -5 to 0 dB", scenes="{rooms: 0.5, room_count: 300, noise_snr: [-5, 0]}"),
    **_where("batch 1", batch_size=1),
    **_where("batch 8", batch_size=8),
    "gm of Adam's step": _rule("gm", "where", modulated="step"),
    "gm, granularity module": _rule("gm", "where", granularity="module"),
    "gm, granularity global": _rule("gm", "where", granularity="global"),
}


def queue(names: list[str] | None = None, seeds: list[int] | None = None) -> list[tuple[str, int]]:
    """(row, seed) of all trainings, those first that say most: fronts at the decisive lambdas, then what is left."""
    decisive = {front_name(rule, weight) for rule in ("sum", "gm") for weight in DECISIVE}

    def rank(run):
        name, seed = run
        if name in decisive:
            return seed  # 1, 2, 3
        if name == ALONE or ROWS[name].part == "front":
            return 2.05 if seed == FIRST_SEED[0] else seed + 0.5
        return {"control": 2.1, "rule": 2.2, "where": 2.3}[ROWS[name].part] + (seed != FIRST_SEED[0])

    runs = [(name, seed) for name in names or ROWS for seed in ROWS[name].seeds if seed in (seeds or ROWS[name].seeds)]
    return sorted(runs, key=rank)
