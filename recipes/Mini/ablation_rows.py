"""Rows of the ablation: each is a few overrides over one experiment, `unified.yaml`."""

from pathlib import Path
from typing import NamedTuple

EXPERIMENT = Path(__file__).resolve().parent / "unified.yaml"
BASELINE = "separation-only"


class AblationRow(NamedTuple):
    """One row of the table.

    overrides : settings that differ from the experiment.
    seeds : the row is trained once with each; one seed alone is marked in the table.
    speakers : speakers in a mixture; rows are compared with the baseline of as many.
    """

    overrides: dict
    seeds: tuple = (1, 2, 3)
    speakers: int = 2


SEPARATION_ALONE = {"enhancer": "none", "enhancement_weight": 0}
SUM_OF_LOSSES = {"gradient_modulation": "sum"}
ONE_SEED = (1,)
TWO_SEEDS = (1, 2)

ROWS = {
    BASELINE: AblationRow(SEPARATION_ALONE),
    "separation-only, larger": AblationRow(
        SEPARATION_ALONE | {"separator_layers": 4}
    ),  # as large as the unified network, within 4 %
    "cascade": AblationRow({"enhancement_weight": 0}),  # with the enhancer, without the SE loss
    "unified": AblationRow(SUM_OF_LOSSES),
    "unified-gm": AblationRow({}),
    # Further rows, one seed; two where GM and the sum differed most
    "pcgrad": AblationRow({"gradient_modulation": "pcgrad"}, ONE_SEED),
    "remedy": AblationRow({"gradient_modulation": "remedy"}, ONE_SEED),
    "unified-gm, SE target detached": AblationRow({"detach_clean_features": True}, ONE_SEED),
    "unified-gm, granularity module": AblationRow({"granularity": "module"}, ONE_SEED),
    "unified-gm, granularity global": AblationRow({"granularity": "global"}, ONE_SEED),
    "unified, lambda 0.01": AblationRow(SUM_OF_LOSSES | {"enhancement_weight": 0.01}, ONE_SEED),
    "unified, lambda 1": AblationRow(SUM_OF_LOSSES | {"enhancement_weight": 1}, ONE_SEED),
    "unified, lambda 10": AblationRow(SUM_OF_LOSSES | {"enhancement_weight": 10}, TWO_SEEDS),
    "unified-gm, lambda 0.01": AblationRow({"enhancement_weight": 0.01}, ONE_SEED),
    "unified-gm, lambda 1": AblationRow({"enhancement_weight": 1}, ONE_SEED),
    "unified-gm, lambda 10": AblationRow({"enhancement_weight": 10}, TWO_SEEDS),
    "three speakers, separation-only": AblationRow(SEPARATION_ALONE, ONE_SEED, 3),
    "three speakers, unified": AblationRow(SUM_OF_LOSSES, ONE_SEED, 3),
    "three speakers, unified-gm": AblationRow({}, ONE_SEED, 3),
}


def baseline_of(name: str) -> str:
    """Name of the row that a row is compared with."""
    return BASELINE if ROWS[name].speakers == 2 else f"three speakers, {BASELINE}"


def sum_of(name: str) -> str | None:
    """Name of the row that adds both losses and is the same otherwise; None for rows of one loss and for sums."""
    row = ROWS[name]
    weight = {key: value for key, value in row.overrides.items() if key == "enhancement_weight"}
    if weight.get("enhancement_weight") == 0:
        return None
    found = (other for other, r in ROWS.items() if r.overrides == SUM_OF_LOSSES | weight and r.speakers == row.speakers)
    return next((other for other in found if other != name), None)
