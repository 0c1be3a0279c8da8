#!/usr/bin/env python3
"""Make the validation and test scenes of this recipe: the same kinds of scenes as in training, of people it never hears.

    python recipes/Recordings/make_scenes.py --speech DIR --noise DIR --output OUT

DIR of speech holds `dev-clean` and `test-clean`, that of noise `cv` and `tt`, as recipes/Mini's corpora do. OUT is
then the `--data_folder` of the training.
"""

import argparse
from pathlib import Path

from unified_sess.data.dynamic_mixing import DynamicMixingDataset
from unified_sess.data.own_folders.held_out import write_held_out
from unified_sess.training.experiment import Experiment
from unified_sess.utils.errors import one_line_errors, writable_folder

EXPERIMENT = Path(__file__).with_name("unified.yaml")
PARTS = {"dev": ("dev-clean", "cv"), "test": ("test-clean", "tt")}
SECONDS = 6
ACTIVE_OF_THREE = [0.02, 0.22, 0.56, 0.2]  # chances that 0 to 3 people speak


def main() -> None:
    """Read the scenes of the experiment file and write mixtures of both parts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--speech", type=Path, required=True, help="holds dev-clean and test-clean")
    parser.add_argument("--noise", type=Path, required=True, help="holds cv and tt")
    parser.add_argument("--output", type=Path, required=True, help="appears whole or not at all")
    parser.add_argument("--rate", type=int, help="Hz; default: that of the experiment file")
    parser.add_argument("--num-spks", type=int, choices=(2, 3), default=2, help="people at most")
    parser.add_argument("--rooms", type=int, default=200, help="rooms to simulate")
    options = parser.parse_args()
    with one_line_errors("make_scenes.py"):
        settings = Experiment(EXPERIMENT).settings
        rate = options.rate or settings["sample_rate"]
        scenes = settings["scenes"] | {"room_count": options.rooms}
        if options.num_spks == 3:
            scenes["active"] = ACTIVE_OF_THREE
        index = Path(writable_folder(options.output.parent)) / "index"

        def make(part: str) -> DynamicMixingDataset:
            speech, noise = PARTS[part]
            return DynamicMixingDataset(
                options.speech / speech,
                options.noise / noise,
                index,
                rate,
                options.num_spks,
                SECONDS * rate,
                seed=7,
                speed_factors=None,
                scenes=scenes,
            )

        print(write_held_out(options.output, make, rate))


if __name__ == "__main__":
    main()
