"""The matrices of transforms in memory: how they are made, where they lie, and products with them.

compressed_tensors transform/factory/{base,hadamard,random_hadamard,matrix_multiply}.py and
transform/utils/{hadamard,matrix}.py.
"""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field

from planner.compress.context import Context, Frame
from planner.compress.holdings import DeviceName, Owner
from planner.compress.modifiers.inverses import solved
from planner.compress.modifiers.precisions import WIDTHS, TransformType, check_multiplied, is_cast, quotient_width
from planner.compress.modifiers.rotations import bytes_of, known_divisor, matrix_label
from planner.compress.modifiers.writing import write_back
from planner.errors import UnsupportedError
from planner.recipe.targets import LinearModule
from planner.timeline import Handle
from planner.units import FP64, INT64


def aligned(context: Context, module: LinearModule) -> AbstractContextManager[None]:
    """align_module_device: the weight is onloaded inside."""
    return context.accessed(f"{module.name}.weight", module.weight_bytes)


@dataclass(frozen=True, slots=True, kw_only=True)
class HookedMatrix:
    """What a hook multiplies with."""

    module: str
    """Whose hook it is, and"""
    location: str
    """where: transform_args.py TransformLocation."""
    number: int
    """Hooks of one modifier on that place before it."""
    place: DeviceName
    """Where that module lies while it does not compute."""
    size: int
    inverse: bool


