"""The shapes of a module's result, to make an equal result for an equal module without running it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils import _pytree as pytree


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputShape:
    """Geometry of a returned tensor, and of the storage that it may be a view of."""

    size: torch.Size
    stride: tuple[int, ...]
    offset: int
    storage_elements: int
    dtype: torch.dtype
    values: torch.Tensor | None = None
    """The tensor itself where it has values, which then do not depend on weights."""
    storage_id: int = -1
    """The recorder's id of the storage in the segment that allocated it; -1 for a storage of an earlier segment."""

    def on(self, storage: torch.Tensor) -> torch.Tensor:
        """The same view of another storage."""
        return storage.as_strided(self.size, self.stride, self.offset)


def shape_of(tensor: torch.Tensor, storage_id: int = -1) -> OutputShape:
    """The shape of one returned tensor."""
    return OutputShape(
        size=tensor.size(),
        stride=tensor.stride(),
        offset=int(tensor.storage_offset()),
        storage_elements=tensor.untyped_storage().nbytes() // tensor.element_size(),
        dtype=tensor.dtype,
        values=tensor if tensor.is_cpu and tensor.dim() else None,
        storage_id=storage_id,
    )


def shapes_of(result: Any, shape: Callable[[torch.Tensor], OutputShape] = shape_of) -> Any:
    """The result with each tensor replaced by its shape."""
    return pytree.tree_map_only(torch.Tensor, shape, result)


def made_again(shapes: Any, make: Callable[[OutputShape], torch.Tensor]) -> Any:
    """The result with each shape replaced by a new tensor."""
    return pytree.tree_map_only(OutputShape, make, shapes)
