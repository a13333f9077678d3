"""Numbers that a traced graph makes: torch.fx knows the sides of a shape as nodes, so what is made with them waits."""

from collections.abc import Iterator
from typing import Any

import torch
from torch.utils import _pytree as pytree

SHAPE = torch.Tensor.shape.__get__  # type: ignore[attr-defined]
"""What a TorchFunctionMode is shown where `tensor.shape` is read."""


class Side(int):
    """A side of a shape. What is computed from it is a plain number."""

    node: int
    """The node that makes it."""
    whole: int
    """The node of the shape that it was taken out of."""


def with_sides(shape: torch.Size, whole: int, first: int) -> torch.Size:
    """The shape that node `whole` makes; its sides are made by the nodes from `first` on."""
    sides = []
    for place, number in enumerate(shape):
        side = Side(number)
        side.node, side.whole = first + place, whole
        sides.append(side)
    return torch.Size(sides)  # keeps the very objects


def sides_of(shape: torch.Size) -> Iterator[Side]:
    """Those sides that know where they come from."""
    return (side for side in shape if isinstance(side, Side))


def makers(values: Any) -> Iterator[int]:
    """The nodes that make the numbers among these arguments; a shape passed whole is one number."""
    for leaf in pytree.tree_leaves(values):
        if isinstance(leaf, Side):
            yield leaf.node
        elif isinstance(leaf, torch.Size):
            yield from (side.whole for side in sides_of(leaf))
