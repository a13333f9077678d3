"""The seam: what a spec answers, and which hooks its model gets, for modifiers that are not Linears' alone."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import pytest

from planner.compress.binding import make_program
from planner.compress.context import Context
from planner.compress.holdings import Owner
from planner.compress.modifiers import MODIFIERS, make_model
from planner.compress.modifiers.base import ModifierModel
from planner.compress.oneshot import simulate
from planner.compress.schema import Plan
from planner.errors import UnsupportedError
from planner.models.graph import ModuleInfo, Structure
from planner.models.traces import Call, Event
from planner.planning import plan_graph
from planner.recipe.specs import ModifierSpec, ModuleRef, Selection
from planner.recipe.targets import LinearModule
from planner.timeline import Handle
from tests import toys
from tests.toys import Layer, Toy

CHANNELS = 50


class BlockToy(Toy):
    """A toy whose layers call a norm, and their Linears from inside a block."""

    def _events(self, layer: Layer) -> Iterator[Event]:
        norm, block = (self.call(name) for name in (".norm", ".block"))
        yield Event("enter", call=norm)
        yield Event("exit", call=norm)
        yield Event("enter", call=block)
        yield from super()._events(layer)
        yield Event("exit", call=block)

    def _structure(self, kind: Layer) -> Structure:
        structure = super()._structure(kind)
        layer, *linears = structure.modules
        watched = (ModuleInfo(name=".norm", classes=("ToyNorm",)), ModuleInfo(name=".block", classes=("ToyBlock",)))
        return replace(structure, modules=(layer, *watched, *linears))

    def call(self, name: str) -> Call:
        return toys.linear_call(name, self.tokens, CHANNELS, CHANNELS, self.itemsize)


@dataclass(frozen=True, slots=True, kw_only=True)
class SmoothingSpec(toys.UnreadSpec):
    """Keeps every block's arguments, and the extremes of what norms give."""

    type: ClassVar[str] = "SmoothingModifier"

    def select(self, modules: Sequence[ModuleRef]) -> Selection:
        names = {ref.name for ref in modules if ref.classes[0] in ("ToyNorm", "ToyBlock")}
        return Selection(weights={}, watched=frozenset(names))

    def model(self, context: Context) -> "SmoothingModel":
        return SmoothingModel(context)


class SmoothingModel(ModifierModel):
    """What AWQ does with parents and SmoothQuant with norms, without their arithmetic."""

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.seen: list[tuple[str, str]] = []
        self.compressed: list[list[str]] = []
        self._arguments: dict[str, Handle] = {}
        self._extremes: dict[str, Handle] = {}

    def before_forward(self, module: LinearModule, call: Call) -> None:
        self.seen.append(("before", module.name))
        if module.name.endswith("block"):
            ledger, owner = self.context.ledger, Owner(module.name, "arguments")
            if module.name not in self._arguments:
                self._arguments[module.name] = ledger.open("cpu", "kept", owner)
            ledger.grow(self._arguments[module.name], call.rows * call.columns * call.itemsize)

    def after_forward(self, module: LinearModule, call: Call) -> None:
        self.seen.append(("after", module.name))
        if module.name.endswith("norm") and module.name not in self._extremes:
            self._extremes[module.name] = self.context.take(4 * call.columns, "extremes", module.name)

    def on_sequential_epoch_end(self, modules: Sequence[LinearModule]) -> None:
        self.compressed.append([module.name for module in modules])
        self.context.ledger.free_all(self._extremes.values())
        self._extremes.clear()

    def on_calibration_end(self) -> None:
        self.context.ledger.free_all(self._arguments.values())


def planned(spec: ModifierSpec, toy: Toy, **options: Any) -> Plan:
    return plan_graph(toy.graph, toys.recipe(spec), toys.job(**options))


