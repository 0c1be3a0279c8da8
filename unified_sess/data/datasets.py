"""The training, validation and test sets that an experiment's settings ask for."""

from pathlib import Path

from unified_sess.data.corpora import find_corpus, prepare_manifests
from unified_sess.data.dataset import MixtureDataset
from unified_sess.data.manifest import read_manifest
from unified_sess.errors import UserError


def build_datasets(settings, data_folder, save_folder):
    """Index a corpus (again only where it changed) and make its datasets.

    Arguments
    ---------
    settings : dict
        Scalar settings of the experiment: sample_rate, num_spks, mode, train_split, seed, speed_perturb,
        speech_folder, noise_folder, ...
    data_folder : str
        LibriMix or WHAM! folder.
    save_folder : str
        Where the manifests go.

    Returns
    -------
    datasets : dict
        train, valid, test: `MixtureDataset` (train may be a `DynamicMixingDataset`); `manifests`: the CSV files.

    Raises
    ------
    UserError
        Naming what is missing or contradicts the experiment.
    """
    sample_rate, seed = settings["sample_rate"], settings["seed"]
    corpus = find_corpus(
        data_folder,
        sample_rate=sample_rate,
        mode=settings.get("mode"),
        num_spks=settings["num_spks"],
        train_split=settings.get("train_split"),
    )
    manifests = prepare_manifests(corpus, Path(save_folder))
    datasets = {"manifests": manifests}
    for split in ("train", "valid", "test"):
        manifest = read_manifest(manifests[split], corpus.root)
        factors = settings.get("speed_perturb") if split == "train" else None
        datasets[split] = MixtureDataset(manifest, sample_rate, seed, factors)
        if len(datasets[split]) == 0:
            raise UserError(f"the {split} part of {data_folder} has no mixtures: make it first")
    return datasets
