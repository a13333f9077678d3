"""A call of an ATen operator as plain data: what a rule reads of it."""

from dataclasses import dataclass, field
from math import prod
from typing import Any, NamedTuple

ITEMSIZE = {
    "bool": 1, "uint8": 1, "int8": 1, "float8_e4m3fn": 1, "float8_e5m2": 1, "float8_e8m0fnu": 1,
    "int16": 2, "uint16": 2, "float16": 2, "bfloat16": 2,
    "int32": 4, "uint32": 4, "float32": 4,
    "int64": 8, "uint64": 8, "float64": 8, "complex64": 8, "complex128": 16,
}  # fmt: skip


class Operand(NamedTuple):
    """A tensor on the GPU, or in CPU memory."""

    shape: tuple[int, ...]
    stride: tuple[int, ...]
    """In elements."""
    dtype: str
    """PyTorch's name without `torch.`."""
    on_cpu: bool = False

    @property
    def numel(self) -> int:
        return prod(self.shape)

    @property
    def itemsize(self) -> int:
        return ITEMSIZE[self.dtype]

    @property
    def nbytes(self) -> int:
        """Bytes of a dense copy."""
        return self.numel * self.itemsize

    @property
    def is_contiguous(self) -> bool:
        """Row-major without gaps; strides of dimensions of one element do not matter."""
        expected = 1
        for size, stride in zip(reversed(self.shape), reversed(self.stride), strict=True):
            if size != 1 and stride != expected and self.numel:
                return False
            expected *= size
        return True


@dataclass(frozen=True, slots=True, kw_only=True)
class OperatorCall:
    """One call as PyTorch's dispatcher sees it, below the composite operators."""

    name: str
    """Without namespace and overload, such as `index_put_`."""
    arguments: tuple[Any, ...]
    """Positional arguments; an `Operand` for each tensor, tuples for lists."""
    keywords: dict[str, Any] = field(default_factory=dict)
    results: tuple[Operand, ...] = ()
    selected: tuple[int, ...] = ()
    """How many entries of each bool mask among the indices are true."""

    def operand(self, position: int) -> Operand:
        """The tensor in this position."""
        operand = self.arguments[position]
        assert isinstance(operand, Operand)
        return operand

    def argument(self, position: int, name: str, default: Any = None) -> Any:
        """An argument that may be given by position or by name."""
        return self.arguments[position] if len(self.arguments) > position else self.keywords.get(name, default)
