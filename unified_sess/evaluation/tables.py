"""Tables of results: all metrics, and groups of mixtures by input SNR and by gender."""

from typing import NamedTuple

import numpy as np

from unified_sess.evaluation.results import Results
from unified_sess.utils.metric_names import headlines

SNR_STEP = 5  # dB
OUTER_STEPS = 3  # bins on each side of 0 dB before all that is further out falls together


class Group(NamedTuple):
    """Some of the utterances: what they share, how many they are, and `metric -> {mean, interval_95, ...}`."""

    name: str
    utterances: int
    metrics: dict


def result_tables(results: Results) -> dict[str, list[Group]]:
    """All groups that results can be parted into, by what they share; without those that are not known."""
    tables = {
        "people and room": by_label(results, "people", "room"),
        "input SNR": by_input_snr(results),
        "gender of the speakers": by_label(results, "genders"),
    }
    return {name: groups for name, groups in tables.items() if groups}


def by_input_snr(results: Results) -> list[Group]:
    """Groups of `SNR_STEP` dB of the input SNR, from noisy to clean; empty without noise."""
    if "input_snr" not in results.metrics:
        return []
    edge = OUTER_STEPS * SNR_STEP
    floors = np.clip(np.floor(results.values("input_snr") / SNR_STEP) * SNR_STEP, -edge - SNR_STEP, edge)

    def name(floor):
        if floor < -edge:
            return f"under {-edge} dB"
        return f"{edge} dB and more" if floor == edge else f"{floor:.0f} to {floor + SNR_STEP:.0f} dB"

    return [_group(name(floor), results, floors == floor) for floor in sorted(set(floors[np.isfinite(floors)]))]


def by_label(results: Results, *names: str) -> list[Group]:
    """Groups of the values of labels, such as `genders` or (`people`, `room`); empty where they are not known.

    Utterances that lack one of the labels are in no group.
    """
    values = [tuple(row.get(name) or "" for name in names) for row in results.rows]
    found = sorted({value for value in values if all(value)})
    return [_group(", ".join(value), results, [own == value for own in values]) for value in found]


def _group(name, results, chosen):
    rows = [row for row, taken in zip(results.rows, chosen) if taken]
    part = Results(rows, headlines(results.metrics))
    return Group(name, len(rows), part.metric_summary())
