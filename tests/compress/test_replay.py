"""Blocks and norms of a real trace: a modifier keeps what a block is passed, and runs the block again.

The toy does with llama-3-8b's attention what AWQ does with it (transform/awq/base.py `_setup_activation_cache_hooks`,
`_run_samples`), and with its norms what SmoothQuant does (transform/smoothquant/base.py `_setup_scale_hooks`).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import pytest

from planner.compress.batches import Batches, walk_batches
from planner.compress.binding import make_program
from planner.compress.context import EVERYTHING, Context, Shortcuts
from planner.compress.forward import SubgraphForward
from planner.compress.holdings import Owner
from planner.compress.ledger import Keep
from planner.compress.modifiers.base import ModifierModel
from planner.compress.oneshot import simulate
from planner.compress.program import StepMemory
from planner.errors import UnsupportedError
from planner.job import Job
from planner.models.graph import ModelGraph
from planner.models.traces import Call, CallValue, Event, memory_events
from planner.recipe.specs import ModuleRef, Selection
from planner.recipe.targets import LinearModule
from planner.timeline import Handle, fold
from tests import toys
from tests.built import graph_of

SEQ, LAYERS, BATCH = 128, 4, 2
WIDTH, HEADS, HEAD_DIM, ITEM = 4096, 32, 128, 2
TOKENS = BATCH * SEQ

HIDDEN = TOKENS * WIDTH * ITEM
MASK = BATCH * SEQ * SEQ * ITEM
COS = SIN = SEQ * HEAD_DIM * ITEM
POSITIONS = SEQ * 8
PROBABILITIES = BATCH * HEADS * SEQ * SEQ * ITEM
CROSSINGS = MASK + COS + SIN + POSITIONS
"""What attention is passed beside the hidden states, which are born in the layer: fetched for each batch."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KeepingSpec(toys.UnreadSpec):
    """Watches every attention block and the norm before it."""

    type: ClassVar[str] = "KeepingModifier"
    offload: bool = False
    parent: str = ".self_attn"
    models: list["KeepingModel"] = field(default_factory=list, compare=False)

    def select(self, modules: Sequence[ModuleRef]) -> Selection:
        ends = (self.parent, ".input_layernorm")
        return Selection(weights={}, watched=frozenset(ref.name for ref in modules if ref.name.endswith(ends)))

    def model(self, context: Context) -> "KeepingModel":
        self.models.append(KeepingModel(context, self))
        return self.models[-1]


class KeepingModel(ModifierModel):
    """Keeps the parent's arguments batch by batch, on the GPU or on the CPU, and replays it on all of them."""

    def __init__(self, context: Context, spec: KeepingSpec) -> None:
        super().__init__(context)
        self.spec = spec
        self.started: list[str] = []
        self.calls: list[tuple[str, str, Call]] = []
        self.arguments: dict[str, tuple[Handle, tuple[CallValue, ...]]] = {}
        self.extremes: dict[str, Handle] = {}
        self.returned: list[int] = []

    def on_calibration_start(self, modules: Iterable[LinearModule]) -> None:
        self.started = [module.name for module in modules]

    def before_forward(self, module: LinearModule, call: Call) -> None:
        self.calls.append(("before", module.name, call))
        if not module.name.endswith(self.spec.parent):
            return
        ledger, device = self.context.ledger, "cpu" if self.spec.offload else self.context.device
        if module.name not in self.arguments:
            handle = ledger.open(device, "arguments", Owner(module.name, "arguments"))
            self.arguments[module.name] = (handle, call.arguments)
        holding, _ = self.arguments[module.name]
        for value in call.arguments:
            if self.spec.offload:
                ledger.grow(holding, value.bytes)
            else:
                self.context.forward.retain(value, holding)

    def after_forward(self, module: LinearModule, call: Call) -> None:
        self.calls.append(("after", module.name, call))
        if module.name.endswith("norm") and module.name not in self.extremes:
            self.extremes[module.name] = self.context.take(2 * call.output[-1] * ITEM, "extremes", module.name)

    def on_sequential_epoch_end(self, modules: Sequence[LinearModule]) -> None:
        for module in modules:
            if module.name in self.arguments:
                self._replay(module.name, *self.arguments.pop(module.name))
        self.context.ledger.free_all(self.extremes.values())
        self.extremes.clear()

    def _replay(self, name: str, kept: Handle, values: tuple[CallValue, ...]) -> None:
        ledger, batches = self.context.ledger, Batches(self.context.job)
        outputs = ledger.open(self.context.device, "outputs", Owner(name, "outputs"))
        with self.context.frame("fetched", name) as frame:

            def batch(number: int) -> None:
                share = batches.share(number)
                if self.spec.offload:
                    frame.assign("batch", sum(value.bytes for value in values))
                handles = self.context.forward.replay(name, share)
                self.returned += [ledger.size(handle) for handle in handles]
                for handle in handles:
                    ledger.bequeath(handle, outputs)
                ledger.free_all(handles)

            walk_batches(self.context, batches.count, batch)
        ledger.free_all((outputs, kept))


