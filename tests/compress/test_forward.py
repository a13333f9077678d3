"""Replay of a traced forward on the books."""

from collections.abc import Sequence

from planner.compress.context import Context
from planner.compress.forward import Hooked, SubgraphForward
from planner.compress.holdings import Owner
from planner.compress.modifiers.base import ModifierModel
from planner.compress.oneshot import simulate
from planner.compress.program import Subgraph, cut
from planner.cuda.build import CudaBuild
from planner.models.traces import Call, CallValue, Crossing, Event, ModelTrace, Segment, full_name
from planner.recipe.targets import LinearModule
from planner.timeline import Handle
from tests import toys
from tests.toys import Toy


class Spy(ModifierModel):
    """Notes each hook with the bytes that are live when it runs."""

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.seen: list[tuple[str, str, int]] = []

    def before_forward(self, module: LinearModule, call: Call) -> None:
        self.seen.append(("before", module.name, self.context.ledger.live("gpu")))

    def after_forward(self, module: LinearModule, call: Call) -> None:
        self.seen.append(("after", module.name, self.context.ledger.live("gpu")))


def replay(trace: ModelTrace, subgraph: Subgraph, context: Context) -> tuple[Handle, ...]:
    return tuple(SubgraphForward(context, trace).run(subgraph).values())


def sizes(context: Context, handles: Sequence[Handle]) -> list[int]:
    return sorted(context.ledger.size(h) for h in handles)


def small_trace(*segments: Segment, crossings: dict[int, Crossing]) -> ModelTrace:
    return ModelTrace(segments, crossings, 0, 0)


def crossing(number: int, size: int, producer: int, last_reader: int) -> Crossing:
    return Crossing(number, f"value {number}", size, producer, last_reader)


# ---------------------------------------------------------------------- one subgraph
def test_the_head_leaves_what_crosses_its_border_and_the_embedding() -> None:
    toy, context = Toy(), Context(toys.job())
    outputs = replay(toy.trace, cut(toy.trace, 1)[0], context)
    assert sizes(context, outputs) == sorted((toy.hidden, toy.mask, toy.positions))
    assert context.ledger.live_by_kind("gpu") == {
        "weights": toy.embedding,
        "forward": toy.hidden + toy.mask + toy.positions,
    }


def test_a_layer_peaks_where_its_largest_neighbours_are_alive_together() -> None:
    toy, context = Toy(), Context(toys.job())
    layer, subgraph = toy.layer(0), cut(toy.trace, 1)[1]
    outputs = replay(toy.trace, subgraph, context)
    assert sizes(context, outputs) == [toy.hidden]
    onloaded = layer.weight_bytes(toy.itemsize)
    assert context.ledger.close_step()["gpu"].bytes == onloaded + layer.forward_peak(
        toy.tokens, toy.itemsize, toy.hidden
    )


def test_weights_are_onloaded_by_the_first_batch_only() -> None:
    toy, context = Toy(), Context(toys.job())
    subgraph = cut(toy.trace, 1)[1]
    for _ in range(2):
        context.ledger.free_all(replay(toy.trace, subgraph, context))
    assert context.ledger.live_by_kind("gpu") == {"weights": toy.layer(0).weight_bytes(toy.itemsize)}


def test_the_last_subgraph_returns_nothing_to_keep() -> None:
    toy, context = Toy(), Context(toys.job())
    assert replay(toy.trace, cut(toy.trace, 1)[-1], context) == ()
    assert set(context.ledger.live_by_kind("gpu")) == {"weights"}


def test_what_only_the_next_segment_reads_dies_there_when_both_run_together() -> None:
    toy = Toy()
    layer = toy.layer(0)
    together = cut(toy.trace, 2)[1]
    context = Context(toys.job())
    outputs = replay(toy.trace, together, context)
    # only the second layer's hidden states leave; the first layer's live while the second runs
    assert sizes(context, outputs) == [toy.hidden]
    forward = layer.forward_peak(toy.tokens, toy.itemsize, toy.hidden)
    assert context.ledger.close_step()["gpu"].bytes == 2 * layer.weight_bytes(toy.itemsize) + toy.hidden + forward


