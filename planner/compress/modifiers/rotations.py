"""What SpinQuant and QuIP share: the fields of a transform, the matrices it makes, and the product with one of them.

compressed_tensors transform/factory/{base,hadamard,random_hadamard,matrix_multiply}.py and
transform/utils/{hadamard,matrix}.py.
"""

from collections.abc import Collection, Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

from pydantic import Field

from planner.compress.context import Context, Frame
from planner.compress.holdings import DeviceName, Owner
from planner.compress.modifiers.inverses import solved
from planner.compress.modifiers.precisions import WIDTHS, Precision, TransformType
from planner.compress.modifiers.writing import write_back
from planner.errors import RecipeError
from planner.notes import Note
from planner.recipe.specs import ModifierSpec
from planner.recipe.targets import LinearModule
from planner.recipe.validation import ModifierFields
from planner.timeline import Handle
from planner.units import FP64, INT64, human_bytes

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


@dataclass(frozen=True, slots=True, kw_only=True)
class TransformSpec(ModifierSpec):
    """A modifier that multiplies weights with matrices before the first batch."""

    @property
    def requires_calibration_data(self) -> bool:
        """It looks at weights alone."""
        return False

    @property
    def unties_embeddings(self) -> bool:
        """spinquant/base.py, quip/base.py `on_calibration_start`: whatever is rotated, and where they are targeted."""
        return True

    def in_ranks(self) -> Iterable[Note]:
        """Weights lie in shared memory, and every rank writes all of them."""
        text = f"{self.where}: {self.type} in several ranks is not modelled: its figures are those of one process"
        yield Note(kind="estimate", text=text)

    def garbage(self, nbytes: int, *, inverts: bool) -> Iterator[Note]:
        """Matrices of so many bytes that have done their work. Their factory refers to itself by way of a bound method:
        only Python's collector frees them (factory/hadamard.py HadamardFactory).

        When it comes is not known: a factory that outlives two young collections, while it works on many modules,
        waits for one of all objects. `inverts`: some of them are random.
        """
        if nbytes:
            text = (
                f"{human_bytes(nbytes)} of matrices that have done their work stay where the weights lie until "
                "Python's collector comes, sooner or later; planned as if it came at the end, which is the most"
            )
            yield Note(kind="estimate", text=f"{self.where}: {text}")
        if inverts:
            text = "what LAPACK or cuSOLVER takes to invert a random matrix, beside tensors, is not counted"
            yield Note(kind="estimate", text=f"{self.where}: {text}")


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


