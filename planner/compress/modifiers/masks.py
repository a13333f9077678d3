"""MagnitudePruningModifier and ConstantPruningModifier: pruning/{magnitude,constant}/base.py.

Both belong to training. In one shot they make a mask for each weight where the model lies, and nothing ever applies it:
`oneshot` sends no optimizer steps (core/session_functions.py LifecycleCallbacks).
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from pydantic import Field

from planner.compress.context import Context, Frame
from planner.compress.holdings import DeviceName, Owner
from planner.compress.modifiers.base import ModifierModel
from planner.errors import RecipeError, UnsupportedError
from planner.hints import did_you_mean, shorten
from planner.notes import Note
from planner.recipe.matching import Patterns, nothing_left
from planner.recipe.specs import ModifierSpec, ModuleRef, Selection
from planner.recipe.targets import LinearModule
from planner.recipe.validation import ModifierFields, check_patterns, validated
from planner.timeline import Handle
from planner.units import INT64

SPECIAL: Mapping[str, tuple[str, ...]] = {
    "__ALL_PRUNABLE__": ("Linear", "Conv1d", "Conv2d", "Conv3d"),
    "__ALL_QUANTIZABLE__": ("Linear", "Conv2d", "Conv3d"),
}
"""llmcompressor/utils/pytorch/module.py `expand_special_targets`."""
SCHEDULERS = ("linear", "cubic", "polynomial_decay", "polynomial", "multi_step")
"""pruning/helpers.py PruningSchedulerFactory."""


class MaskFields(ModifierFields):
    """Fields of both."""

    targets: str | list[str]


class MagnitudeFields(MaskFields):
    """Fields of MagnitudePruningModifier."""

    init_sparsity: float
    final_sparsity: float
    update_scheduler: str = "cubic"
    scheduler_args: dict[str, Any] = Field(default_factory=dict)
    mask_structure: str = "unstructured"
    leave_enabled: bool = False
    apply_globally: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ConstantPruningSpec(ModifierSpec):
    """ConstantPruningModifier: it would keep the zeros that are there."""

    type: ClassVar[str] = "ConstantPruningModifier"
    targets: tuple[str, ...] = ()
    starts: bool = False
    """Masks are filled: initialization is the first step of a schedule that has begun (modifier.py `initialize`)."""

    @classmethod
    def read(cls, fields: Any, where: str) -> Self:
        """Refuses targets that the library does not expand."""
        return cls(**_common(validated(MaskFields, fields, where), where))

    @property
    def requires_calibration_data(self) -> bool:
        """It looks at weights alone."""
        return False

    @property
    def rewrites_weights(self) -> bool:
        """Only an optimizer's step would."""
        return False

    def in_ranks(self) -> Iterable[Note]:
        """Weights lie in shared memory, and every rank makes masks of its own."""
        text = f"{self.where}: {self.type} in several ranks is not modelled: its figures are those of one process"
        yield Note(kind="estimate", text=text)

    def select(self, modules: Sequence[ModuleRef]) -> Selection:
        """All that the targets match, with or without a norm's vector, which is passed over here."""
        return Selection(weights={ref.name: None for ref in Patterns(self.targets).of(modules) if ref.itemsize})

    def check(self, modules: Sequence[ModuleRef], selection: Selection) -> Iterator[Note]:
        """What becomes of the masks, or that there are none."""
        if not selection.weights:
            yield nothing_left(self.where)
            return
        filled = "" if self.starts else "; without start: 0 they are not even filled"
        text = f"{self.where}: masks are made and never applied, for oneshot does not train: weights stay as they are"
        yield Note(kind="recipe", text=text + filled)

    def model(self, context: Context) -> "MaskModel":
        """A bool for each weight, from the first moment to the last."""
        return MaskModel(context, self)


