"""Rows of the ablation: each is a few overrides over one experiment, `unified.yaml`."""

from pathlib import Path
from typing import NamedTuple

EXPERIMENT = Path(__file__).resolve().parent / "unified.yaml"
BASELINE = "separation-only"


class Row(NamedTuple):
    """One row of the table.

    overrides : settings that differ from the experiment.
    seeds : the row is trained once with each; one seed alone is marked in the table.
    speakers : speakers in a mixture; rows are compared with the baseline of as many.
    """

    overrides: dict
    seeds: tuple = (1, 2, 3)
    speakers: int = 2


ALONE = {"enhancer": "none", "enhancement_weight": 0}
SUM = {"gradient_modulation": "sum"}
ONCE = (1,)
TWICE = (1, 2)

ROWS = {
    BASELINE: Row(ALONE),
    "separation-only, larger": Row(ALONE | {"separator_layers": 4}),  # as large as the unified network, within 4 %
    "cascade": Row({"enhancement_weight": 0}),  # with the enhancer, without the SE loss
    "unified": Row(SUM),
    "unified-gm": Row({}),
    # Further rows, one seed; two where GM and the sum differed most
    "pcgrad": Row({"gradient_modulation": "pcgrad"}, ONCE),
    "remedy": Row({"gradient_modulation": "remedy"}, ONCE),
    "unified-gm, SE target detached": Row({"detach_clean_features": True}, ONCE),
    "unified-gm, granularity module": Row({"granularity": "module"}, ONCE),
    "unified-gm, granularity global": Row({"granularity": "global"}, ONCE),
    "unified, lambda 0.01": Row(SUM | {"enhancement_weight": 0.01}, ONCE),
    "unified, lambda 1": Row(SUM | {"enhancement_weight": 1}, ONCE),
    "unified, lambda 10": Row(SUM | {"enhancement_weight": 10}, TWICE),
    "unified-gm, lambda 0.01": Row({"enhancement_weight": 0.01}, ONCE),
    "unified-gm, lambda 1": Row({"enhancement_weight": 1}, ONCE),
    "unified-gm, lambda 10": Row({"enhancement_weight": 10}, TWICE),
    "three speakers, separation-only": Row(ALONE, ONCE, 3),
    "three speakers, unified": Row(SUM, ONCE, 3),
    "three speakers, unified-gm": Row({}, ONCE, 3),
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
    found = (other for other, r in ROWS.items() if r.overrides == SUM | weight and r.speakers == row.speakers)
    return next((other for other in found if other != name), None)