def test_two_views_of_one_storage_are_one_holding() -> None:
    crossings = {0: crossing(0, 30, 0, 1), 1: crossing(1, 70, 0, 1)}
    head = Segment(0, "", 0, (Event("alloc", 5, 100, "split"),), (), ((0, 5), (1, 5)))
    trace = small_trace(head, Segment(1, "layer", 1, (), (0, 1), ()), crossings=crossings)
    context = Context(toys.job())
    assert sizes(context, replay(trace, cut(trace, 1)[0], context)) == [100]


def test_a_storage_lives_as_long_as_its_longest_read_view() -> None:
    crossings = {0: crossing(0, 30, 1, 2), 1: crossing(1, 70, 1, 3)}
    segments = (
        Segment(0, "", 0, (), (), ()),
        Segment(1, "a", 1, (Event("alloc", 5, 100, "split"),), (), ((0, 5), (1, 5))),
        Segment(2, "b", 2, (), (0,), ()),
        Segment(3, "c", 3, (), (1,), ()),
    )
    trace = small_trace(*segments, crossings=crossings)
    context = Context(toys.job())
    assert sizes(context, replay(trace, cut(trace, 2)[1], context)) == [100]


def test_what_a_segment_forgets_to_free_goes_when_it_ends() -> None:
    trace = small_trace(Segment(0, "", 0, (Event("alloc", 0, 50, "loose"),), (), ()), crossings={})
    context = Context(toys.job())
    assert replay(trace, cut(trace, 1)[0], context) == ()
    peak = context.ledger.close_step()["gpu"]
    assert (peak.bytes, peak.end) == (50, 0)


def test_workspace_keeps_its_own_kind() -> None:
    event = Event("alloc", 0, 50, "scan", category="cuda_workspace")
    trace = small_trace(Segment(0, "", 0, (event, Event("free", 0)), (), ()), crossings={})
    context = Context(toys.job())
    replay(trace, cut(trace, 1)[0], context)
    assert context.ledger.close_step()["gpu"].by_kind == {"cuda_workspace": 50}


def test_a_cuda_build_takes_its_own_temporaries_in_the_place_of_the_counted_ones() -> None:
    events = (
        Event("alloc", 0, 50, "scan", category="cuda_workspace"),
        Event("free", 0, category="cuda_workspace"),
        Event("alloc", 1, 70, "scan", category="cuda"),
        Event("free", 1, category="cuda"),
    )
    trace = small_trace(Segment(0, "", 0, events, (), ()), crossings={})
    for cuda, peak in ((None, 50), (CudaBuild(), 70)):
        context = Context(toys.job(), cuda=cuda)
        replay(trace, cut(trace, 1)[0], context)
        assert context.ledger.close_step()["gpu"].bytes == peak


def test_the_first_product_takes_the_workspace_of_cublas_for_good() -> None:
    events = (Event("product", category="cuda"), Event("product", category="cuda"))
    trace = small_trace(Segment(0, "", 0, events, (), ()), crossings={})
    for cuda, end in ((None, 0), (CudaBuild(sm=80), 8_519_680)):
        context = Context(toys.job(), cuda=cuda)
        for _ in range(2):
            replay(trace, cut(trace, 1)[0], context)
        assert context.ledger.close_step()["gpu"].end == end


# ---------------------------------------------------------------------- hooks
def test_hooks_of_targeted_modules_run_around_their_forward() -> None:
    toy, context = Toy(), Context(toys.job())
    up, down = toy.layer(0).linears
    spy, name = Spy(context), "model.layers.0.down"
    SubgraphForward(context, toy.trace).run(cut(toy.trace, 1)[1], (Hooked(spy, {name: toys.linear(name)}),))
    inputs = up.rows * toy.tokens * toy.itemsize
    before = up.bytes(toy.itemsize) + inputs
    after = before + down.bytes(toy.itemsize) + down.rows * toy.tokens * toy.itemsize
    assert spy.seen == [("before", name, before), ("after", name, after)]


