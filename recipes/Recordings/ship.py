#!/usr/bin/env python3
"""Make a model the one that ships: weights in 16 bits, ONNX file, and a card with its numbers and default_card.md.

    python recipes/Recordings/ship.py MODEL MEASURED

MODEL: a model folder. MEASURED: what `unified-sess evaluate --model MODEL` wrote.
"""

import argparse
from pathlib import Path

from unified_sess.model_io.export import export
from unified_sess.model_io.model_folder import SHIPPED
from unified_sess.utils.errors import one_line_errors

CARD = Path(__file__).with_name("default_card.md")


def main() -> None:
    """Read the two folders and write the model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="model folder")
    parser.add_argument("measured", type=Path, help="results folder of its evaluation")
    parser.add_argument("--folder", type=Path, default=SHIPPED, help="default: that of the package")
    options = parser.parse_args()
    with one_line_errors("ship.py"):
        ship(options.model, options.measured, options.folder)


def ship(model: str | Path, measured: str | Path, folder: str | Path) -> None:
    """Write the model folder that ships; raises `UserError` where nothing was measured."""
    notes = CARD.read_text(encoding="utf-8")
    export(model, folder, half=True, plain=True, onnx=True, measured=measured, notes=notes)


if __name__ == "__main__":
    main()
