"""One rank of a torchrun job, with a card of its own, and nobody at the other end.

The process group is torch's fake one: a collective changes nothing, and an asynchronous one keeps its tensor until
somebody waits for it, as NCCL's do. Each rank loads its weights for itself; in the real job they lie once in shared
memory, which the report takes into account (planner/rehearse/ranks.py).
"""

from typing import Any

import torch

from planner.rehearse.child.imports import Hooks
from planner.rehearse.child.settings import Settings


class _Pending:
    """An asynchronous collective."""

    def __init__(self, tensor: Any) -> None:
        self._tensor = tensor

    def wait(self) -> None:
        """The collective is through."""
        self._tensor = None


def install(settings: Settings, hooks: Hooks) -> None:
    """Replace what needs the other ranks; nothing for a job of one process."""
    if settings.ranks == 1:
        return
    hooks.after("torch.distributed", lambda module: _alone(module, settings))
    hooks.after("compressed_tensors.distributed.utils", _loads_for_itself)
    hooks.after("compressed_tensors.offload.cache.dist_cpu", _own_memory)
    hooks.after("compressed_tensors.offload.cache.dist_device", _own_device)


def _alone(module: Any, settings: Settings) -> None:
    own = module.init_process_group

    def init_process_group(*_values: Any, **_named: Any) -> None:
        from torch.testing._internal.distributed.fake_pg import FakeStore  # type: ignore[attr-defined,unused-ignore]  # private

        torch.cuda.set_device(settings.rank)
        own("fake", rank=settings.rank, world_size=settings.ranks, store=FakeStore())

    def collective(tensor: Any, *_values: Any, **_named: Any) -> _Pending:
        return _Pending(tensor)

    def nothing(*_values: Any, **_named: Any) -> None:
        """Nobody sends or waits."""

    def all_gather_object(gathered: list[Any], mine: Any, *_values: Any, **_named: Any) -> None:
        gathered[:] = [mine] * len(gathered)

    own_group = module.new_group

    def new_group(*values: Any, **named: Any) -> Any:
        return own_group(*values, **{**named, "backend": "fake"})

    module.init_process_group, module.new_group = init_process_group, new_group
    module.reduce = module.broadcast = module.all_reduce = collective
    module.barrier = module.broadcast_object_list = nothing
    module.all_gather_object = all_gather_object


def _loads_for_itself(module: Any) -> None:
    """Rank 0 loads for all; alone, each is the source of what it has, unless another rank's turn was announced."""

    def is_source_process() -> bool:
        source = module.get_source_rank()
        return bool(source == 0 or source == module.dist.get_rank())

    module.is_source_process = is_source_process


def _own_memory(module: Any) -> None:
    module.DistributedCPUCache.offload = _received(module.CPUCache.offload)


def _own_device(module: Any) -> None:
    module.DistributedDeviceCache.offload = _received(module.DeviceCache.offload)


def _received(own: Any) -> Any:
    """What another rank made and would send is an empty tensor."""

    def offload(cache: Any, tensor: Any) -> Any:
        if tensor is None or not tensor.is_meta:
            return own(cache, tensor)
        empty = torch.empty(tensor.shape, dtype=tensor.dtype, device=cache.offload_device)
        return torch.nn.Parameter(empty, requires_grad=False) if isinstance(tensor, torch.nn.Parameter) else empty

    return offload
