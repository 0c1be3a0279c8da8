"""The one forward path of the unified network, for training, evaluation, inference and export.

Modules are handed in, so nothing here knows a backbone::

    x --encoder--> W_n --enhancer--> mask --*--> W_e --masknet--> masks --*--> W_1..W_C --decoder--> s_1..s_C

An enhancer or masknet whose attribute `maps` is True gives W_e or W_1..W_C itself instead of masks.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple, Protocol

import torch
from torch import nn

from unified_sess.utils.errors import UserError
from unified_sess.utils.names import ENHANCED_FROM, MODULE_NAMES

SHARED_MODULES = ("encoder", "enhancer")  # reached by the gradients of both tasks


class Modules(Protocol):
    """The four modules by their names: a dict, a `torch.nn.ModuleDict` or a `UnifiedNetwork`."""

    def __getitem__(self, name: str, /) -> nn.Module: ...


class NoEnhancer(nn.Module):
    """Enhancer that lets every feature pass: separation alone, without parameters.

    Example
    -------
    >>> NoEnhancer()(torch.rand(2, 8, 5)).shape
    torch.Size([1, 2, 8, 5])
    """

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Features `[batch, channels, frames]` to a mask of ones `[1, batch, channels, frames]`."""
        return torch.ones_like(features).unsqueeze(0)


class NetworkOutput(NamedTuple):
    """What the network says of a mixture.

    Attributes
    ----------
    sources : torch.Tensor
        `[batch, time, speakers]`, the estimated sources.
    features : torch.Tensor
        `[batch, channels, frames]`, the enhanced features W_e.
    noisy : torch.Tensor
        `[batch, channels, frames]`, the features W_n of the mixture.
    earlier : tuple of torch.Tensor
        The sources after each earlier step of a separator that refines them step by step; empty where they were not
        asked for.
    """

    sources: torch.Tensor
    features: torch.Tensor
    noisy: torch.Tensor
    earlier: tuple = ()


def encode(modules: Modules, signal: torch.Tensor) -> torch.Tensor:
    """Signal `[batch, time]` to features `[batch, channels, frames]`; shorter signals than a kernel are padded."""
    missing = minimum_length(modules["encoder"]) - signal.shape[-1]
    if missing > 0:
        signal = nn.functional.pad(signal, (0, missing))
    return modules["encoder"](signal)


def enhance(modules: Modules, mixture: torch.Tensor) -> torch.Tensor:
    """Mixture `[batch, time]` to enhanced features W_e `[batch, channels, frames]`."""
    return estimate(modules["enhancer"], encode(modules, mixture))[0]


def estimate(network: nn.Module, features: torch.Tensor) -> torch.Tensor:
    """The features that an enhancer or masknet makes of others.

    Arguments
    ---------
    network : torch.nn.Module
        Gives masks, or where it `maps` the features themselves, `[sources, batch, channels, frames]`.
    features : torch.Tensor
        `[batch, channels, frames]`.

    Returns
    -------
    torch.Tensor
        `[sources, batch, channels, frames]`.
    """
    return _masked(network, network(features), features)