def spied(spec: SmoothingSpec, toy: Toy, monkeypatch: pytest.MonkeyPatch, **options: Any) -> SmoothingModel:
    """The model after a job of one batch."""
    models: list[SmoothingModel] = []

    def make(_self: ModifierSpec, context: Context) -> SmoothingModel:
        models.append(SmoothingModel(context))
        return models[-1]

    monkeypatch.setattr(SmoothingSpec, "model", make)
    job = toys.job(samples=1, propagate_error=False, **options)
    program, _ = make_program(toy.graph, toys.recipe(spec), job)
    simulate(program, Context(job))
    (model,) = models
    return model


def test_parents_and_norms_are_hooked_by_full_name_and_a_parent_encloses_what_is_in_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    toy = BlockToy(order=(0,))
    assert spied(SmoothingSpec(), toy, monkeypatch).seen == [
        ("before", "model.layers.0.norm"),
        ("after", "model.layers.0.norm"),
        ("before", "model.layers.0.block"),
        ("after", "model.layers.0.block"),
    ]


def test_watched_modules_come_to_the_epochs_end_in_model_order(monkeypatch: pytest.MonkeyPatch) -> None:
    toy = BlockToy(order=(0, 0))
    of_layers = [[f"model.layers.{i}.norm", f"model.layers.{i}.block"] for i in range(2)]
    assert [names for names in spied(SmoothingSpec(), toy, monkeypatch).compressed if names] == of_layers


@pytest.mark.parametrize("batches", [1, 2, 4, 5, 500])
def test_what_is_kept_of_every_batch_grows_with_the_batches(batches: int) -> None:
    toy = BlockToy()
    arguments = toy.tokens * CHANNELS * toy.itemsize
    plan = planned(SmoothingSpec(), toy, samples=batches)
    for index in range(toy.layers):
        step = next(s for s in plan.steps if (s.unit, s.phase) == (f"model.layers.{index}", "calibrate"))
        assert step.cpu.by_kind["kept"] == (index + 1) * batches * arguments
        assert step.gpu.by_kind["extremes"] == 4 * CHANNELS
    assert plan.steps[-1].cpu.by_kind.get("kept") is None


def test_watched_modules_have_no_weight_and_no_qparams() -> None:
    program, notes = make_program(BlockToy().graph, toys.recipe(SmoothingSpec()), toys.job())
    (run,) = program.runs
    assert notes == ()
    assert program.qparam_bytes == 0
    assert not run.unties_embeddings
    assert {(m.name, m.weight_bytes) for unit in run.units for m in unit.modules} == {(".norm", 0), (".block", 0)}


@dataclass(frozen=True, slots=True, kw_only=True)
class GreedySpec(SmoothingSpec):
    """Selects every module's weight, whether it has one or not."""

    def select(self, modules: Sequence[ModuleRef]) -> Selection:
        return Selection(weights={ref.name: None for ref in modules})


def test_what_has_no_matrix_of_weights_is_not_compressed() -> None:
    program, _ = make_program(BlockToy().graph, toys.recipe(GreedySpec()), toys.job())
    assert all(m.weight_bytes for run in program.runs for unit in run.units for m in unit.modules)


@dataclass(frozen=True, slots=True, kw_only=True)
class QuietSpec(toys.UnreadSpec):
    """Answers nothing that it need not."""

    def select(self, modules: Sequence[ModuleRef]) -> Selection:
        return Selection(weights={})


def test_a_spec_that_answers_nothing_wants_data_and_has_no_model() -> None:
    spec = QuietSpec()
    assert (spec.requires_calibration_data, spec.has_hessians, spec.unties_embeddings) == (True, False, False)
    assert (spec.prunes, spec.kv_cache, spec.notes) == (False, None, ())
    with pytest.raises(UnsupportedError, match="QuietSpec has no memory model"):
        make_model(spec, Context(toys.job()))


def test_every_modifier_is_registered_under_the_name_by_which_recipes_ask_for_it() -> None:
    assert all(spec.type == name and name.endswith("Modifier") for name, spec in MODIFIERS.items())
