"""The training, validation and test sets that an experiment's settings ask for."""

from pathlib import Path

from unified_sess.data.corpora import find_corpus, prepare_manifests
from unified_sess.data.dataset import MixtureDataset
from unified_sess.data.manifest import read_manifest
from unified_sess.errors import UserError


DEMO_FOLDER = Path("data")


def choose_data_folder(settings):
    """The experiment's data folder; without one, the demo corpus, made at its first use.

    Raises
    ------
    UserError
        When no data folder is given and the demo corpus cannot be made.
    """
    if settings.get("data_folder") is not None:
        return settings["data_folder"]
    if settings["num_spks"] != 2:
        raise UserError("the demo corpus has 2 speakers: give --data_folder DIR for another num_spks")
    from unified_sess.data.demo_corpus import make_demo_corpus  # needs the demo extra

    return make_demo_corpus(DEMO_FOLDER / f"demo-{settings['sample_rate']}", sample_rate=settings["sample_rate"])


def build_datasets(settings, data_folder):
    """Index a corpus (again only where it changed) and make its datasets.

    Arguments
    ---------
    settings : dict
        Scalar settings of the experiment: save_folder, sample_rate, num_spks, mode, train_split, seed, speed_perturb.
    data_folder : str
        LibriMix or WHAM! folder.

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
    manifests = prepare_manifests(corpus, settings["save_folder"])
    datasets = {"manifests": manifests}
    for split in ("train", "valid", "test"):
        manifest = read_manifest(manifests[split], corpus.root)
        factors = settings.get("speed_perturb") if split == "train" else None
        datasets[split] = MixtureDataset(manifest, sample_rate, seed, factors)
        if len(datasets[split]) == 0:
            raise UserError(f"the {split} part of {data_folder} has no mixtures: make it first")
    return datasets
