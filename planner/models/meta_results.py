"""What operators return on tensors without data, remembered by the shapes that they were given.

Torch works out many of these shapes in Python, and a model's layers, and one trace after the other, ask for the same
ones again and again. What shares memory with an argument, or writes to one, is worked out each time.
"""

from collections.abc import Hashable, Iterator
from functools import cache
from typing import Any

import torch

from planner.models.failures import pass_on

MOST = 2**14
"""So many results are remembered; then all are forgotten."""

_KNOWN: dict[Hashable, tuple[torch.Size, tuple[int, ...], torch.dtype]] = {}
_VALUES = frozenset({int, float, bool, str, type(None), torch.dtype, torch.device, torch.layout, torch.memory_format})


def result_of(func: Any, args: Any, kwargs: Any) -> Any:
    """What the operator returns: a new tensor where the shape is known, else what `pass_on` does."""
    key = _key(func, args, kwargs) if _is_pure(func) else None
    if key is None:
        return pass_on(func, args, kwargs)
    known = _KNOWN.get(key)
    if known is not None:
        size, stride, dtype = known
        return torch.empty_strided(size, stride, dtype=dtype, device="meta")
    result = pass_on(func, args, kwargs)
    if _is_new(result, (args, [*kwargs.values()])):
        if len(_KNOWN) >= MOST:
            _KNOWN.clear()
        _KNOWN[key] = result.size(), result.stride(), result.dtype
    return result


@cache
def _is_pure(func: Any) -> bool:
    """By its schema the operator writes to no argument, and returns one tensor that is none of them."""
    schema = func._schema
    return len(schema.returns) == 1 and schema.returns[0].alias_info is None and not schema.is_mutable


def _key(func: Any, args: Any, kwargs: Any) -> Hashable:
    """Equal where shapes and values of the arguments are; None where these do not tell what the result is."""
    parts: list[Any] = [func, torch.get_default_dtype()]
    return tuple(parts) if _add(args, parts) and _add([*kwargs.items()], parts) else None


def _add(values: Any, parts: list[Any]) -> bool:
    """Add the values to a key; false where one of them has more to say than its shape, or is not known here."""
    parts.append(len(values))
    for value in values:
        if isinstance(value, torch.Tensor):
            if not value.is_meta:  # a number that counts as one when types are promoted
                return False
            parts += (value.size(), value.stride(), value.dtype)
        elif type(value) in _VALUES:
            parts += [type(value), value]  # 1, 1.0 and True are equal
        elif not isinstance(value, (list, tuple)) or not _add(value, parts):
            return False
    return True


def _is_new(result: Any, given: Any) -> bool:
    """A tensor of its own, of which nothing but shape, strides and type matters."""
    if not isinstance(result, torch.Tensor) or not result.is_meta or result.storage_offset() or result.requires_grad:
        return False
    storage = result.untyped_storage()
    like = torch.empty_strided(result.size(), result.stride(), dtype=result.dtype, device="meta")
    shared = any(tensor.untyped_storage()._cdata == storage._cdata for tensor in tensors_in(given))
    return not shared and like.untyped_storage().nbytes() == storage.nbytes()


def tensors_in(values: Any) -> Iterator[torch.Tensor]:
    """All tensors of arguments or results, those in lists too."""
    for value in values:
        if isinstance(value, torch.Tensor):
            yield value
        elif isinstance(value, (list, tuple)):
            yield from tensors_in(value)