def test_no_hook_runs_while_propagating() -> None:
    context = Context(toys.job(), keep="timeline")
    outcome, timeline = simulate(Toy().program(toys.gptq()), context), context.ledger.timeline("gpu")
    updated = {
        step.phase
        for index, step in enumerate(outcome.steps)
        if any(timeline.about[holding].kind == "hessian_update" for holding, _, _ in timeline.step(index))
    }
    # compress lets go of the counters that calibrating made
    assert updated == {"calibrate", "compress"}


def test_names_from_a_dot_on_lie_under_the_segments_target() -> None:
    assert full_name("model.layers.3", ".mlp.up") == "model.layers.3.mlp.up"
    assert full_name("model.layers.3", ".") == "model.layers.3"
    assert full_name("model.layers.3", "model.norm") == "model.norm"
    assert full_name("model.layers.3", "") == "model"


def test_what_an_operator_makes_is_owned_by_the_module_whose_forward_it_runs_in() -> None:
    events = (
        Event("alloc", 0, 50, module=".mlp.up", operator="mm"),
        Event("alloc", 1, 40, module=".", operator="add"),
        Event("alloc", 2, 30, operator="nonzero() of a bool index"),
    )
    trace = small_trace(Segment(0, "", 0, (), (), ()), Segment(1, "layers.3", 1, events, (), ()), crossings={})
    context = Context(toys.job())
    replay(trace, cut(trace, 1)[1], context)
    owners = [holding.owner for holding in context.ledger.close_step()["gpu"].largest]
    assert owners == [Owner("layers.3.mlp.up", "mm"), Owner("layers.3", "add"), Owner("nonzero() of a bool index")]


class Replacing(ModifierModel):
    """Puts a tensor of these bytes in the place of the one argument of each call."""

    def __init__(self, context: Context, nbytes: int) -> None:
        super().__init__(context)
        self.nbytes = nbytes
        self.live: list[int] = []

    def before_forward(self, module: LinearModule, call: Call) -> None:
        new = self.context.take(self.nbytes, "forward", "new")
        self.context.forward.replace(call.arguments[0], new)
        self.live.append(self.context.ledger.live("gpu"))


def replaced(nbytes: int, storage: int = 0) -> tuple[list[int], list[int]]:
    """Bytes on the GPU behind the replacement, while the next tensor is there, and at the end."""
    part = CallValue("key", 40, (10, 4), storage=storage)
    call = Call(".key", rows=10, columns=4, itemsize=1, contiguous=False, dims=(10, 4), arguments=(part,))
    events = (
        Event("alloc", 0, 100, ".", "mm"),
        Event("enter", call=call),
        Event("alloc", 1, 7, ".", "scores"),
        Event("free", 1),
        Event("free", 0),
    )
    context = Context(toys.job())
    trace = small_trace(Segment(0, "", 0, (), (), ()), Segment(1, "layer", 1, events, (), ()), crossings={})
    context.forward = forward = SubgraphForward(context, trace)
    model = Replacing(context, nbytes)
    forward.run(cut(trace, 1)[1], (Hooked(model, {"layer.key": toys.linear("layer.key", 4, 4)}),))
    return model.live, [context.ledger.close_step()["gpu"].bytes, context.ledger.live("gpu")]


def test_what_replaces_a_part_of_a_tensor_is_there_as_long_as_that_tensor() -> None:
    """The rotated keys of a fused projection: attention reads them beside queries and values."""
    assert replaced(40) == ([100 + 40], [100 + 40 + 7, 0])


def test_what_replaces_a_whole_tensor_takes_its_place() -> None:
    assert replaced(100) == ([100], [100 + 100, 0])


def test_what_replaces_a_tensor_that_is_not_the_forwards_goes_with_the_call() -> None:
    assert replaced(40, storage=-1) == ([100], [100 + 40, 0])
