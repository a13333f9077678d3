"""SmoothQuantModifier and its alias LogarithmicEqualizationModifier: transform/smoothquant/base.py.

It only prepares a quantizing modifier: a norm's output is divided by a scale for each channel, and the Linears behind
it are multiplied by the same.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, Self

from pydantic import Field

from planner.compress.context import Context, Frame
from planner.compress.holdings import Owner
from planner.compress.modifiers.base import ModifierModel
from planner.compress.modifiers.writing import write_back
from planner.cuda.reductions import dense_buffers
from planner.cuda.requests import temporaries
from planner.errors import RecipeError
from planner.hints import few
from planner.models.traces import Call
from planner.notes import Note
from planner.recipe.matching import Patterns, ignore_notes, nothing_left
from planner.recipe.module_sets import ModuleSet, ModuleSetError, module_sets
from planner.recipe.smooth_mappings import SmoothMapping, mappings_of
from planner.recipe.specs import ModelTraits, ModifierSpec, ModuleRef, Selection
from planner.recipe.targets import LinearModule
from planner.recipe.validation import ModifierFields, check_patterns, must_calibrate, validated
from planner.timeline import Handle
from planner.units import FP32, INT64

EXTREME = 16
"""Bytes of a partial result of torch.max over a dimension: value and int64 index (native/cuda/ReduceOps.cpp)."""


class SmoothQuantFields(ModifierFields):
    """Fields of SmoothQuantModifier."""

    smoothing_strength: float = 0.5
    mappings: list[tuple[Any, ...] | list[Any]] | None = None
    ignore: list[str] | None = None
    num_calibration_steps: int | None = None
    calibration_function: Callable[..., Any] | None = None
    algorithm: Literal["smoothquant", "log_equalization"] = "smoothquant"


class LogarithmicEqualizationFields(SmoothQuantFields):
    """The same with another default (logarithmic_equalization/base.py LogarithmicEqualizationModifier)."""

    algorithm: Literal["smoothquant", "log_equalization"] = Field(default="log_equalization")


_Entry = type[SmoothQuantFields]


@dataclass(frozen=True, slots=True)
class Smoothing:
    """base.py SmoothQuantMapping, by full names."""

    smooth: str
    balance: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class SmoothQuantSpec(ModifierSpec):
    """SmoothQuantModifier."""

    type: ClassVar[str] = "SmoothQuantModifier"
    entry: ClassVar[_Entry] = SmoothQuantFields
    smoothing_strength: float = 0.5
    """It moves no memory."""
    mappings: tuple[SmoothMapping, ...] | None = None
    """As the recipe has them; None: those of the model's family."""
    ignore: tuple[str, ...] = ()
    algorithm: Literal["smoothquant", "log_equalization"] = "smoothquant"
    smoothings: tuple[Smoothing, ...] = ()
    """The mappings found in a model (`bound`), in the order in which they are smoothed."""
    mismatches: tuple[str, ...] = ()
    """Linears that are smoothed with another number of channels than those behind them have columns."""

    @classmethod
    def read(cls, fields: Any, where: str) -> Self:
        """Refuses a training schedule, and mappings that are no patterns."""
        entry = validated(cls.entry, fields, where)
        must_calibrate(entry, where)
        for name in ("start", "end"):
            if getattr(entry, name) not in (None, 0, -1):
                raise RecipeError("must be left out or -1: the modifier works in one shot alone", f"{where}.{name}")
        check_patterns(entry.ignore or (), f"{where}.ignore", may_be_empty=True)
        return cls(
            where=where,
            notes=tuple(_unread(entry, where)),
            smoothing_strength=entry.smoothing_strength,
            mappings=None if entry.mappings is None else tuple(_mappings(entry.mappings, f"{where}.mappings")),
            ignore=tuple(entry.ignore or ()),
            algorithm=entry.algorithm,
        )

    def within(self, facts: ModelTraits, modules: Sequence[ModuleRef], recipe: Sequence[ModifierSpec]) -> Self:
        """base.py `_resolve_mappings`. Raises RecipeError where that raises."""
        smoothings = tuple(self._smoothings(facts.architecture, modules))
        refs = {ref.name: ref for ref in modules}
        mismatches = (s.smooth for s in smoothings if _mismatch(refs[s.smooth], [refs[name] for name in s.balance]))
        return replace(self, smoothings=smoothings, mismatches=tuple(mismatches))

    def select(self, modules: Sequence[ModuleRef]) -> Selection:
        """Balanced Linears, and what is smoothed: a norm is merely watched, for it has no matrix."""
        smooth = {each.smooth for each in self.smoothings}
        taken = smooth.union(*(each.balance for each in self.smoothings))
        weights = {ref.name: None for ref in modules if ref.name in taken and ref.itemsize}
        return Selection(weights=weights, watched=frozenset(smooth - weights.keys()))

    def check(self, modules: Sequence[ModuleRef], selection: Selection) -> Iterable[Note]:
        """Ignores that leave nothing out; a model in which nothing is found."""
        taken = selection.weights.keys() | selection.watched
        yield from ignore_notes(
            self.ignore, f"{self.where}.ignore", lambda: [ref for ref in modules if ref.name in taken]
        )
        if not self.smoothings:
            yield nothing_left(self.where)

    def failures(self, inputs: Iterable[tuple[str, int]]) -> Iterable[Note]:
        """Scales of one size for columns of another: base.py `_calculate_smoothing_scales` multiplies the two."""
        if self.mismatches:
            text = (
                f"This job fails in LLM Compressor: {few(self.mismatches)} has not as many outputs as the Linears that "
                "balance it have columns. Take it out of the mappings."
            )
            yield Note(kind="fails", text=text)

    def model(self, context: Context) -> "SmoothQuantModel":
        """Two vectors for each norm, and one Linear in fp32."""
        return SmoothQuantModel(context, self)

    # ------------------------------------------------------------------ mappings
    def _smoothings(self, architecture: str, modules: Sequence[ModuleRef]) -> Iterator[Smoothing]:
        ignored, where = Patterns(self.ignore), f"{self.where}.mappings"
        try:
            mappings = mappings_of(architecture, modules) if self.mappings is None else self.mappings
            for number, mapping in enumerate(mappings):
                where = f"{self.where}.mappings[{number}]" if self.mappings else f"{self.where} ({architecture})"
                for found in module_sets(mapping.patterns, modules):
                    yield from _smoothing(found, ignored)
        except LookupError as error:
            text = f"{error}; LLM Compressor cannot resolve the mappings. Name mappings that fit this model"
            raise RecipeError(text, where) from error


