"""What SpinQuant and QuIP do alike with their groups of transforms, in a recipe and in memory.

compressed_tensors transform/apply.py `apply_transform_config` is all that either leaves to the model.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from typing import Any, Self

from planner.compress.context import Context
from planner.compress.modifiers import transforms
from planner.compress.modifiers.applying import Groups
from planner.compress.modifiers.base import ModifierModel
from planner.compress.modifiers.hooking import check_forward
from planner.compress.modifiers.transforms import Applied, Transform
from planner.models.traces import Call
from planner.models.tuned import OnlineRotation
from planner.notes import Note
from planner.recipe.specs import ModifierSpec, ModuleRef
from planner.recipe.targets import LinearModule
from planner.units import human_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class TransformSpec(ModifierSpec):
    """A modifier that multiplies weights with matrices before the first batch, group by group."""

    transforms: tuple[Transform, ...] = ()
    applied: tuple[Applied, ...] = ()
    """Found in a model (`within`)."""

    @property
    def requires_calibration_data(self) -> bool:
        """It looks at weights alone."""
        return False

    @property
    def unties_embeddings(self) -> bool:
        """spinquant/base.py, quip/base.py `on_calibration_start`: whatever is rotated, and where they are targeted."""
        return True

    @property
    def rewrites_first(self) -> bool:
        """spinquant/base.py, quip/base.py `on_calibration_start`."""
        return True

    def number_in(self, recipe: Sequence[ModifierSpec]) -> int:
        """How many modifiers of the recipe make transforms before it."""
        return sum(isinstance(spec, TransformSpec) for spec in takewhile(lambda spec: spec is not self, recipe))

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

    def check_forward(self, called: Any) -> Iterable[tuple[str, str]]:
        """Hooks on what is no Linear."""
        return check_forward(self.applied, called)

    def with_traced(self, hooks: Collection[tuple[str, str]]) -> Self:
        """Their matrices are made and stay, and the trace multiplies with them."""
        return replace(self, applied=tuple(each.with_traced(hooks) for each in self.applied))

    def added(
        self,
        modules: Sequence[ModuleRef],
        *,
        on_gpu: bool = False,
        trained: Sequence[str] = (),
        replaced: Collection[str] = (),
    ) -> Iterable[tuple[str, str, tuple[int, ...]]]:
        """The matrices that stay: of each group, one for each size."""
        for each in self.transforms:
            yield from transforms.saved(each, modules, on_gpu=on_gpu, trained=trained, replaced=replaced)

    def parts(self, modules: Sequence[ModuleRef]) -> Iterable[str]:
        """factory/base.py `_apply_to_module`"""
        return transforms.parts(self.transforms, modules)

    def left_files(self, on_disk: Callable[[str], bool]) -> int:
        """factory/base.py `_apply_to_module`: for each module on the disk `register_offload_module` writes a file with
        the matrix, and one with its permutation. `delattr` of what is fused removes neither."""
        fused = ((each, owner) for each in self.applied if not each.application.is_online for owner in each.owners)
        return sum(each.transform.bytes_of(size) for each, (name, size) in fused if on_disk(name))

    def online(self, layer: str, modules: Sequence[ModuleRef]) -> Iterable[OnlineRotation]:
        """What stays of each group."""
        for each in self.transforms:
            yield from transforms.online(each, layer, modules)


class TransformModel(ModifierModel):
    """Its groups' matrices, and the hooks that multiply with them in every forward."""

    def __init__(self, context: Context, spec: TransformSpec) -> None:
        super().__init__(context)
        self.groups = Groups(context, spec.applied)
        self.stays_in_forward = self.groups.has_hooks

    def on_finalize(self) -> None:
        """Matrices that have done their work go."""
        self.groups.finalize()

    def before_forward(self, module: LinearModule, call: Call) -> None:
        """The input hook, and that of keys."""
        self.groups.enter(module, call)

    def after_forward(self, module: LinearModule, call: Call) -> None:
        """The output hook."""
        self.groups.turn(module, call)

    def traced(self, name: str, call: Call) -> None:
        """Output hooks of what stands before the first target."""
        self.groups.traced(name, call)

    def traced_in_graph(self, name: str) -> None:
        """Matrices of nodes are permuted where they lie."""
        self.groups.traced_in_graph(name)

    def returned(self, module: LinearModule, call: Call) -> None:
        """The rotated input goes."""
        self.groups.leave(module)
