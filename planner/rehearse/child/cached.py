"""LLM Compressor's activation cache, seen from outside: which values lie in it, and others like them.

llmcompressor/pipelines/cache.py IntermediatesCache: for each batch a dictionary of values, each with its tensors on the
CPU, in lists, tuples, dictionaries and dataclasses.
"""

import sys
from collections.abc import Hashable, Iterator
from dataclasses import fields, is_dataclass
from typing import Any

import torch

from planner.rehearse.child.books import TensorBooks

LARGE = 1 << 20
"""driver/books.cpp: CPU tensors from this size on are named in the trace."""
PLAIN = (int, float, str, bool, torch.dtype, torch.device, type(None))


class Doubt(Exception):  # noqa: N818  (no error: whoever doubts runs the batch)
    """What this is, or who else has it, is not known."""


def parts(value: Any) -> Iterator[Any]:
    """The value itself, and all that it is made of."""
    yield value
    if type(value) is not torch.Tensor and type(value) not in PLAIN:
        for each in _inside(value):
            yield from parts(each)


def _inside(value: Any) -> list[Any]:
    """What it is made of, a step deep."""
    kind = type(value)
    if kind in (list, tuple):
        return list(value)
    if kind is dict:
        return [each for pair in value.items() for each in pair]
    if is_dataclass(value):
        return [getattr(value, field.name) for field in fields(value)]
    raise Doubt


def tensors(value: Any) -> dict[int, torch.Tensor]:
    """Its tensors by identity. Raises Doubt where one is a part of another, or not on the CPU."""
    found = {id(each): each for each in parts(value) if type(each) is torch.Tensor}
    for each in found.values():
        storage = each.untyped_storage()
        if each.device.type != "cpu" or storage.nbytes() != each.numel() * each.element_size() or each.requires_grad:
            raise Doubt
    return found


def shape(value: Any, books: TensorBooks | None = None) -> Hashable:
    """What memory may depend on: equal for values of equal shapes; with `books`, known numbers are equal, too.

    Raises Doubt where it is not all known.
    """
    said: list[Hashable] = []
    _say(value, books, said)
    return tuple(said)


def _say(value: Any, books: TensorBooks | None, said: list[Hashable]) -> None:
    """`parts`, without a generator for each level: a search asks this of each sample at each point."""
    kind = type(value)
    if kind is torch.Tensor:
        numbers = books.numbers(value) if books else None
        said.append((value.shape, value.stride(), value.dtype, value.device, numbers))
        return
    if kind in PLAIN:
        said.append(value)
        return
    said.append((kind, len(value) if hasattr(value, "__len__") else 0))
    for each in _inside(value):
        _say(each, books, said)


def holders(tensor: torch.Tensor, known: int) -> Hashable:
    """How many names the tensor has beside those that are `known`, and how many tensors share its memory."""
    uses: Any = getattr(torch._C, "_storage_Use_Count", None)
    if uses is None:
        raise Doubt
    return sys.getrefcount(tensor) - known, uses(tensor.untyped_storage()._cdata)


def alike(value: Any, books: TensorBooks, made: dict[int, torch.Tensor]) -> Any:
    """The same with other tensors of the same shape, which count as those do; `made` has those that are there."""
    if type(value) is torch.Tensor:
        if id(value) not in made:
            made[id(value)] = _tensor_like(value, books)
        return made[id(value)]
    if is_dataclass(value):
        kind: Any = type(value)
        return kind(**{each.name: alike(getattr(value, each.name), books, made) for each in fields(value)})
    if type(value) in (list, tuple):
        return type(value)(alike(each, books, made) for each in value)
    if type(value) is dict:
        return {key: alike(each, books, made) for key, each in value.items()}
    return value


def _tensor_like(tensor: torch.Tensor, books: TensorBooks) -> torch.Tensor:
    storage = tensor.untyped_storage()
    if books.numbers(tensor):
        return tensor.clone()
    with books.made_where(storage):
        made = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="cpu")
    books.unknown(made)
    return made