@dataclass(frozen=True, slots=True, kw_only=True)
class LogarithmicEqualizationSpec(SmoothQuantSpec):
    """LogarithmicEqualizationModifier: scales from the activations alone."""

    type: ClassVar[str] = "LogarithmicEqualizationModifier"
    entry: ClassVar[_Entry] = LogarithmicEqualizationFields


def _unread(entry: SmoothQuantFields, where: str) -> Iterator[Note]:
    for name in ("num_calibration_steps", "calibration_function"):
        if getattr(entry, name) is not None:
            yield Note(kind="recipe", text=f"{where}.{name} is not heeded: LLM Compressor does not read it")


def _mappings(given: Sequence[Any], where: str) -> Iterator[SmoothMapping]:
    """base.py flattens each mapping with torch's `tree_leaves`; the last pattern is the smoothed one."""
    for number, mapping in enumerate(given):
        leaves = tuple(_leaves(mapping))
        path = f"{where}[{number}]"
        if not leaves or not all(isinstance(leaf, str) for leaf in leaves):
            raise RecipeError("must be [[patterns of the Linears], pattern of the norm before them]", path)
        check_patterns(leaves, path)
        yield SmoothMapping(leaves[:-1], leaves[-1])


def _leaves(tree: Any) -> Iterator[Any]:
    if isinstance(tree, list | tuple):
        for branch in tree:
            yield from _leaves(branch)
    elif isinstance(tree, dict):
        yield from _leaves(list(tree.values()))
    else:
        yield tree


def _smoothing(found: ModuleSet, ignored: Patterns) -> Iterator[Smoothing]:
    *balanced, smoothed = found
    if len(smoothed) > 1:
        raise ModuleSetError(f"SmoothQuant must match one module to smooth, not {few([r.name for r in smoothed], 2)}")
    behind = [ref for each in balanced for ref in each]
    if behind and any(ignored.first(ref) is None for ref in (smoothed[0], *behind)):
        yield Smoothing(smoothed[0].name, tuple(ref.name for ref in behind))


def _mismatch(smooth: ModuleRef, balance: Sequence[ModuleRef]) -> bool:
    return bool(smooth.rows) and any(ref.columns != smooth.rows for ref in balance)


# ---------------------------------------------------------------------- memory
@dataclass(slots=True)
class Extremes:
    """base.py SmoothQuantScale."""

    minima: Handle
    maxima: Handle
    channels: int
    itemsize: int