@dataclass(frozen=True, slots=True, kw_only=True)
class MagnitudePruningSpec(ConstantPruningSpec):
    """MagnitudePruningModifier: it would let the smallest weights go, more and more of them."""

    type: ClassVar[str] = "MagnitudePruningModifier"
    update_scheduler: str = "cubic"
    mask_structure: str = "unstructured"
    leave_enabled: bool = False
    apply_globally: bool = False
    sparsity: float = 0.0
    """When it starts."""

    @classmethod
    def read(cls, fields: Any, where: str) -> Self:
        """Refuses what the library fails on before it starts: schedules and structures that do not exist or fit."""
        entry = validated(MagnitudeFields, fields, where)
        if entry.apply_globally:
            raise RecipeError("LLM Compressor has not implemented it", f"{where}.apply_globally")
        common = _common(entry, where)
        _check_structure(entry.mask_structure, common["starts"], f"{where}.mask_structure")
        return cls(
            **common,
            update_scheduler=entry.update_scheduler,
            mask_structure=entry.mask_structure,
            sparsity=_first_sparsity(entry, common["starts"], where),
        )

    def uncounted(self) -> Iterable[Note]:
        """What topk takes outside of tensors on the CPU: native/cpu/SortingKernel.cpp topk_kernel."""
        if self.starts and self.sparsity:
            text = "topk on the CPU sorts 16 bytes for each weight of one Linear outside of tensors: not counted"
            yield Note(kind="estimate", text=f"{self.where}: {text}")


def _common(entry: MaskFields, where: str) -> dict[str, Any]:
    """The fields of `ConstantPruningSpec`."""
    targets = [entry.targets] if isinstance(entry.targets, str) else entry.targets
    if "__ALL__" in targets:
        raise RecipeError("__ALL__ is no longer supported; name classes, like Linear", f"{where}.targets")
    check_patterns(targets, f"{where}.targets", may_be_empty=True)
    starts = entry.start is not None and entry.start <= 0 and (entry.end is None or entry.end > 0)
    expanded = tuple(each for target in targets for each in SPECIAL.get(target, (target,)))
    return {"where": where, "targets": expanded, "starts": starts}


def _check_structure(structure: str, starts: bool, where: str) -> None:
    """mask_factory.py PruningMaskFactory: only the unstructured mask fits a matrix."""
    known = structure in ("unstructured", "channel", "filter") or structure.startswith("block_")
    if not known:
        hint = did_you_mean(structure, ("unstructured", "channel", "filter", "block_1,4"))
        raise RecipeError(f"LLM Compressor has no such structure{hint}", where)
    if starts and structure != "unstructured":
        raise RecipeError("fails in LLM Compressor on the matrices of Linears; only unstructured works", where)


def _first_sparsity(entry: MagnitudeFields, starts: bool, where: str) -> float:
    """pruning/helpers.py, each scheduler at index 0."""
    kind, start, end = entry.update_scheduler, entry.start, entry.end
    if kind.startswith("calc(") and kind.endswith(")"):
        if starts:
            raise UnsupportedError(f"{where}.update_scheduler: planner does not evaluate calc(...)")
        return 0.0
    if kind not in SCHEDULERS:
        hint = did_you_mean(kind, SCHEDULERS)
        raise RecipeError(f"LLM Compressor has no such scheduler{hint}", f"{where}.update_scheduler")
    if not starts or start is None:
        return 0.0
    if kind == "multi_step":
        steps = _steps(entry.scheduler_args.get("steps", []), f"{where}.scheduler_args.steps")
        share = next((share for index, share in reversed(steps) if index <= 0), entry.init_sparsity)
    elif end is None:
        raise RecipeError(f"is needed by the scheduler {kind}; LLM Compressor fails without it", f"{where}.end")
    else:
        done = _progress(kind, -start / (end - start), entry.scheduler_args, f"{where}.scheduler_args.exponent")
        share = entry.init_sparsity + (entry.final_sparsity - entry.init_sparsity) * done
    if not 0 <= share <= 1:
        at = "scheduler_args.steps" if kind == "multi_step" and share != entry.init_sparsity else "init_sparsity"
        raise RecipeError(f"the first mask's sparsity would be {share:g}; it must be 0 to 1", f"{where}.{at}")
    return float(share)