def job(**options: Any) -> Job:
    values = {"layers": LAYERS, "seq_len": SEQ, "batch_size": BATCH, "samples": 5 * BATCH}
    return Job(**(values | options))


def llama() -> ModelGraph:
    return graph_of("llama-3-8b", job())


def simulated(
    spec: KeepingSpec, *, shortcuts: Shortcuts | None = None, keep: Keep = "peaks", **options: Any
) -> tuple[list[StepMemory], Context]:
    program, notes = make_program(llama(), toys.recipe(spec), job(**options))
    assert notes == ()  # none is due: the forward is traced, and calls all that is watched
    context = Context(job(**options), shortcuts=shortcuts, keep=keep)
    return simulate(program, context).steps, context


def step(steps: Sequence[StepMemory], phase: str, layer: int = 1) -> StepMemory:
    (found,) = (s for s in steps if (s.unit, s.phase) == (f"model.layers.{layer}", phase))
    return found


def of_attention() -> tuple[Event, ...]:
    """The events of one attention block, first and last its own."""
    events = llama().trace.segments[1].events
    first, last = (i for i, e in enumerate(events) if e.call is not None and e.call.module == ".self_attn")
    return events[first : last + 1]


# ---------------------------------------------------------------------- what hooks see
def test_a_blocks_call_names_every_argument_and_every_output_with_its_bytes() -> None:
    call = of_attention()[-1].call
    assert call is not None
    assert {value.name: value.bytes for value in call.arguments} == {
        "hidden_states": HIDDEN,
        "attention_mask": MASK,
        "position_embeddings.0": COS,
        "position_embeddings.1": SIN,
        "position_ids": POSITIONS,
    }
    assert [(value.name, value.bytes) for value in call.outputs] == [("output.0", HIDDEN), ("output.1", PROBABILITIES)]


def test_an_argument_is_the_segments_own_or_one_of_its_reads() -> None:
    trace, call = llama().trace, of_attention()[0].call
    assert call is not None
    (hidden,) = (value for value in call.arguments if value.name == "hidden_states")
    assert hidden.read == -1
    allocated = {e.id: e.bytes for e in trace.segments[1].events if e.kind == "alloc"}
    assert allocated[hidden.storage] == HIDDEN
    read = [trace.crossings[trace.segments[1].reads[v.read]] for v in call.arguments if v is not hidden]
    assert [crossing.bytes for crossing in read] == [v.bytes for v in call.arguments if v is not hidden]


def test_hooks_of_a_norm_and_of_a_block_run_in_the_order_of_the_forward() -> None:
    spec = KeepingSpec(offload=True)
    simulated(spec, samples=BATCH, propagate_error=False)
    (model,) = spec.models
    norm, block = "model.layers.0.input_layernorm", "model.layers.0.self_attn"
    assert [(when, name) for when, name, _ in model.calls[:4]] == [
        ("before", norm),
        ("after", norm),
        ("before", block),
        ("after", block),
    ]
    assert model.calls[1][2].output == (BATCH, SEQ, WIDTH)


def test_calibration_starts_with_all_that_is_selected_in_the_model() -> None:
    spec = KeepingSpec()
    simulated(spec)
    expected = {f"model.layers.{i}.{part}" for i in range(LAYERS) for part in ("self_attn", "input_layernorm")}
    assert len(spec.models[0].started) == len(expected)
    assert set(spec.models[0].started) == expected


# ---------------------------------------------------------------------- arguments that are kept
@pytest.mark.parametrize("batches", [1, 2, 5, 400])
def test_arguments_kept_on_the_cpu_are_copies_of_all_for_every_batch(batches: int) -> None:
    steps, _ = simulated(KeepingSpec(offload=True), samples=batches * BATCH)
    for layer in range(LAYERS):
        calibrated = step(steps, "calibrate", layer)
        assert calibrated.cpu.by_kind["arguments"] == batches * (HIDDEN + CROSSINGS)
        assert "arguments" not in calibrated.gpu.by_kind
        assert calibrated.gpu.by_kind["extremes"] == 2 * WIDTH * ITEM
        assert step(steps, "propagate", layer).cpu.by_kind.get("arguments") is None


@pytest.mark.parametrize("batches", [1, 2, 5, 400])
def test_arguments_kept_on_the_gpu_are_the_very_tensors_and_count_once(batches: int) -> None:
    steps, context = simulated(KeepingSpec(), samples=batches * BATCH, keep="timeline")
    timeline = context.ledger.timeline("gpu")
    calibrated = steps.index(step(steps, "calibrate"))
    held = fold(event for index in range(calibrated + 1) for event in timeline.step(index)).holdings
    by_kind: dict[str, int] = {}
    for handle, nbytes in held.items():
        by_kind[timeline.about[handle].kind] = by_kind.get(timeline.about[handle].kind, 0) + nbytes
    # the last batch's crossings are still held by the pipeline's name `inputs`, beside the layer's input
    assert by_kind["arguments"] == batches * HIDDEN + (batches - 1) * CROSSINGS
    assert by_kind["batch"] == HIDDEN + CROSSINGS