class SmoothQuantModel(ModifierModel):
    """Extremes of each channel while calibrating; weight by weight, in fp32, at the epoch's end."""

    def __init__(self, context: Context, spec: SmoothQuantSpec) -> None:
        super().__init__(context)
        self.spec = spec
        self.modules: dict[str, LinearModule] = {}
        self.scales: dict[str, Extremes] = {}
        self._hooks = Counter(each.smooth for each in spec.smoothings)

    def on_calibration_start(self, modules: Iterable[LinearModule]) -> None:
        """base.py `_setup_scale_hooks`: nothing is allocated."""
        self.modules = {module.name: module for module in modules}

    def after_forward(self, module: LinearModule, call: Call) -> None:
        """base.py `_setup_scale_hooks`: once for each mapping that smooths this module."""
        for _ in range(self._hooks[module.name]):
            self._update(module.name, call)

    def _update(self, name: str, call: Call) -> None:
        channels, itemsize = call.output[-1], call.output_itemsize
        with self.context.frame("observer", Owner(name, "extremes of its output")) as frame:
            for extreme in ("latest_mins", "latest_maxes"):
                self._extreme(frame, extreme, call.rows, channels, itemsize)
            old = self.scales.get(name)
            if old is None:
                minima, maxima = frame.hand_over("latest_mins"), frame.hand_over("latest_maxes")
                self.scales[name] = Extremes(minima, maxima, channels, itemsize)
                return
            for extreme, kept in (("minima", old.minima), ("maxima", old.maxima)):
                frame.assign(extreme, channels * itemsize)
                frame.free(kept)
                setattr(old, extreme, frame.hand_over(extreme))

    def _extreme(self, frame: Frame, name: str, rows: int, columns: int, itemsize: int) -> None:
        """name = torch.max(x, dim=0)[0] of (rows, columns): the positions are taken beside the values."""
        frame.assign(name, columns * itemsize)
        with frame.during(columns * INT64, f"positions of {name}"):
            if frame.build is not None:
                buffers = dense_buffers((rows, columns), (0,), EXTREME, frame.build)
                frame.operator(temporaries(*buffers), name)

    # ------------------------------------------------------------------ compress
    def on_sequential_epoch_end(self, modules: Sequence[LinearModule]) -> None:
        """base.py `_apply_smoothing`: all mappings whose norm has run; names live on from one to the next."""
        if not self.scales:
            return
        with self.context.frame("smoothquant", "_apply_smoothing") as frame:
            for smoothing in self.spec.smoothings:
                if smoothing.smooth in self.scales:
                    frame.owner = Owner(smoothing.smooth)
                    self._apply(frame, smoothing, self.scales[smoothing.smooth])
                    gone = self.scales.pop(smoothing.smooth)
                    self.context.ledger.free_all((gone.minima, gone.maxima))

    def _apply(self, frame: Frame, smoothing: Smoothing, extremes: Extremes) -> None:
        channels, itemsize = extremes.channels, extremes.itemsize
        frame.assign("activation_scales", channels * itemsize)
        if self.spec.algorithm == "log_equalization":
            with frame.during(channels * itemsize, "2 + activation_scales"):
                frame.assign("logarithm", channels * itemsize)
            frame.assign("scales", channels * itemsize)
            frame.delete("logarithm")
        else:
            self._smoothing_scales(frame, smoothing, channels, itemsize)
        with frame.single(FP32, "MINIMUM_SMOOTHING_SCALE"):
            frame.assign("scales", channels * FP32)  # torch.Tensor([...]) is fp32, and makes all that follows fp32
        for name in smoothing.balance:
            self._rescale(frame, name, self.modules[name].weight_bytes, self.modules[name].itemsize)
        smooth = self.modules[smoothing.smooth]
        width = smooth.itemsize or itemsize
        self._rescale(frame, smoothing.smooth, smooth.weight_bytes or channels * width, width)

    def _smoothing_scales(self, caller: Frame, smoothing: Smoothing, channels: int, itemsize: int) -> None:
        """base.py `_calculate_smoothing_scales`; it returns into the caller's `scales`."""
        with self.context.frame("smoothquant", caller.owner) as frame:
            for number, name in enumerate(smoothing.balance):
                module = self.modules[name]
                frame.owner = Owner(name)
                with (
                    self.context.accessed(f"{name}.weight", module.weight_bytes),
                    frame.during(module.weight_bytes, "absolute weight"),
                ):
                    self._extreme(frame, f"weight_scales {number}", module.rows, module.columns, module.itemsize)
            with (
                frame.during(len(smoothing.balance) * channels * itemsize, "all weight scales"),
                frame.during(channels * itemsize, "widest"),
            ):
                frame.temporary(channels * INT64, "positions of widest")
                frame.assign("weight_scales", channels * itemsize)
            frame.delete(*frame.names("weight_scales "))
            with frame.during(channels * itemsize, "power"), frame.during(channels * itemsize, "other power"):
                frame.assign("quotient", channels * itemsize)
            with frame.during(channels, "weight_scales > 0"):
                caller.assign("scales", channels * itemsize)

    def _rescale(self, frame: Frame, name: str, nbytes: int, itemsize: int) -> None:
        """update_offload_parameter(module, "weight", module.weight * scales), in fp32."""
        wide = nbytes // itemsize * FP32
        frame.owner = Owner(name)
        with (
            self.context.accessed(f"{name}.weight", nbytes),
            frame.during(wide, "rescaled weight"),
        ):
            write_back(self.context, name, "weight", nbytes, wide)
