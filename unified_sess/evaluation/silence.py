"""Where an output holds nobody: the silence threshold of a model, chosen on scenes of known people."""

import json
import re
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch

from unified_sess.inference.activity import echoes, frame_powers, loudest_second
from unified_sess.inference.separating import Separator
from unified_sess.losses import SILENCE_DB
from unified_sess.utils.errors import UserError
from unified_sess.utils.files import atomic_path

CHOICES = np.arange(-60.0, -9.5, 0.5)  # dB


def measure_outputs(model: Separator, items: Iterable[dict]) -> tuple[np.ndarray, np.ndarray]:
    """How loud each output is in scenes, and how many people speak in them.

    Arguments
    ---------
    model : Separator
        One that has learnt level and silence.
    items : iterable of dict
        Scenes with `mixture` `[time]` and `sources` `[time, speakers]`, as of `MixtureDataset`.

    Returns
    -------
    levels : numpy.ndarray
        `[scenes, outputs]`: loudest second in dB relative to that of the mixture, from loud to quiet; -inf of echoes,
        which are left out at any threshold.
    people : numpy.ndarray
        `[scenes]`.
    """
    levels, people = [], []
    for item in items:
        mixture, sources = torch.as_tensor(item["mixture"]), torch.as_tensor(item["sources"])
        outputs = model.separate_batch(mixture[None])[0].cpu().numpy()
        powers = frame_powers(np.column_stack((outputs, mixture.numpy())), model.sample_rate)
        loudest = loudest_second(powers)
        found = 10 * np.log10(np.maximum(loudest[:-1], 1e-20) / max(loudest[-1], 1e-20))
        levels.append(np.sort(np.where(echoes(powers[:, :-1]), -np.inf, found))[::-1])
        speak = sources.square().sum(0) > 10 ** (SILENCE_DB / 10) * mixture.square().sum()
        people.append(int(speak.sum()))
    return np.array(levels), np.array(people)


def choose_silence_threshold(levels: np.ndarray, people: np.ndarray) -> tuple[float, float]:
    """The threshold in dB under which most scenes have as many loud outputs as people.

    Arguments
    ---------
    levels, people : numpy.ndarray
        Of `measure_outputs`.

    Returns
    -------
    threshold : float
        dB; of several that are equally good the middle one.
    right : float
        Share of the scenes whose people it counts rightly.

    Example
    -------
    >>> levels = np.array([[-3.0, -5.0], [-2.0, -40.0], [-1.0, -35.0]])
    >>> choose_silence_threshold(levels, np.array([2, 1, 1]))
    (-22.0, 1.0)
    """
    right = (((levels[:, :, None] >= CHOICES).sum(1)) == people[:, None]).mean(0)
    best = CHOICES[right == right.max()]
    return float(best[len(best) // 2]), float(right.max())


def keep_silence_threshold(model_folder: str | Path, threshold: float, enhanced_from: str | None = None) -> None:
    """Write a threshold in dB into a model folder; its ONNX file, which has the old one, goes: export it again.

    `enhanced_from`, where it is given, is what the enhanced mixture is made of: `enhancer` or `sources`. A folder whose
    `config.json` cannot be read is a `UserError`.
    """
    path = Path(model_folder) / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({error}): give the folder of an exported model") from None
    with atomic_path(path) as new:
        config |= {"silence_threshold": threshold} | ({"enhanced_from": enhanced_from} if enhanced_from else {})
        Path(new).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    (path.parent / "model.onnx").unlink(missing_ok=True)
    for_speechbrain = path.parent / "hyperparams.yaml"
    if for_speechbrain.is_file():
        text = for_speechbrain.read_text(encoding="utf-8")
        for name in {"silence_threshold", "enhanced_from"} & config.keys():
            text = re.sub(rf"^{name}:.*$", f"{name}: {config[name]}", text, count=1, flags=re.MULTILINE)
        with atomic_path(for_speechbrain) as new:
            Path(new).write_text(text, encoding="utf-8")
