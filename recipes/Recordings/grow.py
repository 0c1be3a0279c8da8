#!/usr/bin/env python3
"""Put a trained `tfdprnn-small` at 8 kHz into a `tfdprnn-wide` at 16 kHz, which then need not learn to separate anew.

    python recipes/Recordings/grow.py MODEL OUTPUT

MODEL: what `unified-sess export` made. OUTPUT: a model folder for `--pretrained`. Up to 4 kHz it does what MODEL does;
above, it starts with what MODEL learnt about lower frequencies.
"""

import argparse
import copy
from pathlib import Path

import torch

from unified_sess.model_io.model_files import load_model, save_model
from unified_sess.model_io.module_tree import build
from unified_sess.nnet.time_frequency import TimeFrequencyNet
from unified_sess.utils.errors import UserError, one_line_errors

HIGH_POOLING = 16  # frequencies that share a point of the grid above those of MODEL
LOUDER = 2**0.5  # what frames of twice the samples make of a feature, beside the mean power of all of them


def main() -> None:
    """Read a model, write the larger one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="folder of a model of tfdprnn-small")
    parser.add_argument("output", type=Path, help="folder to write")
    parser.add_argument("--gain", type=float, default=1.0, help="by what MODEL's sources are too loud; default 1")
    options = parser.parse_args()
    with one_line_errors("grow.py"):
        grow(options.model, options.output, options.gain)


def grow(source: str | Path, folder: str | Path, gain: float = 1.0) -> None:
    """Write a model of twice the sample rate that separates the lower half of the spectrum as that of `source` does.

    Its filters start as a Fourier transform again: training changed them most just below half the old rate.

    Arguments
    ---------
    source, folder : str or Path
        Model folders.
    gain : float
        By what the sources are louder than they should be: SI-SNR, as a loss, is blind to it.

    Raises
    ------
    UserError
        When it is no network on a spectrogram with a grid for all frequencies.
    """
    config, old = load_model(source)
    nets = ("enhancer", "masknet")
    if not all(isinstance(old[name], TimeFrequencyNet) and not old[name].has_high for name in nets):
        raise UserError(f"{source} is no model of tfdprnn-small, so it cannot be grown")
    trees = copy.deepcopy(config.modules)
    for name in ("encoder", "decoder"):
        for size in ("kernel_size", "stride"):
            trees[name]["args"][size] *= 2
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
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    save_model(folder, config._replace(modules=trees, sample_rate=2 * config.sample_rate), new)


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
