"""QuIPModifier: transform/quip/base.py. The transforms: compressed_tensors transform/apply.py and transform/factory.

Weights are multiplied once, before the first batch. What undoes that stays on the Linears as hooks, and runs in every
forward from then on: each rotated input lives beside the input itself while its Linear runs, and a rotated output takes
the output's place.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self

from pydantic import Field, field_validator

from planner.compress.context import Context
from planner.compress.holdings import Owner
from planner.compress.modifiers.base import ModifierModel
from planner.compress.modifiers.rotations import (
    Matrices,
    RotatedInputs,
    TransformFields,
    TransformSpec,
    TransformType,
    saved_matrices,
)
from planner.errors import RecipeError, UnsupportedError
from planner.models.traces import Call
from planner.models.tuned import OnlineRotation
from planner.notes import Note
from planner.recipe.matching import ignore_notes, nothing_left, selected, target_matches
from planner.recipe.specs import ModelTraits, ModifierSpec, ModuleRef, Selection
from planner.recipe.targets import LinearModule
from planner.recipe.validation import check_patterns, validated
from planner.units import FP64

RotationName = Literal["v", "u"]


class QuIPFields(TransformFields):
    """Fields of QuIPModifier."""

    rotations: list[RotationName] = Field(default=["v"])
    transform_type: TransformType = "random-hadamard"
    targets: list[str] | str = "Linear"
    ignore: list[str] | str = "lm_head"

    @field_validator("rotations", mode="before")
    @classmethod
    def lower(cls, value: Any) -> Any:
        """base.py `validate_lowercase_list`."""
        return [each.lower() if isinstance(each, str) else each for each in value] if isinstance(value, list) else value


@dataclass(frozen=True, slots=True, kw_only=True)
class QuIPSpec(TransformSpec):
    """QuIPModifier."""

    type: ClassVar[str] = "QuIPModifier"
    rotations: tuple[RotationName, ...] = ("v",)
    transform_type: TransformType = "random-hadamard"
    targets: tuple[str, ...] = ("Linear",)
    ignore: tuple[str, ...] = ("lm_head",)

    @classmethod
    def read(cls, fields: Any, where: str) -> Self:
        """Refuses what the library refuses, and what is not modelled."""
        entry = validated(QuIPFields, fields, where)
        entry.refuse_unfinished(where)
        if entry.transform_config is not None:
            raise UnsupportedError(f"{where}.transform_config: planner models the one that QuIPModifier makes itself")
        targets, ignore = _listed(entry.targets), _listed(entry.ignore)
        check_patterns(targets, f"{where}.targets")
        check_patterns(ignore, f"{where}.ignore", may_be_empty=True)
        return cls(
            where=where,
            rotations=tuple(name for name in ("v", "u") if name in entry.rotations),
            transform_type=entry.transform_type,
            transform_block_size=entry.transform_block_size,
            itemsize=entry.precision_itemsize(where),
            targets=targets,
            ignore=ignore,
        )

    def within(self, facts: ModelTraits, modules: Sequence[ModuleRef], recipe: Sequence[ModifierSpec]) -> Self:
        """Raises RecipeError where the library finds no matrix for a module."""
        for ref in selected(self.targets, self.ignore, modules) if self.rotations else ():
            if ref.classes[:1] != ("Linear",):
                text = f"takes {ref.name}, which is no plain Linear: LLM Compressor fails on it"
                raise RecipeError(text, f"{self.where}.targets")
            for name in self.rotations:
                self.check_side(ref.columns if name == "v" else ref.rows, ref.name)
        return self

    def select(self, modules: Sequence[ModuleRef]) -> Selection:
        """All that is multiplied, which is all that gets hooks."""
        refs = selected(self.targets, self.ignore, modules) if self.rotations else ()
        return Selection(weights={ref.name: None for ref in refs})

    def hooked_inputs(
        self, facts: ModelTraits, modules: Sequence[ModuleRef], recipe: Sequence[ModifierSpec]
    ) -> frozenset[str]:
        """All targets, for V."""
        return frozenset(self.select(modules).weights) if "v" in self.rotations else frozenset()

    def added(self, modules: Sequence[ModuleRef]) -> Iterable[tuple[str, str, tuple[int, ...]]]:
        """One matrix for each size, of inputs and of outputs."""
        refs = selected(self.targets, self.ignore, modules)
        if "v" in self.rotations:
            sides = ((ref.name, ref.columns) for ref in refs)
            yield from saved_matrices("v_input", sides, self.transform_block_size, self.itemsize)
        if "u" in self.rotations:
            yield from saved_matrices("u_output", ((ref.name, ref.rows) for ref in refs), self.transform_block_size)

    def online(self, layer: str, modules: Sequence[ModuleRef]) -> Iterable[OnlineRotation]:
        """base.py `_create_v_scheme`, `_create_u_scheme`."""
        refs = selected(self.targets, self.ignore, modules)
        for rotation in self.rotations:
            for ref in refs:
                place, size = ref.name[len(layer) :], self.transform_block_size
                if rotation == "v":
                    yield self.transform("v_input", place, "input", size or ref.columns, self.itemsize)
                else:
                    yield self.transform("u_output", place, "output", size or ref.rows, FP64, inverse=True)

    def check(self, modules: Sequence[ModuleRef], selection: Selection) -> Iterable[Note]:
        """Slips in targets and ignores."""
        where = f"{self.where}.targets"
        matches = target_matches([(target, where) for target in self.targets], modules)
        yield from ignore_notes(
            self.ignore, f"{self.where}.ignore", lambda: [ref for _, refs in matches for ref in refs]
        )
        if not selection.weights:
            yield nothing_left(self.where)
            return
        yield from self.garbage(self._garbage(modules))
        text = "whoever serves the result rotates inputs or outputs anew; its matrices are saved, and not sized there"
        yield Note(kind="result", text=f"{self.where}: {text}")

    def _garbage(self, modules: Sequence[ModuleRef]) -> Iterator[int]:
        """Of a random matrix and its inverse, hooks have one; of a Hadamard matrix, they have it."""
        if self.transform_type == "random-matrix":
            refs = selected(self.targets, self.ignore, modules)
            for rotation in self.rotations:
                sides = {ref.columns if rotation == "v" else ref.rows for ref in refs}
                yield from {self.transform_block_size} if self.transform_block_size else sides

    def model(self, context: Context) -> "QuIPModel":
        """Weights in fp64 one at a time, then inputs and outputs in fp64, one at a time too."""
        return QuIPModel(context, self)


def _listed(patterns: list[str] | str) -> tuple[str, ...]:
    return (patterns,) if isinstance(patterns, str) else tuple(patterns)


# ---------------------------------------------------------------------- memory
class QuIPModel(ModifierModel):
    """Its matrices lie with the model for good; a rotated input lives as long as its Linear runs."""

    stays_in_forward = True

    def __init__(self, context: Context, spec: QuIPSpec) -> None:
        super().__init__(context)
        block = spec.transform_block_size
        width = {"v": spec.itemsize, "u": FP64}  # of U, weights come first
        matrices = {name: Matrices(context, name, spec.transform_type, width[name]) for name in spec.rotations}
        self.block = block
        self.inputs = RotatedInputs(matrices["v"], block) if "v" in matrices else None
        self.outputs = matrices.get("u")

    def on_calibration_start(self, modules: Iterable[LinearModule]) -> None:
        """apply.py `apply_transform_config`: location after location; no Linear keeps anything onloaded."""
        found = list(modules)
        kept, self.context.keep_onloaded = self.context.keep_onloaded, False
        if self.inputs is not None:
            self.inputs.attach(found)
        if self.outputs is not None:
            for module in found:
                self.outputs.rotate(module, self.block or module.rows)
            for module in found:
                self.outputs.invert(self.block or module.rows)
            self.outputs.keep_scales(len(found))
        self.context.keep_onloaded = kept

    def on_finalize(self) -> None:
        """matrix_multiply.py RandomMatrixFactory: of a matrix and its inverse, the hooks have one."""
        if self.inputs is not None:
            self.inputs.finalize()
        if self.outputs is not None and self.outputs.inverses:
            self.outputs.forget(self.outputs.made)

    def before_forward(self, module: LinearModule, call: Call) -> None:
        """The input hook."""
        if self.inputs is not None:
            self.inputs.enter(module, call)

    def after_forward(self, module: LinearModule, call: Call) -> None:
        """factory/base.py `output_hook`: the caller gets the rotated output."""
        if self.outputs is not None:
            size, elements = self.block or module.rows, call.rows * call.output[-1]
            owner = Owner(module.name, "rotated output")
            rotated = self.outputs.rotated(size, elements, call.output_itemsize, owner)
            self.context.forward.replace(call.outputs[0], rotated)

    def returned(self, module: LinearModule, call: Call) -> None:
        """The rotated input goes."""
        if self.inputs is not None:
            self.inputs.leave(module)
