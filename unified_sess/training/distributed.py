"""Several processes: both gradients averaged over all ranks in a few large buckets.

Nothing here is DistributedDataParallel, which averages the first of two backward passes only. Without
`torch.distributed` (one process) the functions only divide, or do nothing.
"""

import contextlib
from collections.abc import Iterator, Sequence

import torch
import torch.distributed as dist

from unified_sess.utils.errors import UserError

BUCKET_BYTES = 32 * 2**20


def is_distributed() -> bool:
    """Whether more than one process trains."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


@contextlib.contextmanager
def lost_process_is_one_line() -> Iterator[None]:
    """Turn the failure of any exchange with the other processes into one line.

    Raises
    ------
    UserError
        Another process has ended or does not answer.
    """
    try:
        yield
    except RuntimeError as error:
        # NCCL and the store have a class for it; gloo raises plain RuntimeErrors that start with their place in it.
        if not isinstance(error, getattr(dist, "DistError", ())) and "/gloo/" not in str(error):
            raise
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(
            "another training process ended or does not answer: see its own last lines; the same command goes on from "
            f"the last checkpoint ({reason})"
        ) from error


def average_gradients(
    lists: Sequence[Sequence[torch.Tensor | None]], count: torch.Tensor, like: Sequence[torch.Tensor]
) -> tuple[list[list[torch.Tensor | None]], torch.Tensor]:
    """Means over the utterances of all ranks, of gradients that are sums over the utterances of this rank.

    A mean of the ranks' means would be wrong where ranks keep different numbers of utterances. The sums and the number
    travel together; a gradient that is not finite on one rank is not on any afterwards, so all ranks decide alike
    without another message, and a rank without utterances takes part with zeros.

    Arguments
    ---------
    lists : list of list of torch.Tensor
        Gradients, None for a parameter without; in every list the first ones of `like`.
    count : torch.Tensor
        Number of utterances that this rank summed over, 0-dimensional.
    like : list of torch.Tensor
        The parameters, for the shapes of gradients that are missing here but not on another rank.

    Returns
    -------
    lists : list of list of torch.Tensor
        The means; with several ranks a missing gradient is zero. Zeros where no utterance was kept anywhere.
    count : torch.Tensor
        Utterances of all ranks.

    Raises
    ------
    UserError
        Another process has ended or does not answer.
    """
    flat: list[torch.Tensor | None] = [g for gradients in lists for g in gradients]
    if is_distributed():
        shapes = [p for gradients in lists for p, _ in zip(like, gradients)]
        flat, count = _sum_over_ranks(flat, shapes, count)
    divisor = count.clamp(min=1)
    for dtype in {g.dtype for g in flat if g is not None}:
        here = {i: g for i, g in enumerate(flat) if g is not None and g.dtype == dtype}
        for i, mean in zip(here, torch._foreach_div(list(here.values()), divisor.to(dtype))):
            flat[i] = mean
    means = iter(flat)
    return [[next(means) for _ in gradients] for gradients in lists], count


def sum_over_ranks(values: torch.Tensor, on_all: bool = True) -> torch.Tensor:
    """The sum of a small tensor over all ranks; `on_all` False gives it to rank 0 and zeros to the others."""
    if not is_distributed():
        return values
    values = values.clone()
    with lost_process_is_one_line():
        dist.all_reduce(values)
    return values if on_all or dist.get_rank() == 0 else torch.zeros_like(values)


def gather_from_ranks(names: list) -> list:
    """The lists of all ranks, one behind the other."""
    if not is_distributed():
        return names
    lists: list[list] = [[]] * dist.get_world_size()
    with lost_process_is_one_line():
        dist.all_gather_object(lists, names)
    return [name for part in lists for name in part]


def broadcast_parameters(modules: torch.nn.Module) -> None:
    """Give every process the parameters and buffers of rank 0; `modules` is a module."""
    if not is_distributed():
        return
    tensors = [*modules.parameters(), *modules.buffers()]
    with torch.no_grad(), lost_process_is_one_line():
        for bucket in _buckets(tensors):
            buffer = torch.cat([tensors[i].detach().flatten() for i in bucket])
            dist.broadcast(buffer, 0)
            for i, part in zip(bucket, buffer.split([tensors[i].numel() for i in bucket])):
                tensors[i].copy_(part.view_as(tensors[i]))


def average_buffers(modules: torch.nn.Module) -> None:
    """Give every process the mean over all of what the modules keep besides parameters, such as running statistics."""
    buffers = [buffer for buffer in modules.buffers() if buffer.is_floating_point()]
    if not is_distributed() or not buffers:
        return
    count = torch.ones((), device=buffers[0].device)
    (means,), _ = average_gradients([buffers], count, like=buffers)
    torch._foreach_copy_(buffers, [mean for mean in means if mean is not None])  # none is missing


def _sum_over_ranks(tensors, shapes, count):
    """Sums over all ranks of tensors (None counts as zeros) and of a count, which rides in the first bucket."""
    sums, waiting, total = [None] * len(tensors), [], None
    with torch.no_grad(), lost_process_is_one_line():
        for bucket in _buckets(shapes):
            sizes = [shapes[i].numel() for i in bucket]
            buffer = torch.zeros(sum(sizes) + (total is None), dtype=shapes[bucket[0]].dtype, device=count.device)
            views = [part.view_as(shapes[i]) for i, part in zip(bucket, buffer.split(sizes + [1] * (total is None)))]
            present = [(view, tensors[i]) for i, view in zip(bucket, views) if tensors[i] is not None]
            if present:
                torch._foreach_copy_(*map(list, zip(*present)))
            if total is None:
                total = buffer[-1:]
                total.copy_(count)
            for i, view in zip(bucket, views):
                sums[i] = view
            waiting.append(dist.all_reduce(buffer, async_op=True))  # travels while the next bucket is filled
        for work in waiting:
            work.wait()
    return sums, total.squeeze(0)


def _buckets(tensors):
    """Indices of tensors of one type, in groups of at most `BUCKET_BYTES` (or one tensor)."""
    buckets, size = [], 0
    for i in sorted(range(len(tensors)), key=lambda i: str(tensors[i].dtype)):
        bytes_ = tensors[i].numel() * tensors[i].element_size()
        if not buckets or size + bytes_ > BUCKET_BYTES or tensors[buckets[-1][0]].dtype != tensors[i].dtype:
            buckets.append([])
            size = 0
        buckets[-1].append(i)
        size += bytes_
    return buckets