@dataclass(slots=True)
class Matrices:
    """The matrices of one scheme: made where modules compute, one for each size, kept where the module that asks first
    lies while it does not compute (offload/__init__.py get_offloaded_device).

    Modules that lie there share them, offloaded and onloaded: offload/cache/base.py OffloadCache.__getitem__ goes by
    the tensor.
    """

    context: Context
    name: str
    """Of the scheme: `Transform.label`."""
    kind: TransformType
    dtype: str = "float64"
    """Of those that a hook asks for first (hadamard.py HadamardFactory.create_transform, and matrix_multiply.py
    RandomMatrixFactory.create_transform). A weight that asks first gets one in float64, and `ParameterizedDefaultDict`
    finds a matrix by its size: the second gets the very same."""
    where: str = ""
    """Path of the scheme in the recipe file."""
    permutes: bool = False
    """Each matrix has a permutation, by which every product puts its rows and columns in another order."""
    dtypes: dict[int, str] = field(default_factory=dict)
    """Of those that are made, by size, and"""
    places: dict[int, DeviceName] = field(default_factory=dict)
    """where they lie."""
    permutations: dict[int, Handle] = field(default_factory=dict)
    made: dict[int, Handle] = field(default_factory=dict)
    inverses: dict[int, Handle] = field(default_factory=dict)
    """Of random matrices; a Hadamard matrix is turned round instead."""

    def make(self, size: int, dtype: str | None = None, place: DeviceName | None = None) -> None:
        """hadamard.py HadamardFactory.create_transform: the matrix of this size, if it is not there yet.

        `place`: where the module lies that asks.
        """
        if size in self.made:
            return
        self.dtypes[size] = dtype or self.dtype
        self.places[size] = place = place or self.place
        if self.kind == "random-matrix":
            self.made[size] = self._shared(size, self._uniform(size, place))
            return
        worked = place if self.in_basic else self.context.device  # get_execution_device
        with self._working(worked), self.context.frame("compress", self.label(size)) as frame:
            if self.kind == "hadamard":
                self._deterministic(frame, size)
            else:
                self._random(frame, size)
            self.made[size] = self._shared(size, self._put_away(frame, size, place))
        if self.permutes:  # torch.randperm on the CPU, where the generator is
            owner = Owner(self.label(size), "permutation")
            self.permutations[size] = self.context.ledger.alloc("cpu", size * INT64, "transform", owner)

    def invert(self, size: int) -> None:
        """matrix_multiply.py RandomMatrixFactory.create_transform: the inverse of this size, if it is not there yet.

        high_precision_invert, where the matrix lies. Then the inverse is copied by rows.
        """
        if self.kind != "random-matrix" or size in self.inverses:
            return
        ledger, place, nbytes = self.context.ledger, self.places[size], self.bytes(size)
        owner = Owner(self.label(size), "inverse")
        is_other = self.dtypes[size] != "float64"
        wide = bytes_of(size, FP64) if is_other else 0
        with ledger.hold(place, wide, "transform", owner.part("matrix in fp64")):
            result = solved(self.context, place, size, owner)
        if is_other:
            cast = ledger.alloc(place, nbytes, "transform", owner.part("by columns"))
            ledger.free(result)
            result = cast
        self.inverses[size] = self._shared(size, ledger.alloc(place, nbytes, "transform", owner), inverse=True)
        ledger.free(result)

    def _shared(self, size: int, handle: Handle, *, inverse: bool = False) -> Handle:
        """What the hooks of modules share; where it lies on the GPU, a layer that is trained takes it to the CPU."""
        if self.places[size] == "gpu":
            self.context.losses.matrices[self.label(size, inverse=inverse)] = handle
        return handle

    def width(self, size: int) -> int:
        """Bytes of a number in the matrix; of one that does not count (size 0) too."""
        return WIDTHS[self.dtypes.get(size, self.dtype)]

    def bytes(self, size: int) -> int:
        """Of the matrix."""
        return bytes_of(size, self.width(size))

    def label(self, size: int, *, inverse: bool = False) -> str:
        """What the books call it. `inverse`: of a random matrix, which is another one."""
        return matrix_label(self.name, self.kind, size, inverse=inverse)

    def own_label(self, hook: HookedMatrix) -> str:
        """The same of a hook's own copy."""
        label = self.label(hook.size, inverse=hook.inverse)
        return f"{label} of {hook.module}, {hook.location} {hook.number}"

    def copied(self, frame: Frame, size: int, reader: str) -> None:
        """The matrix on the GPU for as long as the frame has its name, and its permutation."""
        if self.context.device == "gpu" and self.places[size] == "cpu" and not self.in_basic:
            frame.bind("matrix", self.context.copied_to_gpu(f"{reader}.matrix", self.bytes(size), "transform"))
        if self.permutes and self.context.device == "gpu" and not self.in_basic:
            nbytes = size * INT64
            frame.bind("permutation", self.context.copied_to_gpu(f"{reader}.permutation", nbytes, "transform"))

    def permute(self, frame: Frame, size: int) -> None:
        """hadamard.py HadamardTransform.forward: rows are gathered, then columns; the function keeps the second."""
        if not self.permutes:
            return
        copied = size * INT64 if self._indexes_from_cpu(size) else 0
        with self._working("cpu" if self._comes_anew(size) else self.context.device):
            with frame.during(copied, "permutation"):
                frame.assign("rows", self.bytes(size))
            with frame.during(copied, "permutation"):
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

    def stay(self, size: int, place: DeviceName) -> None:
        """hadamard.py HadamardTransform, one that a hook has: `_scale`, a number on the CPU, and no parameter.

        register_offload_module (compressed_tensors offload/__init__.py): what lies elsewhere than its module, whose
        `place` that is, is copied for it alone. Permutations are made on the CPU.
        """
        ledger = self.context.ledger
        if self.is_own(size, place):
            ledger.alloc(place, self.bytes(size), "transform", Owner(self.label(size), "of a hook's own"))
        if self.kind == "random-matrix":
            return
        ledger.alloc("cpu", FP64, "transform", Owner(f"{self.name} scales"))
        if self.permutes and place == "gpu" and not self.in_basic:
            ledger.alloc("gpu", size * INT64, "transform", Owner(self.label(size), "permutation"))

    def is_own(self, size: int, place: DeviceName) -> bool:
        """A hook of a module that lies there has a copy for itself. In the basic pipeline nothing is offloaded."""
        return place != self.places[size] and not self.in_basic

    def wait(self, hook: HookedMatrix, where: str) -> None:
        """The traced forward onloads this hook's matrix from the CPU, wherever the weights are.

        Raises UnsupportedError for what it does not know: a matrix of the hook's own, and one that comes anew.
        """
        if self.is_own(hook.size, hook.place) or self._comes_anew(hook.size):
            raise UnsupportedError(
                f"{where}: takes {hook.module}, whose matrix was made elsewhere than it lies: planner does not follow "
                "that where a hook changes more of the forward than a value"
            )
        if hook.place == "cpu":
            label = self.label(hook.size)
            self.context.waiting |= {self.label(hook.size, inverse=hook.inverse), f"{label} permutation"}

    def rotated(
        self, hook: HookedMatrix, elements: int, itemsize: int, owner: Owner, *, copied: bool = False
    ) -> Handle:
        """A hook: the matrix is on the GPU until the subgraph ends; what it returns is the caller's."""
        size, context = hook.size, self.context
        with context.frame("forward", owner) as frame:
            if self._waits(hook):
                is_own = self.is_own(size, hook.place)
                label = self.own_label(hook) if is_own else self.label(size, inverse=hook.inverse)
                context.onload(label, self.bytes(size), "transform", waits=True)
                if self.permutes and hook.place == "cpu":
                    context.onload(f"{self.label(size)} permutation", size * INT64, "transform", waits=True)
            self.permute(frame, size)
            self.multiply(frame, elements, itemsize, size, copied=copied)
            return frame.hand_over("rotated")

    def _waits(self, hook: HookedMatrix) -> bool:
        """The hook finds its matrix on the CPU."""
        label = self.label(hook.size, inverse=hook.inverse)
        return not self.in_basic and (hook.place == "cpu" or self.context.losses.is_taken(label, hook.module))

    def multiply(self, frame: Frame, elements: int, itemsize: int, size: int, *, copied: bool = False) -> None:
        """hadamard.py HadamardTransform.forward: `frame` gets the name `rotated`, of the value's own type.

        matrix_multiply.py RandomMatrixTransform.forward divides by nothing. `copied`: torch.matmul lays the value out
        anew. `size`: of the matrix.
        """
        dtype = self.dtypes.get(size, self.dtype)
        wide, cast = elements * self.width(size), is_cast(itemsize, self.context.job.dtype, dtype)
        with (
            frame.during(wide if cast else 0, "value"),
            frame.during(wide if copied else 0, "value in order"),
            frame.during(self.bytes(size) if self._comes_anew(size) else 0, "matrix"),
        ):
            frame.assign("product", wide)
            self._multiply(dtype)
        if self.kind == "random-matrix":
            frame.move("product", "quotient")
        else:
            frame.assign("quotient", elements * quotient_width(dtype))
            frame.delete("product")
        if cast:
            frame.assign("rotated", elements * itemsize)
            frame.delete("quotient")
        else:
            frame.move("quotient", "rotated")

    def free(self, hooks: Sequence[HookedMatrix] = ()) -> None:
        """Python's collector has come for what only the factory had."""
        shared = [hook for hook in hooks if not self.is_own(hook.size, hook.place)]
        for matrices, are_inverses in ((self.made, False), (self.inverses, True)):
            kept = {hook.size for hook in shared if (hook.inverse and self.kind == "random-matrix") is are_inverses}
            self.context.ledger.free_all([matrices.pop(size) for size in [*matrices] if size not in kept])
        kept = {hook.size for hook in hooks if hook.place == "cpu" or self.in_basic}
        gone = [size for size in self.permutations if size not in kept]
        self.context.ledger.free_all([self.permutations.pop(size) for size in gone])

    @property
    def in_basic(self) -> bool:
        """Nothing is offloaded in the basic pipeline, and matrices and permutations stay where they were made."""
        return self.context.job.pipeline == "basic" and self.place == "gpu"

    def _indexes_from_cpu(self, size: int) -> bool:
        """native/TensorAdvancedIndexing copies a permutation for each index of a matrix on the GPU."""
        return self.in_basic and self.places[size] == "gpu"

    def _comes_anew(self, size: int) -> bool:
        """hadamard.py HadamardTransform.forward: `weight.to(device=value.device)` copies the matrix in each product."""
        return bool(size) and self.in_basic and self.places[size] == "cpu"

    def _multiply(self, dtype: str) -> None:
        if self.context.device == "gpu":
            check_multiplied(dtype, self.where)
        self.context.multiply()

    @property
    def place(self) -> DeviceName:
        """Where a module with weights lies while it does not compute: get_offloaded_device."""
        return "gpu" if self.context.weights_on_gpu else "cpu"

    @contextmanager
    def _working(self, device: DeviceName) -> Iterator[None]:
        """What is computed in the block is computed there."""
        before, self.context.device = self.context.device, device
        yield
        self.context.device = before

    def _uniform(self, size: int, place: DeviceName) -> Handle:
        """matrix_multiply.py RandomMatrixFactory._create_weight: torch.rand on the CPU, where the generator is."""
        ledger, owner, nbytes = self.context.ledger, Owner(self.label(size)), self.bytes(size)
        if place == "cpu":
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
        self._multiply(self.dtypes[size])
        frame.delete("input", "hadK", "Q")

    def _put_away(self, frame: Frame, size: int, place: DeviceName) -> Handle:
        context = self.context
        if place == context.device:  # .to(device) returns the same tensor
            handle = frame.hand_over("H")
            context.ledger.relabel(handle, frame.owner)
            return handle
        return context.ledger.alloc(place, self.bytes(size), "transform", frame.owner)
