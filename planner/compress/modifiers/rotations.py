"""What SpinQuant and QuIP share: the fields of a transform, the matrices it makes, and the product with one of them.

compressed_tensors transform/factory/{base,hadamard,random_hadamard,matrix_multiply}.py and
transform/utils/{hadamard,matrix}.py.
"""

from collections.abc import Collection, Iterator
from typing import Any

from pydantic import Field

from planner.compress.modifiers.precisions import Precision, TransformType
from planner.errors import RecipeError
from planner.notes import Note
from planner.recipe.validation import ModifierFields

HADAMARD_SIZES = (1, 2, *range(4, 257, 4))
"""Those in transform/utils/hadamards.safetensors, in ascending order."""


class TransformFields(ModifierFields):
    """Fields that both have; of some of them only that they are given is of interest."""

    transform_type: TransformType = "hadamard"
    randomize: bool = False
    learnable: bool = False
    precision: Precision = "float64"
    """Of the matrices that a hook asks for first: llmcompressor/utils/dev.py `get_high_precision`."""
    transform_block_size: int | None = Field(default=None, ge=1)
    transform_config: Any = None

    def refuse_unfinished(self, where: str) -> None:
        """base.py `validate_not_implemented` of both."""
        for name in ("randomize", "learnable"):
            if getattr(self, name):
                raise RecipeError("is not supported by LLM Compressor as of now", f"{where}.{name}")


def unread(fields: TransformFields, own: Collection[str], where: str) -> Iterator[Note]:
    """Fields beside a `transform_config` that nobody reads: base.py `on_initialize` makes no groups of them."""
    shared = ("transform_type", "precision", "transform_block_size")
    for name in sorted({*own, *shared} & fields.model_fields_set):
        yield Note(kind="recipe", text=f"{where}.{name} is not heeded: transform_config says it all")


def side(rows: int, columns: int, is_embedding: bool, is_output: bool) -> int:
    """utils/matrix.py `get_transform_size` without a block: a weight's side of its outputs, or of its inputs."""
    return columns if is_output == is_embedding else rows


def check_size(kind: TransformType, own: int, name: str, block: int | None, where: str) -> None:
    """utils/matrix.py `get_transform_size`, and whether there is a matrix of this size (utils/hadamard.py).

    `own`: the side of what is multiplied, `name`: of what it is; `where`: the path of `block` in the recipe.
    """
    modifier, _, name_of_block = where.rpartition(".")
    if block and own % block:
        raise RecipeError(f"{block} must divide {own} of {name}", where)
    size = block or own
    if kind == "hadamard" and size & (size - 1):
        raise RecipeError(f"a hadamard matrix of {size} ({name}) does not exist; its size is a power of 2", modifier)
    if kind == "random-hadamard" and known_divisor(size) is None:
        text = f"LLM Compressor cannot make a random hadamard matrix of {size} ({name})"
        hint = "" if name_of_block == "rotations" else f"; ignore that module, or take a {name_of_block}"
        raise RecipeError(text + hint, modifier)


def bytes_of(size: int, itemsize: int) -> int:
    """Of a square matrix."""
    return size * size * itemsize


def matrix_label(group: str, kind: TransformType, size: int, *, inverse: bool) -> str:
    """What the books call a matrix, which hooks of one group share. `inverse`: of a random one, which is another."""
    return f"{group} {'inverse' if inverse and kind == 'random-matrix' else 'matrix'} of {size}"


def known_divisor(size: int) -> int | None:
    """hadamard.py `_fetch_hadamard_divisor`: the largest size whose matrix is known, with a power of 2 above it."""
    return next((n for n in reversed(HADAMARD_SIZES) if size % n == 0 and (size // n).bit_count() == 1), None)
