"""An operator as the recorder sees it, as plain data for the rules of planner/cuda."""

from typing import Any

import torch

from planner.cuda.build import CudaBuild
from planner.cuda.operands import Operand, OperatorCall
from planner.cuda.operators import requests_of, takes_nothing
from planner.cuda.requests import NOTHING, Requests

BUILD = CudaBuild()
"""A trace is made for this card; on others, CUB's storage and the buffers of large reductions differ a little."""

_INDEXES = {"index", "_unsafe_index", "index_put_", "index_put", "_index_put_impl_", "masked_select"}


def cuda_requests(
    name: str, args: Any, kwargs: dict[str, Any], result: Any, selected: tuple[int, ...]
) -> Requests | None:
    """What the operator takes from a CUDA build's allocator. None: no rule knows it.

    `selected`: how many entries of each bool mask among its indices are true.
    """
    if takes_nothing(name):
        return NOTHING
    results = tuple(_plain(value) for value in (result if isinstance(result, (tuple, list)) else (result,)))
    call = OperatorCall(
        name=name,
        arguments=_plain(args),
        keywords={key: _plain(value) for key, value in kwargs.items()},
        results=tuple(value for value in results if isinstance(value, Operand)),
        selected=selected,
    )
    return requests_of(call, BUILD)


def counted_workspaces(name: str, args: Any, selected: tuple[int, ...]) -> list[tuple[int, str]]:
    """(bytes, what) of the temporaries that the counting device has as well: a part of what a CUDA build takes.

    IndexKernel.cpp masked_scatter_: an int64 prefix sum over self, and a contiguous mask when the given one is
    broadcast. TensorAdvancedIndexing.cpp expandTensors: a bool index becomes its nonzero() positions, except where
    canDispatchToMaskedFill applies (a single value is put).
    """
    if name == "masked_scatter_":
        target, mask = args[0], args[1]
        whole = mask.shape == target.shape and mask.is_contiguous()
        return [(target.numel() * 8 + (0 if whole else target.numel()), "prefix sum of masked_scatter_")]
    if name not in ("index", "index_put_", "_index_put_impl_") or (name != "index" and args[2].numel() == 1):
        return []
    sizes = (count * mask.dim() * 8 for mask, count in zip(masks(name, args), selected, strict=True))
    return [(size, "nonzero() of a bool index") for size in sizes if size]


def masks(name: str, args: Any) -> list[torch.Tensor]:
    """The bool masks by which an operator indexes."""
    if name not in _INDEXES:
        return []
    indices = args[1] if isinstance(args[1], (list, tuple)) else (args[1],)
    return [mask for mask in indices if mask is not None and mask.dtype in (torch.bool, torch.uint8)]


def _plain(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        dtype = str(value.dtype).removeprefix("torch.")
        return Operand(tuple(value.shape), tuple(value.stride()), dtype, value.is_cpu and not value.dim())
    if isinstance(value, (list, tuple)):
        return tuple(_plain(item) for item in value)
    return value