def test_a_kept_tensor_raises_no_peak_before_the_forward_would_have_freed_it() -> None:
    alone, _ = simulated(KeepingSpec(parent=".no such block"), samples=BATCH)
    kept, _ = simulated(KeepingSpec(), samples=BATCH)
    gpu, more = (step(steps, "calibrate", 0).gpu for steps in (alone, kept))
    assert gpu.bytes <= more.bytes <= gpu.bytes + HIDDEN


def test_a_shorter_last_batch_keeps_less() -> None:
    steps, _ = simulated(KeepingSpec(offload=True), samples=2 * BATCH + 1)
    half = HIDDEN // 2 + MASK // 2
    whole = HIDDEN + MASK
    # cos, sin and positions are those of one sample, however many the batch has
    assert step(steps, "calibrate").cpu.by_kind["arguments"] == 2 * whole + half + 3 * (CROSSINGS - MASK)


def test_a_tensor_that_the_activation_cache_keeps_on_the_gpu_is_counted_there() -> None:
    steps, _ = simulated(KeepingSpec(), offload_device="gpu")
    # attention's input is born in the layer; mask, cos, sin and positions are the cache's
    assert step(steps, "calibrate").gpu.by_kind["arguments"] == 5 * HIDDEN


def test_what_the_cache_on_the_gpu_lets_go_of_in_the_same_pass_stays_with_who_keeps_it() -> None:
    steps, context = simulated(KeepingSpec(parent="layers.1"), offload_device="gpu", propagate_error=False)
    assert step(steps, "calibrate").gpu.bytes >= 5 * HIDDEN
    assert context.ledger.live_by_kind("gpu").get("arguments") is None


# ---------------------------------------------------------------------- a part of the forward once more
def test_a_replay_returns_the_blocks_outputs_probabilities_included() -> None:
    spec = KeepingSpec()
    simulated(spec, samples=BATCH, shortcuts=EVERYTHING)
    assert spec.models[0].returned == [HIDDEN, PROBABILITIES] * LAYERS


def test_a_replay_peaks_as_the_blocks_own_events_do_and_finds_its_weights_onloaded() -> None:
    context = Context(job())
    forward = SubgraphForward(context, llama().trace)
    weights = {e.parameter: e.bytes for e in of_attention() if e.kind == "onload"}
    for name, nbytes in weights.items():
        context.onload(f"model.layers.2{name}", nbytes)
    context.ledger.close_step()
    handles = forward.replay("model.layers.2.self_attn")
    peak = context.ledger.close_step()["gpu"]
    assert set(peak.by_kind) == {"weights", "forward"}
    assert peak.bytes == sum(weights.values()) + fold(memory_events(of_attention())).level.peak
    context.ledger.free_all(handles)
    assert context.ledger.live("gpu") == sum(weights.values()) == ITEM * WIDTH * (2 * WIDTH + 2 * WIDTH // 4)


def test_a_replay_of_every_batch_keeps_every_batchs_outputs() -> None:
    steps, _ = simulated(KeepingSpec(), samples=400 * BATCH)
    compressed = step(steps, "compress").gpu.by_kind
    assert compressed["outputs"] == 399 * (HIDDEN + PROBABILITIES)  # the last batch's own forward sets the peak
    assert compressed["arguments"] == 400 * HIDDEN + 399 * CROSSINGS


def test_a_module_that_is_never_called_as_one_cannot_run_again() -> None:
    forward = SubgraphForward(Context(job()), llama().trace)
    with pytest.raises(UnsupportedError, match=r"model\.layers cannot run again"):
        forward.replay("model.layers")


@pytest.mark.parametrize(
    "options",
    [{}, {"samples": 9}, {"targets_per_subgraph": 2}, {"propagate_error": False}, {"prefetch": True}],
    ids=str,
)
@pytest.mark.parametrize("offload", [False, True])
def test_what_is_kept_and_replayed_costs_the_same_with_all_shortcuts_and_with_none(
    offload: bool, options: dict[str, Any]
) -> None:
    def figures(shortcuts: Shortcuts) -> list[Any]:
        steps, _ = simulated(KeepingSpec(offload=offload), shortcuts=shortcuts, **({"samples": 14} | options))
        return [(s.phase, s.unit, *((p.bytes, p.end, p.by_kind) for p in (s.gpu, s.cpu))) for s in steps]

    assert figures(Shortcuts()) == figures(EVERYTHING)


def test_blocks_are_kept_and_replayed_in_the_basic_pipeline_too() -> None:
    spec = KeepingSpec()
    steps, _ = simulated(spec, pipeline="basic", samples=2 * BATCH)
    assert spec.models[0].returned == [HIDDEN, PROBABILITIES] * 2 * LAYERS
    (compressed,) = (s for s in steps if s.phase == "compress")
    kept = compressed.cpu.by_kind["arguments"]
    assert kept == 2 * (LAYERS * HIDDEN + CROSSINGS)
