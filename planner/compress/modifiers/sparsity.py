"""What pruning modifiers share: llmcompressor/modifiers/pruning/sparsegpt/sgpt_base.py SparsityModifierBase."""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import Field, field_validator, model_validator

from planner.errors import RecipeError
from planner.notes import Note
from planner.recipe.matching import (
    Patterns,
    ignore_notes,
    module_classes,
    no_match_note,
    nothing_left,
    subtree,
    target_matches,
)
from planner.recipe.specs import ModifierSpec, ModuleRef, Selection
from planner.recipe.validation import ModifierFields, check_patterns, must_calibrate
from planner.upstream import PRUNABLE_LAYER_TYPES


class SparsityFields(ModifierFields):
    """Fields of SparsityModifierBase."""

    sparsity: Any
    sparsity_profile: str | None = None
    mask_structure: Any = (0, 0)
    owl_m: int | None = None
    owl_lmbda: float | None = None
    sequential_update: bool | None = False
    targets: Any = Field(default_factory=lambda: ["Linear"])
    ignore: list[str] = Field(default_factory=list)

    @field_validator("sparsity")
    @classmethod
    def _a_share(cls, value: Any) -> Any:
        if isinstance(value, list):
            return tuple(_share(each) for each in value)
        return _share(value)

    @field_validator("mask_structure")
    @classmethod
    def _n_of_m(cls, value: Any) -> Any:
        if isinstance(value, int):
            raise ValueError("must stand in quotes, '2:4': YAML reads 2:4 as the number 124")
        numbers = re.fullmatch(r"\s*(\d{1,6})\s*:\s*(\d{1,6})\s*", value) if isinstance(value, str) else None
        if numbers is None or 0 < int(numbers[1]) > int(numbers[2]):
            raise ValueError("must be N:M with N no larger than M, like '2:4'; '0:0' is an unstructured mask")
        return int(numbers[1]), int(numbers[2])

    @field_validator("targets")
    @classmethod
    def _a_list(cls, value: Any) -> Any:
        # sgpt_base.py iterates over it without wrapping a single text, so it would try each letter
        if not isinstance(value, list) or not all(isinstance(target, str) for target in value):
            raise ValueError("must be a list here, like [Linear]: LLM Compressor takes a text for its letters")
        return value

    @model_validator(mode="after")
    def _owl_is_whole(self) -> "SparsityFields":
        if self.sparsity_profile is not None and self.sparsity_profile.lower() != "owl":
            raise ValueError("sparsity_profile can only be owl")
        if len({value is None for value in (self.sparsity_profile, self.owl_m, self.owl_lmbda)}) > 1:
            raise ValueError("sparsity_profile: owl, owl_m and owl_lmbda go together")
        return self