def _steps(steps: Any, where: str) -> list[tuple[float, float]]:
    """Pairs of an index and a sparsity, by the index."""
    is_list = isinstance(steps, list)
    if not is_list or not all(isinstance(s, list) and len(s) == 2 and all(map(_is_number, s)) for s in steps):
        raise RecipeError("must be pairs of a step and a sparsity, like [[0, 0.3], [10, 0.5]]", where)
    return sorted(((index, share) for index, share in steps), key=lambda step: step[0])


def _progress(kind: str, done: float, arguments: Mapping[str, Any], where: str) -> float:
    """How far the sparsity is on its way from the first to the last, when this share of the time is over."""
    if kind in ("linear", "cubic"):
        return done if kind == "linear" else 1 - (1 - done) ** 3
    exponent = arguments.get("exponent", 2)
    if not _is_number(exponent):
        raise RecipeError("must be a number", where)
    try:
        return float(done**exponent if kind == "polynomial" else 1 - (1 - done) ** exponent)
    except (ArithmeticError, TypeError) as error:
        raise RecipeError(f"{shorten(str(exponent))} is no power for {abs(done):g}", where) from error


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


# ---------------------------------------------------------------------- memory
class MaskModel(ModifierModel):
    """Masks where the model lies, filled one after the other."""

    def __init__(self, context: Context, spec: ConstantPruningSpec) -> None:
        super().__init__(context)
        self.spec = spec
        self.masks: list[Handle] = []

    def on_initialize(self, modules: Iterable[LinearModule]) -> None:
        """`on_initialize`, then modifier.py `initialize` starts what has begun."""
        context, selected = self.context, list(modules)
        if context.job.weights == "disk":
            where = f"{self.spec.where}: {self.spec.type}"
            raise UnsupportedError(f"{where} with weights on the disk is not modelled; leave out --weights disk")
        place: DeviceName = "gpu" if context.weights_on_gpu else "cpu"
        for module in selected:
            owner = Owner(module.name, "mask")
            self.masks.append(context.ledger.alloc(place, module.rows * module.columns, "mask", owner))
        if self.spec.starts:
            computing, context.device = context.device, place
            with context.frame("mask", "on_start") as frame:
                for module in selected:
                    frame.owner = Owner(module.name)
                    self._fill(frame, module)
            context.device = computing

    def on_finalize(self) -> None:
        """layer_mask.py `remove_mask`"""
        self.context.ledger.free_all(self.masks)
        self.masks.clear()

    def _fill(self, frame: Frame, module: LinearModule) -> None:
        """`on_start`: the mask of the module before is still bound while this one is made."""
        elements = module.rows * module.columns
        if not isinstance(self.spec, MagnitudePruningSpec):
            with frame.during(module.weight_bytes, "abs"):
                frame.assign("new mask", elements)
            frame.delete("new mask")  # an argument of update_mask, bound to no name
            return
        with frame.during(module.weight_bytes, "scores"):
            self._smallest(frame, module, int(self.spec.sparsity * elements))

    def _smallest(self, caller: Frame, module: LinearModule, pruned: int) -> None:
        """mask_factory.py `unstructured_pruning`"""
        if pruned and caller.build is not None:
            raise UnsupportedError(f"{self.spec.where}: what topk takes on the GPU was not measured")
        elements = module.rows * module.columns
        with self.context.frame("mask", caller.owner) as frame:
            frame.assign("mask", elements)
            if pruned:
                frame.assign("threshold", pruned * module.itemsize)
                frame.assign("positions", pruned * INT64)
            frame.assign("mask", elements)
            caller.bind("mask", frame.hand_over("mask"))
