"""The training, validation and test sets that an experiment's settings ask for."""

import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from unified_sess.data.corpora import find_corpus, prepare_manifests
from unified_sess.data.dataset import MixtureDataset
from unified_sess.data.demo.corpus import make_demo_corpus
from unified_sess.data.dynamic_mixing import DynamicMixingDataset
from unified_sess.data.manifest import read_manifest
from unified_sess.data.own_folders.held_out import in_part, write_held_out
from unified_sess.data.own_folders.overlap import check_overlap
from unified_sess.data.pools import as_list
from unified_sess.utils.errors import UserError

logger = logging.getLogger(__name__)

DEMO_FOLDER = Path("data")
ON_THE_FLY = (  # settings of mixtures that are made while training
    "speakers", "speech_shares", "noise_shares", "scenes", "mixtures_per_epoch", "allow_overlap",
)  # fmt: skip


def choose_data_folder(settings: Mapping[str, Any]) -> str | Path:
    """Folder of the corpus: the experiment's, mixtures held out of its speech folder, or else the demo corpus.

    The latter two are made at their first use.

    Raises
    ------
    UserError
        When folders contradict each other, or the demo corpus does not fit.
    """
    if settings.get("noise_folder") and not settings.get("speech_folder"):
        raise UserError("--noise_folder mixes with speech: give --speech_folder too")
    if settings.get("data_folder") is not None:
        return settings["data_folder"]
    if settings.get("speech_folder"):
        folder = Path(settings["save_folder"]) / "held_out"
        return write_held_out(folder, lambda part: _dynamic(settings, part), settings["sample_rate"])
    if not settings.get("demo_corpus"):
        raise UserError("no data: give --data_folder DIR, or --speech_folder DIR and --noise_folder DIR")
    if settings["num_spks"] != 2:
        raise UserError("the demo corpus has 2 speakers: give --data_folder DIR for another num_spks")
    return make_demo_corpus(DEMO_FOLDER / f"demo-voices-{settings['sample_rate']}", settings["sample_rate"])


def refuse_idle_options(settings: Mapping[str, Any], given: Iterable[str]) -> None:
    """`UserError` where one of the given settings is for mixing on the fly, and nothing is mixed on the fly."""
    idle = [name for name in given if name in ON_THE_FLY and settings.get(name) not in (None, False)]
    if idle and not settings.get("speech_folder"):
        raise UserError(
            f"--{idle[0]} is for mixtures that are made on the fly: give --speech_folder too, or leave it out"
        )


def build_datasets(
    settings: Mapping[str, Any], data_folder: str | Path
) -> dict[str, MixtureDataset | DynamicMixingDataset]:
    """Index a corpus (again only where it changed) and make its datasets.

    Arguments
    ---------
    settings : dict
        Scalar settings of the experiment: save_folder, sample_rate, num_spks, mode, train_split, valid_mixtures,
        test_mixtures, seed, speed_perturb, training_signal_len and, for mixing on the fly, speech_folder, noise_folder, speakers, speech_shares,
        noise_shares, cache_folder, mixtures_per_epoch, scenes, allow_overlap.
    data_folder : str
        LibriMix or WHAM! folder.

    Returns
    -------
    datasets : dict
        train, a `MixtureDataset` or, with a speech folder, a `DynamicMixingDataset`; valid and test.

    Raises
    ------
    UserError
        Naming what is missing or contradicts the experiment.
    """
    dynamic = bool(settings.get("speech_folder"))
    corpus = find_corpus(
        data_folder,
        sample_rate=settings["sample_rate"],
        mode=settings.get("mode"),
        num_spks=settings["num_spks"],
        train_split=settings.get("train_split"),
        parts=("valid", "test") if dynamic else ("train", "valid", "test"),
    )
    datasets: dict[str, MixtureDataset | DynamicMixingDataset] = {}
    for part, path in prepare_manifests(corpus, settings["save_folder"]).items():
        manifest = read_manifest(path, corpus.root).spread(settings.get(f"{part}_mixtures"))
        factors = settings.get("speed_perturb") if part == "train" else None
        datasets[part] = MixtureDataset(manifest, settings["sample_rate"], settings["seed"], factors)
    if dynamic:
        # With a corpus of their own for validation and test, all speakers of the folder train.
        held_out = settings.get("data_folder") is None
        if not held_out:
            _refuse_overlap(settings, datasets)
        datasets["train"] = _dynamic(settings, "train" if held_out else None)
    return datasets


def _refuse_overlap(settings, datasets):
    """Refuse to train on people, recordings or noises of the validation and test parts, unless that is asked for."""
    found, note = check_overlap(
        as_list(settings["speech_folder"]),
        as_list(settings.get("noise_folder")),
        {part: dataset.manifest for part, dataset in datasets.items()},
        Path(settings["save_folder"]) / "overlap.json",
    )
    if found and not settings.get("allow_overlap"):
        raise UserError(
            f"what trains is also tested: {'; '.join(found)}. Leave them out of the folder, give another --data_folder, or "
            "train all the same with --allow_overlap True"
        )
    if found:
        logger.warning("what trains is also tested, as asked for: %s", "; ".join(found))
    if note:
        logger.warning("%s", note)


def _dynamic(settings, part):
    """Mixtures made on the fly from the speakers and noises of a part; None takes all of them.

    Only training sees scenes.
    """
    training = part in ("train", None)
    seconds = settings.get("training_signal_len") if training else None
    needed = {"speaker": settings["num_spks"], "noise": 1}
    scenes = settings.get("scenes") if training else None
    active = (scenes or {}).get("active")
    silent = isinstance(active, list) and any(active[: settings["num_spks"]])
    if silent and settings.get("separation_loss", "si_snr") == "si_snr":
        logger.warning(
            "scenes: si_snr says nothing of people who never speak, so silence is not learnt: a start, after which "
            "--separation_loss si_snr_level goes on"
        )
    return DynamicMixingDataset(
        settings["speech_folder"],
        settings.get("noise_folder"),
        index_folder=settings.get("cache_folder") or settings["save_folder"],
        sample_rate=settings["sample_rate"],
        num_spks=settings["num_spks"],
        training_signal_len=None if seconds is None else round(seconds * settings["sample_rate"]),
        mixtures_per_epoch=settings.get("mixtures_per_epoch") if training else None,
        seed=settings["seed"],
        speed_factors=settings.get("speed_perturb") if training else None,
        speakers=settings.get("speakers"),
        speech_shares=settings.get("speech_shares"),
        noise_shares=settings.get("noise_shares"),
        scenes=scenes,
        keep=None if part is None else lambda names, kind: in_part(names, part, needed[kind], kind),
    )