def _masked(network: nn.Module, output: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
    return output if getattr(network, "maps", False) else features * output


def separate(modules: Modules, mixture: torch.Tensor, all_steps: bool = False) -> NetworkOutput:
    """Mixture `[batch, time]` to a `NetworkOutput`; all utterances have the same length.

    Padding reaches norms, attention and recurrence, so utterances of different lengths go through
    `for_each_length` instead of being padded to one another.

    Arguments
    ---------
    modules : mapping
        encoder, enhancer, masknet, decoder. A masknet that works in steps has a method `steps` that gives a list, the
        last of which is what it gives when called.
    mixture : torch.Tensor
        `[batch, time]`.
    all_steps : bool
        Whether the sources after each step are wanted, for a loss on all of them.
    """
    noisy = encode(modules, mixture)
    features = estimate(modules["enhancer"], noisy)[0]
    masknet = modules["masknet"]
    outputs = masknet.steps(features) if all_steps and hasattr(masknet, "steps") else [masknet(features)]
    *earlier, last = (_decoded(modules, _masked(masknet, y, features), mixture.shape[-1]) for y in outputs)
    return NetworkOutput(last, features, noisy, tuple(earlier))


def _decoded(modules: Modules, features: torch.Tensor, length: int) -> torch.Tensor:
    """Features of each source `[sources, batch, channels, frames]` to signals `[batch, time, sources]`."""
    sources = decode(modules, features.flatten(0, 1), length)
    return sources.view(*features.shape[:2], -1).permute(1, 2, 0)


def enhanced_mixture(modules: Modules, features: torch.Tensor, length: int) -> torch.Tensor:
    """Enhanced features W_e `[batch, channels, frames]` to the enhanced mixture `[batch, length]`."""
    return decode(modules, features, length)


def separate_and_enhance(
    modules: Modules, mixture: torch.Tensor, enhanced_from: str = ENHANCED_FROM[0]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mixture `[batch, time]` to its sources `[batch, time, speakers]` and the enhanced mixture `[batch, time]`.

    Arguments
    ---------
    modules : mapping
        encoder, enhancer, masknet, decoder.
    mixture : torch.Tensor
        `[batch, time]`.
    enhanced_from : str
        `enhancer` decodes the enhancer's features; `sources` adds up the sources, which must keep their level and
        polarity.
    """
    output = separate(modules, mixture)
    if enhanced_from == "sources":
        return output.sources, output.sources.sum(2)
    return output.sources, enhanced_mixture(modules, output.features, mixture.shape[-1])


def enhance_alone(modules: Modules, mixture: torch.Tensor, enhanced_from: str = ENHANCED_FROM[0]) -> torch.Tensor:
    """The enhanced mixture of `separate_and_enhance`, without separating where the enhancer is enough."""
    if enhanced_from == "sources":
        return separate_and_enhance(modules, mixture, enhanced_from)[1]
    return enhanced_mixture(modules, enhance(modules, mixture), mixture.shape[-1])


def decode(modules: Modules, features: torch.Tensor, length: int) -> torch.Tensor:
    """Features `[batch, channels, frames]` to signals `[batch, length]`, cut or padded with zeros at the end."""
    signal = modules["decoder"](features)
    # SpeechBrain's decoder squeezes, so a batch of one or a single sample loses a dimension.
    signal = signal.reshape(features.shape[0], -1)
    return nn.functional.pad(signal, (0, length - signal.shape[-1]))


def for_each_length(lengths: torch.Tensor) -> list[tuple[int, list[int]]]:
    """Group the utterances of a batch by their length.

    Arguments
    ---------
    lengths : torch.Tensor
        Lengths in samples, `[batch]`.

    Returns
    -------
    groups : list of (int, list of int)
        A length and the rows of the batch that have it, in the order of first appearance.

    Example
    -------
    >>> for_each_length(torch.tensor([5, 7, 5]))
    [(5, [0, 2]), (7, [1])]
    """
    groups: dict[int, list[int]] = {}
    for row, length in enumerate(lengths.tolist()):
        groups.setdefault(length, []).append(row)
    return list(groups.items())


def minimum_length(encoder: nn.Module) -> int:
    """Samples that the encoder's convolutions need at least."""
    return max((m.kernel_size[0] for m in encoder.modules() if isinstance(m, nn.Conv1d)), default=1)


def most_effort(modules: Modules) -> int:
    """How often a separator that works in steps runs its cell at most; 1 for the others."""
    return getattr(modules["masknet"], "repeats", 1)


def set_effort(modules: Modules, effort: int) -> None:
    """Choose how often a separator that works in steps runs its cell: fewer runs are faster and separate less well.

    Arguments
    ---------
    modules : mapping
        encoder, enhancer, masknet, decoder.
    effort : int
        1 to the runs that it was trained with.

    Raises
    ------
    UserError
        For another number, or a separator that does not work in steps.
    """
    most = most_effort(modules)
    if most == 1:
        raise UserError("the separator of this model does not work in steps: leave effort out")
    if not 1 <= effort <= most:
        raise UserError(f"effort must be from 1 (fastest) to {most} (best), not {effort}")
    modules["masknet"].effort = effort


def count_speakers(modules: Modules, device: torch.device | str = "cpu") -> int:
    """Number of sources the network gives, found by running it on a little silence."""
    with torch.no_grad(), _evaluating(modules):
        features = enhance(modules, torch.zeros(1, 4 * minimum_length(modules["encoder"]), device=device))
        return modules["masknet"](features).shape[0]


@contextmanager
def _evaluating(modules: Modules) -> Iterator[None]:
    """Inside, the modules learn nothing from what they hear, such as a batch norm its statistics."""
    training = [part for name in MODULE_NAMES for part in modules[name].modules() if part.training]
    for part in training:
        part.training = False
    try:
        yield
    finally:
        for part in training:
            part.training = True


class UnifiedNetwork(nn.Module):
    """The four modules as one network with the methods of an inference class.

    Arguments
    ---------
    modules : mapping
        encoder, enhancer, masknet, decoder.
    enhanced_from : str
        What the enhanced mixture is made of, see `separate_and_enhance`.
    """

    def __init__(self, modules: Modules, enhanced_from: str = ENHANCED_FROM[0]) -> None:
        super().__init__()
        self.enhanced_from = enhanced_from
        for name in MODULE_NAMES:
            self.add_module(name, modules[name])

    def __getitem__(self, name: str) -> nn.Module:
        return getattr(self, name)

    def forward(self, mixture: torch.Tensor) -> NetworkOutput:
        """Mixture `[batch, time]` to a `NetworkOutput`."""
        return separate(self, mixture)

    @torch.no_grad()
    def separate_batch(self, mixture: torch.Tensor) -> torch.Tensor:
        """Mixture `[batch, time]` to the sources `[batch, time, speakers]`."""
        return separate(self, mixture).sources

    @torch.no_grad()
    def enhance_batch(self, mixture: torch.Tensor) -> torch.Tensor:
        """Mixture `[batch, time]` to the enhanced mixture `[batch, time]`."""
        return enhance_alone(self, mixture, self.enhanced_from)
