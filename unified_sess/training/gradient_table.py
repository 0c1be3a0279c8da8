"""The conflict of the two gradients, epoch by epoch, as a tidy CSV."""

from pathlib import Path

import pandas as pd

from unified_sess.utils.files import atomic_path

COLUMNS = ["epoch", "level", "name", "conflict_rate", "cosine", "se_norm", "ss_norm"]


def write_gradient_table(rows: list[dict], epoch: int, path: str | Path) -> Path:
    """Add an epoch's rows to the CSV, in place of what an interrupted run wrote of it or of later ones.

    Arguments
    ---------
    rows : list of dict
        As `GradientModulation.table()` gives them: one a tensor and one a module; those of `ConflictNull` also say which
        `comparison` they are of.
    epoch : int
    path : str or Path

    Returns
    -------
    path : Path
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    columns = COLUMNS[:1] + ["comparison"] * ("comparison" in rows[0]) + COLUMNS[1:]
    table = pd.DataFrame([{"epoch": epoch} | row for row in rows], columns=columns)
    if path.is_file():
        old = pd.read_csv(path)
        earlier = old[old["epoch"] < epoch]
        if len(earlier):
            table = pd.concat([earlier, table], ignore_index=True)
    with atomic_path(path) as temporary:
        table.to_csv(temporary, index=False)
    return path
