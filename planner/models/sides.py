"""Numbers that a traced graph makes: torch.fx knows the sides of a shape as nodes, so what is made with them waits."""

from collections.abc import Iterator
from typing import Any

import torch
from torch.utils import _pytree as pytree

SHAPE = torch.Tensor.shape.__get__  # type: ignore[attr-defined]  # a descriptor, of which the stubs say nothing
"""What a TorchFunctionMode is shown where `tensor.shape` is read."""


class Side(int):
    """A side of a shape. What is computed from it is a plain number."""

    node: int
    """The node that takes it out of the shape."""


def with_sides(shape: torch.Size, first: int) -> torch.Size:
    """The same shape; its sides are made by the nodes from `first` on."""
    sides = []
    for place, number in enumerate(shape):
        side = Side(number)
        side.node = first + place
        sides.append(side)
    return torch.Size(sides)  # keeps the very objects


def makers(values: Any) -> Iterator[int]:
    """The nodes that make the sides among these arguments."""
    return (leaf.node for leaf in pytree.tree_leaves(values) if isinstance(leaf, Side))
