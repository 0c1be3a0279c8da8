#!/usr/bin/env python3
"""Choose the level under which an output of a model holds nobody, on validation scenes, and keep it in config.json.

    python recipes/Recordings/choose_silence.py MODEL --data-folder data/Scenes

MODEL is an exported folder of a network trained with a loss that knows silence. Nothing but its `silence_threshold`, and
`enhanced_from` where asked for, changes; an ONNX file in it has the old ones and is removed: export it again.
"""

import argparse
import tempfile
from pathlib import Path

from tqdm import tqdm

from unified_sess.data.corpora import find_corpus, prepare_manifests
from unified_sess.data.dataset import MixtureDataset
from unified_sess.data.manifest import read_manifest
from unified_sess.evaluation.silence import choose_silence_threshold, keep_silence_threshold, measure_outputs
from unified_sess.inference import UnifiedSeparation
from unified_sess.network import ENHANCED_FROM
from unified_sess.utils.errors import one_line_errors


def main() -> None:
    """Measure the outputs of all validation scenes, choose the threshold and write it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="exported folder")
    parser.add_argument("--data-folder", type=Path, required=True, help="folder of make_scenes.py")
    parser.add_argument("--enhanced-from", choices=ENHANCED_FROM, help="also keep what the enhanced mixture is made of")
    options = parser.parse_args()
    with one_line_errors("choose_silence.py"), tempfile.TemporaryDirectory() as folder:
        model = UnifiedSeparation.from_pretrained(options.model)
        corpus = find_corpus(options.data_folder, model.sample_rate, parts=("valid",), exact=False)
        manifest = read_manifest(prepare_manifests(corpus, folder, progress=False)["valid"], corpus.root)
        scenes = MixtureDataset(manifest, model.sample_rate)
        levels, people = measure_outputs(model, (scenes[k] for k in tqdm(range(len(scenes)), desc="scenes")))
        threshold, right = choose_silence_threshold(levels, people)
        keep_silence_threshold(options.model, threshold, options.enhanced_from)
        print(f"silence_threshold {threshold:g} dB: {right:.0%} of {len(people)} scenes have as many outputs as people")


if __name__ == "__main__":
    main()
