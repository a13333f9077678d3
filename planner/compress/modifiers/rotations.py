"""What SpinQuant and QuIP share: the fields of a transform, the matrices it makes, and the product with one of them.

compressed_tensors transform/factory/{base,hadamard,random_hadamard,matrix_multiply}.py and
transform/utils/{hadamard,matrix}.py.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import Field

from planner.compress.context import Context, Frame
from planner.compress.holdings import DeviceName, Owner
from planner.compress.modifiers.inverses import solved
from planner.compress.modifiers.writing import write_back
from planner.errors import RecipeError, UnsupportedError
from planner.hints import shorten
from planner.models.traces import Call
from planner.models.tuned import OnlineRotation, Place
from planner.notes import Note
from planner.recipe.specs import ModifierSpec
from planner.recipe.targets import LinearModule
from planner.recipe.validation import ModifierFields
from planner.timeline import Handle
from planner.units import FP32, FP64, human_bytes

HADAMARD_SIZES = (1, 2, *range(4, 257, 4))
"""Those in transform/utils/hadamards.safetensors, in ascending order."""

PRECISIONS = {"float64": FP64, "float32": FP32}

TransformType = Literal["hadamard", "random-hadamard", "random-matrix"]


class TransformFields(ModifierFields):
    """Fields that both have; of some of them only that they are given is of interest."""

    transform_type: TransformType = "hadamard"
    randomize: bool = False
    learnable: bool = False
    precision: Any = None
    transform_block_size: int | None = Field(default=None, ge=1)
    transform_config: Any = None

    def refuse_unfinished(self, where: str) -> None:
        """base.py `validate_not_implemented` of both."""
        for name in ("randomize", "learnable"):
            if getattr(self, name):
                raise RecipeError("is not supported by LLM Compressor as of now", f"{where}.{name}")

    def precision_itemsize(self, where: str) -> int:
        """Bytes of a number in a matrix that a hook multiplies with: `create_transform` of factory/hadamard.py makes
        those of weights alone in float64."""
        name = "float64" if self.precision is None else str(self.precision).removeprefix("torch.")
        if name not in PRECISIONS:
            raise UnsupportedError(f"{where}.precision: planner models {' and '.join(PRECISIONS)}, not {shorten(name)}")
        return PRECISIONS[name]


@dataclass(frozen=True, slots=True, kw_only=True)
class TransformSpec(ModifierSpec):
    """A modifier that multiplies weights with matrices before the first batch."""

    transform_type: TransformType = "hadamard"
    transform_block_size: int | None = None
    itemsize: int = FP64
    """Of the matrices that hooks multiply inputs with. The weights of these modules meet them first or second, and
    `ParameterizedDefaultDict` finds a matrix by its size: they are multiplied with the very same."""

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

    def transform(
        self, name: str, module: str, place: Place, size: int, itemsize: int, *, inverse: bool = False
    ) -> OnlineRotation:
        """One that stays in a layer: factory/base.py `_apply_to_module`."""
        return OnlineRotation(
            name=name,
            module=module,
            place=place,
            size=size,
            dtype="float64" if itemsize == FP64 else "float32",
            inverse=inverse,
            scales=self.transform_type != "random-matrix",
        )

    def garbage(self, sizes: Iterable[int]) -> Iterator[Note]:
        """Matrices of these sizes that have done their work. Their factory refers to itself by way of a bound method:
        only Python's collector frees them (factory/hadamard.py HadamardFactory).

        When it comes is not known: a factory that outlives two young collections, while it works on many modules,
        waits for one of all objects.
        """
        nbytes = sum(size * size * FP64 for size in sizes)
        if nbytes:
            text = (
                f"{human_bytes(nbytes)} of matrices that have done their work stay where the weights lie until "
                "Python's collector comes, sooner or later; planned as if it came at the end, which is the most"
            )
            yield Note(kind="estimate", text=f"{self.where}: {text}")
        if self.transform_type == "random-matrix":
            text = "what LAPACK or cuSOLVER takes to invert a random matrix, beside tensors, is not counted"
            yield Note(kind="estimate", text=f"{self.where}: {text}")

    def check_side(self, side: int, name: str, *, block: int | None = None) -> None:
        """utils/matrix.py `get_transform_size`, and whether there is a matrix of this size (utils/hadamard.py).

        `block`: a size that is not the recipe's.
        """
        block = block or self.transform_block_size
        if block and side % block:
            where = f"{self.where}.transform_block_size" if block == self.transform_block_size else self.where
            raise RecipeError(f"{block} must divide {side} of {name}", where)
        size = block or side
        if self.transform_type == "hadamard" and size & (size - 1):
            text = f"a hadamard matrix of {size} ({name}) does not exist; its size is a power of 2"
            raise RecipeError(text, self.where)
        if self.transform_type == "random-hadamard" and known_divisor(size) is None:
            text = f"LLM Compressor cannot make a random hadamard matrix of {size} ({name}); ignore that module"
            raise RecipeError(f"{text}, or take a transform_block_size", self.where)


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
    itemsize: int = FP64
    made: dict[int, Handle] = field(default_factory=dict)
    inverses: dict[int, Handle] = field(default_factory=dict)
    """Of random matrices; a Hadamard matrix is turned round instead."""

    def make(self, size: int) -> None:
        """hadamard.py HadamardFactory.create_transform: the matrix of this size, if it is not there yet."""
        if size in self.made:
            return
        if self.kind == "random-matrix":
            self.made[size] = self._uniform(size)
            return
        with self.context.frame("compress", self.label(size)) as frame:
            if self.kind == "hadamard":
                self._deterministic(frame, self.bytes(size))
            else:
                self._random(frame, size)
            self.made[size] = self._put_away(frame, size)

    def invert(self, size: int) -> None:
        """matrix_multiply.py RandomMatrixFactory.create_transform: the inverse of this size, if it is not there yet.

        high_precision_invert, where the matrix lies. Then the inverse is copied by rows.
        """
        if self.kind != "random-matrix" or size in self.inverses:
            return
        ledger, place, nbytes = self.context.ledger, self._place, self.bytes(size)
        owner = Owner(self.label(size), "inverse")
        wide = size * size * FP64 if self.itemsize != FP64 else 0
        with ledger.hold(place, wide, "transform", owner.part("matrix in fp64")):
            result = solved(self.context, place, size, owner)
        if self.itemsize != FP64:
            narrow = ledger.alloc(place, nbytes, "transform", owner.part("by columns"))
            ledger.free(result)
            result = narrow
        self.inverses[size] = ledger.alloc(place, nbytes, "transform", owner)
        ledger.free(result)

    def bytes(self, size: int) -> int:
        """Of the matrix."""
        return size * size * self.itemsize

    def label(self, size: int) -> str:
        """What the books call it."""
        return f"{self.name} matrix of {size}"

    def copied(self, frame: Frame, size: int, reader: str) -> None:
        """The matrix on the GPU for as long as the frame has its name."""
        if self.context.device == "gpu" and not self.context.weights_on_gpu:
            frame.bind("matrix", self.context.copied_to_gpu(f"{reader} matrix", self.bytes(size), "transform"))

    def rotate(self, module: LinearModule, size: int, *, inverse: bool = False) -> None:
        """factory/base.py `_apply_to_module` on a weight, which is written back; size 0: no matrix that counts."""
        elements, context = module.rows * module.columns, self.context
        if size:
            self.make(size)
        if size and inverse:
            self.invert(size)
        with context.frame("compress", module.name) as frame, aligned(context, module):
            if size:
                self.copied(frame, size, module.name)
            self.multiply(frame, elements, module.itemsize)
            write_back(context, module.name, "weight", module.weight_bytes, module.weight_bytes)

    def keep_scales(self, count: int) -> None:
        """hadamard.py HadamardTransform: `_scale`, a number on the CPU for each that stays, and no parameter."""
        if self.kind == "random-matrix":
            return
        self.context.ledger.alloc("cpu", count * FP64, "transform", Owner(f"{self.name} scales"))

    def rotated(self, size: int, elements: int, itemsize: int, owner: Owner, *, copied: bool = False) -> Handle:
        """A hook: the matrix is on the GPU until the subgraph ends; what it returns is the caller's."""
        with self.context.frame("forward", owner) as frame:
            self.context.onload(self.label(size), self.bytes(size), "transform")
            self.multiply(frame, elements, itemsize, copied=copied)
            return frame.hand_over("rotated")

    def multiply(self, frame: Frame, elements: int, itemsize: int, *, copied: bool = False) -> None:
        """hadamard.py HadamardTransform.forward: `frame` gets the name `rotated`, of the value's own type.

        matrix_multiply.py RandomMatrixTransform.forward divides by nothing. `copied`: torch.matmul lays the value out
        anew.
        """
        wide = elements * self.itemsize
        with (
            frame.during(wide if itemsize != self.itemsize else 0, "value"),
            frame.during(wide if copied else 0, "value in order"),
        ):
            frame.assign("product", wide)
            self.context.multiply()
        if self.kind == "random-matrix":
            frame.move("product", "quotient")
        else:
            frame.assign("quotient", wide)
            frame.delete("product")
        if itemsize == self.itemsize:
            frame.move("quotient", "rotated")
        else:
            frame.assign("rotated", elements * itemsize)
            frame.delete("quotient")

    def free(self) -> None:
        """Nobody refers to them any more."""
        self.forget(self.made)
        self.forget(self.inverses)

    def forget(self, matrices: dict[int, Handle]) -> None:
        """Only the factory had these: Python's collector has come."""
        self.context.ledger.free_all(matrices.values())
        matrices.clear()

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

    def _deterministic(self, frame: Frame, nbytes: int) -> None:
        """hadamard.py `deterministic_hadamard_matrix`: four copies of the one before, until it is large enough."""
        number = self.itemsize
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
        line, nbytes = size * self.itemsize, self.bytes(size)
        frame.assign("Q", line)
        with frame.during(line, "Q * 2"):
            frame.assign("Q", line)
        frame.assign("Q", nbytes, label="diagonal")
        self._repeated(frame, size, known_divisor(size) or size)

    def _repeated(self, frame: Frame, size: int, known: int) -> None:
        """hadamard.py `_matmul_hadU`; its X is the caller's Q until it returns."""
        nbytes = self.bytes(size)
        with frame.during(known * known, "known matrix in int8"):
            frame.assign("hadK", known * known * self.itemsize)
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


