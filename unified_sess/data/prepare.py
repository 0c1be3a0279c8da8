"""Command line of the data_prep/prepare_*.py scripts."""

import argparse

from unified_sess.data.corpora import find_corpus, prepare_manifests
from unified_sess.utils.errors import UserError, one_line_errors, writable_folder


def main(*kinds: str) -> None:
    """Write train.csv, valid.csv and test.csv of a corpus of one of the kinds and print where; another kind is a `UserError`."""
    parser = argparse.ArgumentParser(description=f"Index a {' or '.join(kinds)} corpus as CSV manifests.")
    parser.add_argument("--data_folder", required=True, help="folder of the corpus")
    parser.add_argument("--save_folder", required=True, help="folder for train.csv, valid.csv and test.csv")
    parser.add_argument("--sample_rate", type=int, default=8000, help="Hz (default: 8000)")
    parser.add_argument("--mode", choices=("min", "max"), help="default: min where it is there")
    parser.add_argument("--num_spks", type=int, help="speakers of a mixture (default: what is there)")
    parser.add_argument("--train_split", help="train-360 or train-100 (default: the larger that is there)")
    options = parser.parse_args()
    with one_line_errors(parser.prog):
        corpus = find_corpus(
            options.data_folder, options.sample_rate, options.mode, options.num_spks, options.train_split
        )
        if corpus.kind not in kinds:
            raise UserError(f"{corpus.root} is {corpus.kind}, not {' or '.join(kinds)}: use the other script")
        for part, path in prepare_manifests(corpus, writable_folder(options.save_folder)).items():
            print(f"{part}: {path}")