@dataclass(frozen=True, slots=True, kw_only=True)
class SparsitySpec(ModifierSpec):
    """The fields of SparsityModifierBase, and what it does with a model."""

    sparsity: float | tuple[float, ...]
    """One share for all, or one for each module that the targets match."""
    prune_n: int = 0
    """N of the N:M mask; 0 means an unstructured mask."""
    prune_m: int = 0
    targets: tuple[str, ...] = ("Linear",)
    ignore: tuple[str, ...] = ()

    @property
    def prunes(self) -> bool:
        """It sets weights to zero."""
        return True

    def in_ranks(self) -> Iterable[Note]:
        """Neither sparsegpt/base.py nor wanda/base.py asks whether it is distributed."""
        text = "does not know of ranks: each prunes all weights by its own samples, and the last one to write a weight"
        yield Note(kind="job", text=f"{self.type} {text} decides it.")

    def without_data(self) -> Iterable[Note]:
        """sgpt_base.py and wanda/base.py prune the modules that had samples."""
        yield Note(
            kind="fails",
            text=f"The datafree pipeline runs no forward: {self.type} prunes nothing. LLM Compressor ends without an "
            "error, and saves the weights as they were. Leave out --pipeline.",
        )

    def select(self, modules: Sequence[ModuleRef]) -> Selection:
        """Prunable modules in every targeted subtree, in model order."""
        ignored = Patterns(self.ignore)
        pruned = {ref.name for ref, compared in self._prunable(modules) if ignored.first(compared) is None}
        return Selection(weights={ref.name: None for ref in modules if ref.name in pruned})

    def check(self, modules: Sequence[ModuleRef], selection: Selection) -> Iterable[Note]:
        """Targets that match nothing; ignores that leave nothing out, as `lm_head$` does where names end in a dot."""
        for target, matches in target_matches([(each, f"{self.where}.targets") for each in self.targets], modules):
            if not matches:
                yield no_match_note(target, modules)
        self._check_count(len(Patterns(self.targets).of(modules)))
        traps = [pattern for pattern in self.ignore if pattern.endswith("$")]
        yield from ignore_notes(self.ignore, f"{self.where}.ignore", lambda: self._compared(modules), traps)
        if not selection.weights:
            yield nothing_left(self.where)

    def _check_count(self, targeted: int) -> None:
        """sgpt_base.py `on_initialize`: a list has a share for each targeted module, whatever lies in it."""
        if isinstance(self.sparsity, tuple) and len(self.sparsity) != targeted:
            text = f"has {len(self.sparsity)} shares, but the targets match {targeted} modules"
            raise RecipeError(text, f"{self.where}.sparsity")

    def _compared(self, modules: Sequence[ModuleRef]) -> list[ModuleRef]:
        """Prunable modules under the names with which ignores are compared."""
        return [compared for _, compared in self._prunable(modules)]

    def _prunable(self, modules: Sequence[ModuleRef]) -> Iterator[tuple[ModuleRef, ModuleRef]]:
        """Prunable modules below each target, each with the name under which `ignore` is compared.

        sgpt_base.py `on_calibration_start` builds that name as `{target}.{name below it}`: a module that is itself
        the target ends in a dot (`lm_head.`), so neither `lm_head` nor `re:.*lm_head$` leaves it out; `re:.*lm_head`
        does.
        """
        targets = Patterns(self.targets)
        for index, layer in enumerate(modules):
            if targets.first(layer) is None:
                continue
            for ref in subtree(modules, index):
                if not module_classes(ref.classes).isdisjoint(PRUNABLE_LAYER_TYPES) and "Embedding" not in ref.classes:
                    below = ref.name[len(layer.name) :].removeprefix(".")
                    yield ref, ModuleRef(f"{layer.name}.{below}", ref.classes)


def _share(value: Any) -> float:
    try:
        share = float(value)
    except (TypeError, ValueError):
        share = -1.0
    if not 0 <= share <= 1:
        raise ValueError("must be a share of the weights, from 0 to 1")
    return share


def deep_inputs(modifier: str, inputs: Iterable[tuple[str, int]]) -> Iterator[Note]:
    """A note on the first input of more than 3 dimensions, which neither sgpt_sparsify.py accumulate_hessian nor
    wanda_sparsify.py accumulate_row_scalars flattens, unlike GPTQ's."""
    deep = next((name for name, dimensions in inputs if dimensions > 3), None)
    if deep is not None:
        yield failure(
            f"{modifier} cannot take the input of {deep}, which has more than "
            "3 dimensions ('t() expects a tensor with <= 2 dimensions'). Add it to ignore."
        )


def failure(text: str) -> Note:
    """The note on a job that starts and does not finish."""
    return Note(kind="fails", text=f"This job fails in LLM Compressor: {text}")


def shared_fields(fields: SparsityFields, where: str) -> dict[str, Any]:
    """The fields of `SparsitySpec` as a recipe's entry has them."""
    must_calibrate(fields, where)
    if fields.sparsity_profile is not None:
        # sgpt_base.py `_get_activations` runs the basic pipeline, whose events the lifecycle refuses so early
        text = "LLM Compressor fails on it (Cannot invoke event before initializing); give a list of shares instead"
        raise RecipeError(text, f"{where}.sparsity_profile")
    prune_n, prune_m = fields.mask_structure
    shares = fields.sparsity if isinstance(fields.sparsity, tuple) else (fields.sparsity,)
    if prune_n == 0 and 1 in shares:
        raise RecipeError("1 would prune every weight; LLM Compressor fails on it", f"{where}.sparsity")
    check_patterns(fields.targets, f"{where}.targets")
    check_patterns(fields.ignore, f"{where}.ignore", may_be_empty=True)
    return {
        "where": where,
        "sparsity": fields.sparsity,
        "prune_n": prune_n,
        "prune_m": prune_m,
        "targets": tuple(fields.targets),
        "ignore": tuple(fields.ignore),
    }
