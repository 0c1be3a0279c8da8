"""Calls of a function on a GPU as one launch: its kernels are recorded once for each shape and then replayed.

A training step of these networks has thousands of short kernels, and a processor needs longer to launch them than the
GPU to run them. See https://pytorch.org/docs/stable/notes/cuda.html#cuda-graphs for what can be recorded: everything
that neither waits for the device nor copies from pageable memory.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import torch

from unified_sess.utils.errors import UserError

CALLS_BEFORE = 2  # calls of a shape that run as usual, before it is worth recording
MOST_SHAPES = 4  # each keeps its outputs; all share the rest of their memory


def _record(function, inputs, pool):
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        function(*inputs)  # libraries take their work space on the stream that is recorded
    torch.cuda.current_stream().wait_stream(stream)
    torch.cuda.empty_cache()  # what such calls took until now is not needed beside the recorded one's
    graph = torch.cuda.CUDAGraph()
    # Loader threads pin memory meanwhile, which the stricter modes would take for a fault.
    with torch.cuda.graph(graph, pool=pool, stream=stream, capture_error_mode="thread_local"):
        outputs = function(*inputs)
    return graph.replay, outputs


class Replay:
    """A function of tensors that is recorded for each shape that comes again, and replayed from then on.

    Arguments
    ---------
    function : callable
        Takes and gives tensors, also in tuples such as a `Batch`, beside values that play no part, such as names, and
        None. It must depend on nothing but the tensors on a GPU, the shapes of all, and tensors that only change in
        place, such as parameters.
    record : callable
        `record(function, inputs, pool)` to a callable that runs it again and its outputs; for tests.
    keeps : list of torch.Tensor
        What the function changes in place besides its outputs, such as running statistics: recording runs it once more,
        which must not count.

    Raises
    ------
    UserError
        When called, if the function cannot be recorded.

    Example
    -------
    >>> if torch.cuda.is_available():
    ...     double = Replay(lambda x: (2 * x,))
    ...     results = [double(torch.ones(3, device="cuda"))[0].sum().item() for _ in range(4)]
    """

    def __init__(
        self, function: Callable[..., Any], record: Callable[..., Any] = _record, keeps: Sequence[torch.Tensor] = ()
    ) -> None:
        self.function, self.record, self.keeps = function, record, list(keeps)
        self.seen: Counter[tuple] = Counter()  # calls of each shape
        self.recorded: dict[tuple, tuple] = {}  # inputs, how to replay, outputs
        self.pool: Any = None

    def __call__(self, *inputs: Any) -> Any:
        """The function's outputs; a replay overwrites those of the last one."""
        shape = tuple((tensor.shape, tensor.dtype) for tensor in _tensors(inputs))
        if shape not in self.recorded:
            self.seen[shape] += 1
            if self.seen[shape] <= CALLS_BEFORE or len(self.recorded) == MOST_SHAPES:
                return self.function(*inputs)
            self.recorded[shape] = self._recorded(_copied(inputs))
        places, replay, outputs = self.recorded[shape]
        for place, tensor in zip(_tensors(places), _tensors(inputs), strict=True):
            place.copy_(tensor)
        replay()
        return outputs

    def _recorded(self, inputs):
        if self.pool is None and any(tensor.is_cuda for tensor in _tensors(inputs)):
            self.pool = torch.cuda.graph_pool_handle()
        before = [tensor.clone() for tensor in self.keeps]
        try:
            recorded = self.record(self.function, inputs, self.pool)
        except RuntimeError as error:
            # Going on is no way out: PyTorch's random generator stays in a half recorded state.
            why = str(error).splitlines()[0]
            raise UserError(f"a step of this network cannot be recorded ({why}): leave cuda_graphs False") from error
        for tensor, value in zip(self.keeps, before, strict=True):
            tensor.copy_(value)
        return inputs, *recorded


def _tensors(value):
    """The tensors of nested tuples, in order."""
    if isinstance(value, torch.Tensor):
        return [value]
    return [tensor for part in value for tensor in _tensors(part)] if isinstance(value, tuple) else []


def _copied(value):
    """Nested tuples with tensors of their own."""
    if isinstance(value, torch.Tensor):
        return value.clone()
    if not isinstance(value, tuple):
        return value
    parts = [_copied(part) for part in value]
    return type(value)(*parts) if hasattr(value, "_fields") else tuple(parts)
