"""What modifiers keep from batch to batch, or from layer to layer, costs the same with all shortcuts and with none."""

from collections.abc import Sequence
from typing import Any

import pytest

from planner.compress.context import EVERYTHING, Context, Shortcuts
from planner.compress.modifiers.base import ModifierModel
from planner.compress.modifiers.gptq import GPTQSpec
from planner.compress.oneshot import simulate
from planner.models.traces import Call
from planner.recipe.targets import LinearModule
from planner.timeline import Handle
from tests import toys
from tests.toys import Layer, Toy


class KeepsInputs(ModifierModel):
    """Every module's inputs until the epoch's end, in one growing holding."""

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.inputs: dict[str, Handle] = {}

    def before_forward(self, module: LinearModule, call: Call) -> None:
        ledger = self.context.ledger
        if module.name not in self.inputs:
            self.inputs[module.name] = ledger.open("cpu", "inputs", module.name)
        ledger.grow(self.inputs[module.name], self.size(call))

    def size(self, call: Call) -> int:
        return call.rows * call.columns * call.itemsize

    def on_sequential_epoch_end(self, modules: Sequence[LinearModule]) -> None:
        self.context.ledger.free_all(self.inputs.values())
        self.inputs.clear()


class KeepsMoreEachTime(KeepsInputs):
    """Batches that are not alike, though all that is not growing is."""

    calls = 0

    def size(self, call: Call) -> int:
        self.calls += 1
        return 1_000 * self.calls

    def on_sequential_epoch_end(self, modules: Sequence[LinearModule]) -> None:
        super().on_sequential_epoch_end(modules)
        self.calls = 0


class KeepsEachInput(KeepsInputs):
    """A holding for each input, against the advice of ModifierModel: slow, not wrong."""

    def before_forward(self, module: LinearModule, call: Call) -> None:
        self.inputs[f"{module.name} {len(self.inputs)}"] = self.context.ledger.alloc("cpu", 800, "inputs", module.name)


class HandsOver(ModifierModel):
    """Made by one layer, taken by the next: every other layer finds the books alike, and leaves them otherwise."""

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.held: list[Handle] = []

    def on_sequential_epoch_end(self, modules: Sequence[LinearModule]) -> None:
        if self.held:
            self.on_calibration_end()
        elif modules:
            self.held.append(self.context.ledger.alloc("cpu", 7_777, "handed over", modules[0].name))

    def on_calibration_end(self) -> None:
        self.context.ledger.free_all(self.held)
        self.held.clear()


OPTIONS: list[dict[str, Any]] = [
    {"samples": 20},
    {"samples": 23, "batch_size": 4, "prefetch": True},
    {"samples": 20, "offload_device": "gpu"},
    {"samples": 20, "progress_bars": True},
    {"samples": 23, "batch_size": 2, "progress_bars": True, "prefetch": True, "offload_device": "gpu"},
    {"samples": 20, "propagate_error": False},
    {"samples": 7, "targets_per_subgraph": 2},
    {"samples": 20, "pipeline": "basic"},
]


@pytest.mark.parametrize("model", [KeepsInputs, KeepsMoreEachTime, KeepsEachInput, HandsOver])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("order", [(0,) * 6, (0, 1) * 4], ids=["equal", "alternating"])
def test_what_a_modifier_keeps_is_never_cut_short(
    monkeypatch: pytest.MonkeyPatch, model: type[ModifierModel], options: dict[str, Any], order: tuple[int, ...]
) -> None:
    monkeypatch.setattr(GPTQSpec, "model", lambda _self, context: model(context))
    job = toys.job(**options)
    toy = Toy(kinds=(Layer(), Layer(scores=3_000)), order=order, batch_size=job.batch_size, tokens=10 * job.batch_size)

    def figures(shortcuts: Shortcuts) -> list[tuple[Any, ...]]:
        steps = simulate(toy.program(toys.gptq()), Context(job, shortcuts=shortcuts)).steps
        return [(s.phase, s.unit, *((p.bytes, p.allocated, p.end, p.by_kind) for p in (s.gpu, s.cpu))) for s in steps]

    assert figures(Shortcuts()) == figures(EVERYTHING)
