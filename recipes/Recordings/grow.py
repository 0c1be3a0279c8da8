#!/usr/bin/env python3
"""Put a trained `tfdprnn-small` at 8 kHz into a `tfdprnn-wide` at 16 kHz, which then need not learn to separate anew.

    python recipes/Recordings/grow.py MODEL OUTPUT --data-folder data/mini/Libri2Mix

MODEL: what `unified-sess export` made. OUTPUT: a model folder for `--pretrained`. Up to 4 kHz it does what MODEL does;
above, it starts with what MODEL learnt about lower frequencies. The data folder has validation mixtures at MODEL's rate,
to find how loud its sources are: SI-SNR, as a loss, is blind to it, and the losses of the next training are not.
"""

import argparse
import copy
import tempfile
from pathlib import Path

import torch

from unified_sess.data.corpora import find_corpus, prepare_manifests
from unified_sess.data.dataset import MixtureDataset
from unified_sess.data.manifest import read_manifest
from unified_sess.inference import UnifiedSeparation
from unified_sess.model_io.export import clear_model_folder
from unified_sess.model_io.model_card import write_model_card
from unified_sess.model_io.model_files import load_model, save_model
from unified_sess.model_io.module_tree import build
from unified_sess.nnet.time_frequency import TimeFrequencyNet
from unified_sess.utils.errors import UserError, one_line_errors, writable_folder

MIXTURES = 20
DEREVERBERATION = {"past": 10, "delay": 2}  # what tfdprnn-wide.yaml has
HIGH_POOLING = 16  # frequencies that share a point of the grid above those of MODEL
LOUDER = 2**0.5  # what frames of twice the samples make of a feature, beside the mean power of all of them


def main() -> None:
    """Read a model, write the larger one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="folder of a model of tfdprnn-small")
    parser.add_argument("output", type=Path, help="folder to write")
    parser.add_argument("--data-folder", type=Path, required=True, help="corpus with a validation part")
    options = parser.parse_args()
    with one_line_errors("grow.py"):
        gain = measure_gain(options.model, options.data_folder)
        print(f"sources are {gain:.3g} times as loud as in the mixture")
        grow(options.model, options.output, gain, DEREVERBERATION)


def measure_gain(source: str | Path, data_folder: str | Path) -> float:
    """By what factor a model's sources are louder than those of validation mixtures, the median of `MIXTURES` of them."""
    model = UnifiedSeparation.from_pretrained(source)
    corpus = find_corpus(data_folder, model.sample_rate, num_spks=model.num_spks, parts=("valid",), exact=False)
    gains = []
    with tempfile.TemporaryDirectory() as folder:
        manifest = read_manifest(prepare_manifests(corpus, folder, progress=False)["valid"], corpus.root)
        mixtures = MixtureDataset(manifest.spread(MIXTURES), model.sample_rate)
        for item in (mixtures[k] for k in range(len(mixtures))):
            truth = torch.from_numpy(item["sources"])
            truth = truth[:, truth.any(0)]  # without people who never speak
            if not truth.numel():
                continue
            found = model.separate_batch(torch.from_numpy(item["mixture"]).unsqueeze(0))[0].cpu()
            products = found.T @ truth
            alike = products.abs() / found.norm(dim=0).unsqueeze(1) / truth.norm(dim=0)
            best = alike.argmax(0)  # the output of each person
            gains += (products[best, range(len(best))] / truth.square().sum(0)).tolist()
    gain = float(torch.tensor(gains).median()) if gains else 0.0
    if not 0 < abs(gain) < float("inf"):
        raise UserError(
            f"the sources of {source} have no level on {data_folder}: is it trained, and does anybody speak?"
        )
    return gain


def grow(source: str | Path, folder: str | Path, gain: float = 1.0, dereverberation: dict | None = None) -> None:
    """Write a model of twice the sample rate that separates the lower half of the spectrum as that of `source` does.

    Its filters start as a Fourier transform again: training changed them most just below half the old rate.

    Arguments
    ---------
    source, folder : str or Path
        Model folders.
    gain : float
        By what the sources are louder than they should be.
    dereverberation : dict
        Options of the encoder, `past` and `delay`, with which the new model hears less of rooms; None: as MODEL.

    Raises
    ------
    UserError
        When it is no network on a spectrogram with a grid for all frequencies.
    """
    config, old = load_model(source)
    nets = [name for name, module in old.items() if isinstance(module, TimeFrequencyNet) and not module.has_high]
    if "masknet" not in nets:
        raise UserError(f"{source} is no model of tfdprnn-small, so it cannot be grown")
    trees = copy.deepcopy(config.modules)
    for name in ("encoder", "decoder"):
        for size in ("kernel_size", "stride"):
            trees[name]["args"][size] *= 2
    trees["encoder"]["args"] |= dereverberation or {}
    for name in nets:
        high = trees[name]["args"]["frequencies"] - 1
        trees[name]["args"] |= {
            "frequencies": 2 * high + 1,
            "high_frequencies": high,
            "high_pooling": HIGH_POOLING,
        }
    new = {name: build(tree, source) for name, tree in trees.items()}
    with torch.no_grad():
        for name in nets:
            _grow_network(old[name], new[name])
        for layer in (new["masknet"].masks, new["masknet"].high_masks):
            layer.weight /= gain
            layer.bias /= gain
    folder = Path(writable_folder(folder))
    if folder.resolve() == Path(source).resolve():
        raise UserError(f"{folder} is MODEL itself: give another OUTPUT")
    clear_model_folder(folder)
    config = config._replace(modules=trees, sample_rate=2 * config.sample_rate)
    write_model_card(folder, config, new)  # first: by it a folder that was not finished is known
    save_model(folder, config, new)


def _grow_network(old: TimeFrequencyNet, new: TimeFrequencyNet) -> None:
    new.load_state_dict(old.state_dict(), strict=False)
    # Log levels are larger by log(LOUDER), the square roots of real and imaginary parts by its root.
    inputs = new.inputs
    inputs.bias -= torch.tensor(LOUDER).log() * inputs.weight[:, 0].sum((1, 2))
    inputs.weight[:, 1:] /= LOUDER**0.5
    new.high_inputs.weight.copy_((inputs.weight.sum(3, keepdim=True) / HIGH_POOLING).expand_as(new.high_inputs.weight))
    new.high_inputs.bias.copy_(inputs.bias)
    taps = new.masks.weight
    even, odd = taps[..., 1], taps[..., 0] + taps[..., 2]  # of a frequency with a point of its own, and between two
    new.high_masks.weight.copy_(((even + odd) / 2).unsqueeze(3).expand_as(new.high_masks.weight))
    new.high_masks.bias.copy_(new.masks.bias)


if __name__ == "__main__":
    main()
