"""QuIPModifier: transform/quip/base.py. The transforms: compressed_tensors transform/apply.py and transform/factory.

Weights are multiplied once, before the first batch. What undoes that stays on the Linears as hooks, and runs in every
forward from then on: each rotated input lives beside the input itself while its Linear runs, and a rotated output takes
the output's place. So it is with its own V and U; the groups of a `transform_config` are taken as they are.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, Self

from pydantic import Field, field_validator

from planner.compress.context import Context
from planner.compress.modifiers import transforms
from planner.compress.modifiers.hooking import bound
from planner.compress.modifiers.precisions import TransformType
from planner.compress.modifiers.rotating import TransformModel, TransformSpec
from planner.compress.modifiers.rotations import TransformFields, unread
from planner.compress.modifiers.transforms import Application, Transform
from planner.notes import Note
from planner.recipe.matching import nothing_left
from planner.recipe.specs import ModelTraits, ModifierSpec, ModuleRef, Selection
from planner.recipe.targets import LinearModule
from planner.recipe.validation import check_patterns, validated

RotationName = Literal["v", "u"]


OWN = {"rotations", "targets", "ignore"}
"""Fields that say what its own groups are, beside those that SpinQuant has too."""


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

    @classmethod
    def read(cls, fields: Any, where: str) -> Self:
        """Refuses what the library refuses, and what is not modelled."""
        entry = validated(QuIPFields, fields, where)
        entry.refuse_unfinished(where)
        targets, ignore = _listed(entry.targets), _listed(entry.ignore)
        if entry.transform_config is not None:  # base.py `on_initialize` makes no other
            groups = transforms.read_groups(entry.transform_config, f"{where}.transform_config")
            return cls(where=where, transforms=groups, notes=tuple(unread(entry, OWN, where)))
        check_patterns(targets, f"{where}.targets")
        check_patterns(ignore, f"{where}.ignore", may_be_empty=True)
        return cls(where=where, transforms=tuple(_own(entry, targets, ignore, where)))

    @property
    def rewrites_weights(self) -> bool:
        """Hooks alone leave weights as they are."""
        return any(not each.is_online for each in self._applications)

    def within(self, facts: ModelTraits, modules: Sequence[ModuleRef], recipe: Sequence[ModifierSpec]) -> Self:
        """Raises RecipeError where the library finds no matrix for a module."""
        numbered = [replace(each, number=self.number_in(recipe)) for each in self.transforms]
        groups, applied = bound(numbered, modules, facts.head_dim or 0)
        return replace(self, transforms=groups, applied=applied)

    def select(self, modules: Sequence[ModuleRef]) -> Selection:
        """All that is multiplied, and all that gets hooks."""
        taken = {name for each in self.applied if not each.application.of_states for name in each.names}
        hooked = [ref for each in self.applied if not each.application.of_states for ref in each.others]
        return Selection(
            weights={ref.name: None for ref in modules if ref.name in taken},
            watched=frozenset(ref.name for ref in hooked if not ref.itemsize),
            keys=frozenset[str]().union(*(each.rotated_keys for each in self.applied)),
        )

    def hooked_inputs(
        self, facts: ModelTraits, modules: Sequence[ModuleRef], recipe: Sequence[ModifierSpec]
    ) -> frozenset[str]:
        """Those of the location `input`: of V, all targets."""
        found = transforms.Found(modules)
        return frozenset(ref.name for each in self._applications if each.location == "input" for ref in found.of(each))

    def check(self, modules: Sequence[ModuleRef], selection: Selection) -> Iterable[Note]:
        """Slips in targets and ignores."""
        yield from transforms.slips(self._applications, modules)
        if not selection.weights and not selection.keys:
            yield nothing_left(self.where)
            return
        is_random = any(each.type == "random-matrix" for each in self.transforms)
        yield from self.garbage(sum(each.unused for each in self.transforms), inverts=is_random)
        yield from transforms.unturned(self._applications, "it", self.where)
        yield from transforms.unsaved(self.transforms)
        if any(each.is_online for each in self._applications):
            text = (
                "whoever serves the result rotates inputs or outputs anew; its matrices are saved, and not sized there"
            )
            yield Note(kind="result", text=f"{self.where}: {text}")

    def model(self, context: Context) -> "QuIPModel":
        """Weights in fp64 one at a time, then inputs and outputs in fp64, one at a time too."""
        return QuIPModel(context, self)

    @property
    def _applications(self) -> tuple[Application, ...]:
        return tuple(each for transform in self.transforms for each in transform.apply)


def _own(entry: QuIPFields, targets: tuple[str, ...], ignore: tuple[str, ...], where: str) -> Iterator[Transform]:
    """base.py `_create_v_scheme`, `_create_u_scheme`."""

    def group(name: str, *apply: Application) -> Transform:
        return Transform(
            name=name,
            type=entry.transform_type,
            block=entry.transform_block_size,
            dtype=entry.precision,
            apply=apply,
            where=f"{where}.transform_block_size",
        )

    def at(location: transforms.Location, *, inverse: bool = False) -> Application:
        return Application(targets=targets, location=location, inverse=inverse, ignore=ignore, where=where)

    if "v" in entry.rotations:
        yield group("v", at("input"), at("weight_input", inverse=True))
    if "u" in entry.rotations:
        yield group("u", at("weight_output"), at("output", inverse=True))


def _listed(patterns: list[str] | str) -> tuple[str, ...]:
    return (patterns,) if isinstance(patterns, str) else tuple(patterns)


# ---------------------------------------------------------------------- memory
class QuIPModel(TransformModel):
    """What its groups hold."""

    def on_calibration_start(self, modules: Iterable[LinearModule]) -> None:
        """Before the first batch."""
        self.groups.apply({module.name: module for module in modules})