def known_divisor(size: int) -> int | None:
    """hadamard.py `_fetch_hadamard_divisor`: the largest size whose matrix is known, with a power of 2 above it."""
    return next((n for n in reversed(HADAMARD_SIZES) if size % n == 0 and (size // n).bit_count() == 1), None)


# ---------------------------------------------------------------------- memory
def aligned(context: Context, module: LinearModule) -> AbstractContextManager[None]:
    """align_module_device: the weight is onloaded inside."""
    return context.accessed(f"{module.name}.weight", module.weight_bytes)


@dataclass(slots=True)
class Matrices:
    """The matrices of one scheme: made where modules compute, one for each size, kept where they lie.

    Modules share them, offloaded and onloaded: offload/cache/base.py OffloadCache.__getitem__ goes by the tensor.
    """

    context: Context
    name: str
    """Of the scheme."""
    kind: TransformType
    dtype: str = "float64"
    """Of those that a hook asks for first (hadamard.py HadamardFactory.create_transform, and matrix_multiply.py
    RandomMatrixFactory.create_transform). A weight that asks first gets one in float64, and `ParameterizedDefaultDict`
    finds a matrix by its size: the second gets the very same."""
    permutes: bool = False
    """Each matrix has a permutation, by which every product puts its rows and columns in another order."""
    dtypes: dict[int, str] = field(default_factory=dict)
    """Of those that are made, by size."""
    permutations: dict[int, Handle] = field(default_factory=dict)
    made: dict[int, Handle] = field(default_factory=dict)
    inverses: dict[int, Handle] = field(default_factory=dict)
    """Of random matrices; a Hadamard matrix is turned round instead."""

    def make(self, size: int, dtype: str | None = None) -> None:
        """hadamard.py HadamardFactory.create_transform: the matrix of this size, if it is not there yet."""
        if size in self.made:
            return
        self.dtypes[size] = dtype or self.dtype
        if self.kind == "random-matrix":
            self.made[size] = self._uniform(size)
            return
        with self.context.frame("compress", self.label(size)) as frame:
            if self.kind == "hadamard":
                self._deterministic(frame, size)
            else:
                self._random(frame, size)
            self.made[size] = self._put_away(frame, size)
        if self.permutes:  # torch.randperm on the CPU, where the generator is
            owner = Owner(self.label(size), "permutation")
            self.permutations[size] = self.context.ledger.alloc("cpu", size * INT64, "transform", owner)

    def invert(self, size: int) -> None:
        """matrix_multiply.py RandomMatrixFactory.create_transform: the inverse of this size, if it is not there yet.

        high_precision_invert, where the matrix lies. Then the inverse is copied by rows.
        """
        if self.kind != "random-matrix" or size in self.inverses:
            return
        ledger, place, nbytes = self.context.ledger, self._place, self.bytes(size)
        owner = Owner(self.label(size), "inverse")
        is_other = self.dtypes[size] != "float64"
        wide = bytes_of(size, FP64) if is_other else 0
        with ledger.hold(place, wide, "transform", owner.part("matrix in fp64")):
            result = solved(self.context, place, size, owner)
        if is_other:
            cast = ledger.alloc(place, nbytes, "transform", owner.part("by columns"))
            ledger.free(result)
            result = cast
        self.inverses[size] = ledger.alloc(place, nbytes, "transform", owner)
        ledger.free(result)

    def width(self, size: int) -> int:
        """Bytes of a number in the matrix; of one that does not count (size 0) too."""
        return WIDTHS[self.dtypes.get(size, self.dtype)]

    def bytes(self, size: int) -> int:
        """Of the matrix."""
        return bytes_of(size, self.width(size))

    def label(self, size: int, *, inverse: bool = False) -> str:
        """What the books call it. `inverse`: of a random matrix, which is another one."""
        return f"{self.name} {'inverse' if inverse and self.kind == 'random-matrix' else 'matrix'} of {size}"

    def copied(self, frame: Frame, size: int, reader: str) -> None:
        """The matrix on the GPU for as long as the frame has its name, and its permutation."""
        if self.context.device == "gpu" and not self.context.weights_on_gpu:
            frame.bind("matrix", self.context.copied_to_gpu(f"{reader} matrix", self.bytes(size), "transform"))
        if self.permutes and self.context.device == "gpu" and not self._indexes_from_cpu:
            nbytes = size * INT64
            frame.bind("permutation", self.context.copied_to_gpu(f"{reader} permutation", nbytes, "transform"))

    def permute(self, frame: Frame, size: int) -> None:
        """hadamard.py HadamardTransform.forward: rows are gathered, then columns; the function keeps the second."""
        if not self.permutes:
            return
        with frame.during(size * INT64 if self._indexes_from_cpu else 0, "permutation"):
            frame.assign("rows", self.bytes(size))
        with frame.during(size * INT64 if self._indexes_from_cpu else 0, "permutation"):
            frame.assign("permuted", self.bytes(size))
        frame.delete("rows")

    def rotate(self, module: LinearModule, size: int, *, inverse: bool = False) -> None:
        """factory/base.py `_apply_to_module` on a weight, which is written back; size 0: no matrix that counts."""
        elements, context = module.rows * module.columns, self.context
        if size:
            self.make(size, "float64")
        if size and inverse:
            self.invert(size)
        with context.frame("compress", module.name) as frame, aligned(context, module):
            if size:
                self.copied(frame, size, module.name)
                self.permute(frame, size)
            self.multiply(frame, elements, module.itemsize, size)
            write_back(context, module.name, "weight", module.weight_bytes, module.weight_bytes)

    def stay(self, size: int) -> None:
        """hadamard.py HadamardTransform, one that a hook has: `_scale`, a number on the CPU, and no parameter.

        offload/cache/device.py DeviceCache.offload: where weights are on the GPU it gets a permutation of its own.
        """
        if self.kind == "random-matrix":
            return
        ledger = self.context.ledger
        ledger.alloc("cpu", FP64, "transform", Owner(f"{self.name} scales"))
        if self.permutes and self._place == "gpu" and not self._indexes_from_cpu:
            ledger.alloc("gpu", size * INT64, "transform", Owner(self.label(size), "permutation"))

    def rotated(
        self, size: int, elements: int, itemsize: int, owner: Owner, *, copied: bool = False, inverse: bool = False
    ) -> Handle:
        """A hook: the matrix is on the GPU until the subgraph ends; what it returns is the caller's."""
        with self.context.frame("forward", owner) as frame:
            self.context.onload(self.label(size, inverse=inverse), self.bytes(size), "transform")
            if self.permutes:
                self.context.onload(f"{self.label(size)} permutation", size * INT64, "transform")
            self.permute(frame, size)
            self.multiply(frame, elements, itemsize, size, copied=copied)
            return frame.hand_over("rotated")

    def multiply(self, frame: Frame, elements: int, itemsize: int, size: int, *, copied: bool = False) -> None:
        """hadamard.py HadamardTransform.forward: `frame` gets the name `rotated`, of the value's own type.

        matrix_multiply.py RandomMatrixTransform.forward divides by nothing. `copied`: torch.matmul lays the value out
        anew. `size`: of the matrix.
        """
        wide, is_cast = elements * self.width(size), self._casts(itemsize, size)
        with (
            frame.during(wide if is_cast else 0, "value"),
            frame.during(wide if copied else 0, "value in order"),
        ):
            frame.assign("product", wide)
            self.context.multiply()
        if self.kind == "random-matrix":
            frame.move("product", "quotient")
        else:
            frame.assign("quotient", wide)
            frame.delete("product")
        if is_cast:
            frame.assign("rotated", elements * itemsize)
            frame.delete("quotient")
        else:
            frame.move("quotient", "rotated")

    def free(self, hooked: Collection[tuple[int, bool]] = ()) -> None:
        """Python's collector has come for what only the factory had. `hooked`: sizes of what hooks have, and whether it
        is an inverse."""
        for matrices, are_inverses in ((self.made, False), (self.inverses, True)):
            gone = [size for size in matrices if (size, are_inverses) not in hooked]
            self.context.ledger.free_all([matrices.pop(size) for size in gone])
        own = self._place == "gpu" and not self._indexes_from_cpu
        gone = [size for size in self.permutations if own or (size, False) not in hooked]
        self.context.ledger.free_all([self.permutations.pop(size) for size in gone])

    @property
    def _indexes_from_cpu(self) -> bool:
        """Nothing is offloaded in the basic pipeline: permutations stay on the CPU, and native/TensorAdvancedIndexing
        copies one for each index of a matrix on the GPU."""
        return self.context.job.pipeline == "basic" and self._place == "gpu"

    def _casts(self, itemsize: int, size: int) -> bool:
        """Whether a value of so many bytes a number is of another type than the matrix: a model has one type of 16
        bit."""
        dtype = self.dtypes.get(size, self.dtype)
        return itemsize != WIDTHS[dtype] or (itemsize == 2 and dtype != self.context.job.dtype)

    @property
    def _place(self) -> DeviceName:
        """Where a module lies while it does not compute: get_offloaded_device."""
        return "gpu" if self.context.weights_on_gpu else "cpu"

    def _uniform(self, size: int) -> Handle:
        """matrix_multiply.py RandomMatrixFactory._create_weight: torch.rand on the CPU, where the generator is."""
        ledger, owner, nbytes = self.context.ledger, Owner(self.label(size)), self.bytes(size)
        if self._place == "cpu":
            return ledger.alloc("cpu", nbytes, "transform", owner)
        with ledger.hold("cpu", nbytes, "transform", owner.part("on the CPU")):
            return ledger.alloc("gpu", nbytes, "transform", owner)

    def _deterministic(self, frame: Frame, size: int) -> None:
        """hadamard.py `deterministic_hadamard_matrix`: four copies of the one before, until it is large enough."""
        number, nbytes = self.width(size), self.bytes(size)
        frame.assign("H", number)
        while number < nbytes:
            frame.assign("upper half", 2 * number)
            with frame.during(number, "-H"):
                frame.assign("lower half", 2 * number)
            number *= 4
            frame.assign("whole", number)
            frame.delete("upper half", "lower half")
            frame.move("whole", "H")

    def _random(self, frame: Frame, size: int) -> None:
        """hadamard.py `random_hadamard_matrix`: a diagonal of signs, times a known matrix repeated."""
        line, nbytes = size * self.width(size), self.bytes(size)
        frame.assign("Q", line)
        with frame.during(line, "Q * 2"):
            frame.assign("Q", line)
        frame.assign("Q", nbytes, label="diagonal")
        self._repeated(frame, size, known_divisor(size) or size)

    def _repeated(self, frame: Frame, size: int, known: int) -> None:
        """hadamard.py `_matmul_hadU`; its X is the caller's Q until it returns."""
        nbytes = self.bytes(size)
        with frame.during(known * known, "known matrix in int8"):
            frame.assign("hadK", bytes_of(known, self.width(size)))
        frame.assign("input", nbytes)
        frame.assign("output", nbytes)
        if size > known:  # each round's sum and difference are copied into the output
            frame.temporary(nbytes // 2, "sum of two halves")
        frame.delete("output")
        frame.assign("H", nbytes)
        self.context.multiply()
        frame.delete("input", "hadK", "Q")

    def _put_away(self, frame: Frame, size: int) -> Handle:
        context, place = self.context, self._place
        if place == context.device:  # .to(device) returns the same tensor
            handle = frame.hand_over("H")
            context.ledger.relabel(handle, frame.owner)
            return handle
        return context.ledger.alloc(place, self.bytes(size), "transform", frame.owner)