class RotatedInputs:
    """Modules whose inputs are rotated in every forward, and whose weights undo it."""

    def __init__(self, matrices: Matrices, block: int | None) -> None:
        self.matrices, self.block = matrices, block
        self._passed: dict[str, Handle] = {}
        """What the hooks passed on, by module."""

    def attach(self, modules: Sequence[LinearModule]) -> None:
        """factory/base.py `apply_to_model`: the hooks on all inputs come first, then the weights."""
        for module in modules:
            self.matrices.make(self._size(module))
        self.matrices.keep_scales(len(modules))
        for module in modules:
            self.matrices.rotate(module, self._size(module), inverse=True)

    def finalize(self) -> None:
        """The inverses are in the weights."""
        self.matrices.forget(self.matrices.inverses)

    def enter(self, module: LinearModule, call: Call) -> None:
        """factory/base.py `input_hook`: the Linear gets the rotated input, its caller keeps the other."""
        elements, owner = call.rows * call.columns, Owner(module.name, "rotated input")
        self._passed[module.name] = self.matrices.rotated(self._size(module), elements, call.itemsize, owner)

    def leave(self, module: LinearModule) -> None:
        """torch/nn/modules/module.py `_call_impl` lets go of what the hooks passed on."""
        if module.name in self._passed:
            self.matrices.context.ledger.free(self._passed.pop(module.name))

    def _size(self, module: LinearModule) -> int:
        return self.block or module.columns


def saved_matrices(
    location: str, sides: Iterable[tuple[str, int]], block: int | None, itemsize: int = FP64
) -> Iterator[tuple[str, str, tuple[int, ...]]]:
    """apply.py `_register_tied_transform_weights`: a matrix goes by the first module that has it."""
    first: dict[int, str] = {}
    for name, side in sides:
        first.setdefault(block or side, name)
    kind = "F64" if itemsize == FP64 else "F32"
    yield from ((f"{owner}.{location}.weight", kind, (size, size)) for size, owner in first.items())
