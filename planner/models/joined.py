"""DistributedDataParallel around a layer that ranks train: auto_round utils/distributed.py setup_ddp_if_needed_.

torch/nn/parallel/distributed.py and torch/csrc/distributed/c10d: all parameters and buffers are sent first, flattened
and two buckets at a time; the reducer has a copy of every gradient, because gradient_as_bucket_view is off; and each
output is copied, because unused parameters are looked for. What NCCL takes is not PyTorch's to count.
"""

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import torch

from planner.units import MIB

SENT = (250 * MIB,)
"""DistributedDataParallel.broadcast_bucket_size."""
REDUCED = (MIB, 25 * MIB)
"""torch.distributed `_DEFAULT_FIRST_BUCKET_BYTES` and bucket_cap_mb: of the first bucket, and of every other one."""


def buckets_of(tensors: Sequence[torch.Tensor], limits: Sequence[int]) -> list[list[torch.Tensor]]:
    """reducer.cpp compute_bucket_assignment_by_size: tensors of one type in order, until a bucket is full."""
    full: list[list[int]] = []
    open_ones: dict[torch.dtype, list[int]] = {}
    reached: dict[torch.dtype, int] = {}
    for number, tensor in enumerate(tensors):
        bucket = open_ones.setdefault(tensor.dtype, [])
        bucket.append(number)
        limit = limits[min(reached.get(tensor.dtype, 0), len(limits) - 1)]
        if sum(_bytes(tensors[each]) for each in bucket) >= limit:
            full.append(open_ones.pop(tensor.dtype))
            reached[tensor.dtype] = reached.get(tensor.dtype, 0) + 1
    return [[tensors[each] for each in bucket] for bucket in sorted([*full, *open_ones.values()])]


def _bytes(tensor: torch.Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def send_states(block: torch.nn.Module) -> None:
    """`_sync_module_states`: comm.cpp broadcast_coalesced."""
    states = [tensor.detach() for tensor in (*block.parameters(), *block.buffers())]
    in_flight: deque[torch.Tensor] = deque()
    for bucket in buckets_of(states, SENT):
        if len(in_flight) == 2:
            in_flight.popleft()
        in_flight.append(_flat(bucket))
    while in_flight:
        in_flight.popleft()


def _flat(bucket: Sequence[torch.Tensor]) -> torch.Tensor:
    """flatten_dense_tensors: one tensor is not copied."""
    flat = [tensor.contiguous().view(-1) for tensor in bucket]
    return flat[0] if len(flat) == 1 else torch.cat(flat)


def reducer_of(block: torch.nn.Module) -> list[torch.Tensor]:
    """What a Reducer holds (reducer.cpp initialize_buckets, initialize_local_used_map), the last parameters first."""
    trained = [parameter for parameter in block.parameters() if parameter.requires_grad]
    held = [
        bucket[0].new_empty((sum(parameter.numel() for parameter in bucket),))
        for bucket in reversed(buckets_of(trained, REDUCED))
    ]
    return [*held, trained[0].new_empty((len(trained),), dtype=torch.int32)]


class CopiedOutput(torch.autograd.Function):
    """distributed.py `_DDPSink`."""

    @staticmethod
    def forward(_ctx: Any, output: torch.Tensor) -> torch.Tensor:
        return output.clone()

    @staticmethod
    def backward(_ctx: Any, *grads: torch.Tensor) -> Any:
        return grads[0]


Run = Callable[..., Any]


def joined(run: Run) -> Run:
    """A layer's forward as DistributedDataParallel's: every tensor that it returns is a copy."""

    def forward(*args: Any, **kwargs: Any) -> Any:
        output = run(*args, **kwargs)
        return torch.utils._pytree.tree_map_only(torch.Tensor, _copied, output)

    return forward


def _copied(output: torch.Tensor) -> Any:
    return CopiedOutput.apply(output) if output.grad_fn is not None else output  # type: ignore[no-untyped-call]  # torch leaves it untyped
