"""Cutting a sequence into half-overlapping chunks and adding them up again, channels innermost in memory."""

import torch
import torch.nn.functional as F


def cut_chunks(x: torch.Tensor, size: int) -> torch.Tensor:
    """Cut a sequence into chunks that overlap by half, as SpeechBrain's dual-path model does.

    Half a chunk of zeros stands before the sequence and at least half a chunk after it, so that every frame is in
    exactly two chunks; the number of chunks is even.

    Arguments
    ---------
    x : torch.Tensor
        `[batch, frames, channels]`.
    size : int
        Frames in a chunk, at least 2.

    Returns
    -------
    torch.Tensor
        `[batch, chunks, size, channels]`, contiguous.

    Example
    -------
    >>> cut_chunks(torch.arange(4.0).view(1, 4, 1), 4)[0, :, :, 0]
    tensor([[0., 0., 0., 1.],
            [0., 1., 2., 3.],
            [2., 3., 0., 0.],
            [0., 0., 0., 0.]])
    """
    half, frames = size // 2, x.shape[1]
    gap = size - (half + frames) % size
    x = F.pad(x, (0, 0, half, gap + half))
    if size % 2 == 0:
        halves = x.unflatten(1, (-1, half))
        return torch.cat((halves[:, :-1], halves[:, 1:]), dim=2)
    early, late = x[:, : x.shape[1] - half], x[:, half:]
    return torch.stack((early.unflatten(1, (-1, size)), late.unflatten(1, (-1, size))), dim=2).flatten(1, 2)


def add_chunks(chunks: torch.Tensor, frames: int) -> torch.Tensor:
    """Sum of the chunks where they overlap: `add_chunks(cut_chunks(x, size), x.shape[1])` is `2 * x`.

    Arguments
    ---------
    chunks : torch.Tensor
        `[batch, chunks, size, channels]`, cut by `cut_chunks`.
    frames : int
        Length of the sequence that was cut.

    Returns
    -------
    torch.Tensor
        `[batch, frames, channels]`.
    """
    size = chunks.shape[2]
    half = size // 2
    if size % 2 == 0:
        halves = chunks.unflatten(2, (2, half))
        return (halves[:, 1:, 0] + halves[:, :-1, 1]).flatten(1, 2)[:, :frames]
    early, late = (chunks[:, start::2].flatten(1, 2) for start in (0, 1))
    return early[:, half : half + frames] + late[:, :frames]
