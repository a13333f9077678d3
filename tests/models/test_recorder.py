"""The recorder: every storage that is born or dies, and answers to what nobody can know."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.nn.functional import linear, softmax

from planner.errors import UnsupportedError
from planner.models.calls import HalfSoftmax
from planner.models.recorder import KNOWN_LIMIT, NoListener, Recorder
from planner.models.traces import Event


def meta(*shape: int, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
    """A tensor without data."""
    return torch.empty(*shape, dtype=dtype, device="meta")


def record(
    function: Callable[..., Any], *inputs: torch.Tensor, experts: int = 0, **weights: torch.Tensor
) -> tuple[list[Event], Any]:
    """The events of function(*inputs), its result's death included, and what it gave to Python."""
    recorder = Recorder(experts)
    for name, weight in weights.items():
        recorder.name_parameter(weight, name)
    for tensor in inputs:
        recorder.adopt(tensor)
    with torch.no_grad(), recorder:
        recorder.begin()
        result = function(*inputs, **weights)
        value = None if isinstance(result, torch.Tensor) else result
        del result
    return recorder.events, value


def allocs(events: list[Event]) -> list[int]:
    """Without what a CUDA build alone takes."""
    return [event.bytes for event in events if event.kind == "alloc" and event.category != "cuda"]


def kinds(events: list[Event]) -> list[tuple[str, int]]:
    return [(event.kind, event.id) for event in events]


def answer(function: Callable[..., Any], *inputs: torch.Tensor, experts: int = 0) -> Any:
    return record(function, *inputs, experts=experts)[1]


# ---------------------------------------------------------------------- what is allocated
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize(("rows", "columns", "out"), [(1, 16, 8), (7, 16, 8), (2048, 64, 128)])
def test_a_linear_allocates_its_output_and_nothing_else(dtype: torch.dtype, rows: int, columns: int, out: int) -> None:
    events, _ = record(
        lambda x, weight: linear(x, weight), meta(rows, columns, dtype=dtype), weight=meta(out, columns, dtype=dtype)
    )
    assert [event.kind for event in events] == ["onload", "alloc", "product", "free"]
    assert events[0].bytes == out * columns * dtype.itemsize
    assert events[1].bytes == rows * out * dtype.itemsize


def test_a_linear_on_a_batch_of_sequences_allocates_one_row_per_token() -> None:
    events, _ = record(lambda x, weight: linear(x, weight), meta(3, 5, 16), weight=meta(8, 16))
    assert allocs(events) == [3 * 5 * 8 * 2]


def test_a_bias_costs_no_tensor_of_its_own() -> None:
    events, _ = record(lambda x, weight, bias: linear(x, weight, bias), meta(5, 16), weight=meta(8, 16), bias=meta(8))
    assert allocs(events) == [5 * 8 * 2]
    assert sum(event.bytes for event in events if event.kind == "onload") == (8 * 16 + 8) * 2


def test_views_of_one_storage_are_one_allocation() -> None:
    def views(x: torch.Tensor) -> int:
        made = x + 1
        return len([made, made.view(4, 8), made.t(), made[1:], made.reshape(32), made.chunk(2)[1]])

    events, _ = record(views, meta(8, 4))
    assert kinds(events) == [("alloc", 0), ("free", 0)]
    assert allocs(events) == [8 * 4 * 2]


def test_a_reshape_that_cannot_be_a_view_is_a_copy() -> None:
    events, _ = record(lambda x: x.t().reshape(32), meta(8, 4))
    assert allocs(events) == [8 * 4 * 2]


def test_in_place_operators_allocate_nothing() -> None:
    def in_place(x: torch.Tensor) -> torch.Tensor:
        x += 1
        return x.mul_(2).clamp_(min=0)

    assert record(in_place, meta(8, 4))[0] == []


def test_every_intermediate_of_an_expression_is_seen() -> None:
    events, _ = record(lambda x: (x * 2).float() + 1, meta(100))
    assert kinds(events) == [("alloc", 0), ("alloc", 1), ("free", 0), ("alloc", 2), ("free", 1), ("free", 2)]
    assert allocs(events) == [200, 400, 400]


# ---------------------------------------------------------------------- when it is freed
def test_a_storage_is_freed_when_python_drops_the_last_reference() -> None:
    def drop(x: torch.Tensor) -> torch.Tensor:
        first = x * 2
        view = first[0]
        del first  # the view still holds the storage
        second = x * 3
        del view
        third = x * 4
        del second
        return third

    events, _ = record(drop, meta(8, 4))
    assert kinds(events) == [("alloc", 0), ("alloc", 1), ("free", 0), ("alloc", 2), ("free", 1), ("free", 2)]


def test_rebinding_a_name_takes_the_new_tensor_before_the_old_goes() -> None:
    def rebind(x: torch.Tensor) -> torch.Tensor:
        y = x * 2
        y = y * 2
        return y  # noqa: RET504  (the name that is bound again is the test)

    assert kinds(record(rebind, meta(4))[0]) == [("alloc", 0), ("alloc", 1), ("free", 0), ("free", 1)]


def test_inputs_are_nobodys_allocation_and_their_end_is_not_seen() -> None:
    def consume(x: torch.Tensor) -> float:
        return 1.0

    assert record(consume, meta(8))[0] == []


def test_a_parameter_is_onloaded_at_its_first_use_only() -> None:
    def twice(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return linear(linear(x, weight), weight)

    events, _ = record(twice, meta(4, 8), weight=meta(8, 8))
    assert [(event.kind, event.name) for event in events if event.kind == "onload"] == [("onload", "weight")]


def test_a_view_of_a_parameter_onloads_all_of_it() -> None:
    events, _ = record(lambda x, weight: x + weight[0], meta(8), weight=meta(4, 8))
    assert [event.bytes for event in events if event.kind == "onload"] == [4 * 8 * 2]


def test_a_new_list_begins_with_id_zero_and_onloads_again() -> None:
    recorder, weight, tokens = Recorder(), meta(8, 8), meta(4, 8)
    recorder.name_parameter(weight, "weight")
    with torch.no_grad(), recorder:
        found = []
        for _ in range(2):
            recorder.begin()
            linear(tokens, weight)
            found.append(recorder.events)
    assert kinds(found[0]) == kinds(found[1])
    assert [event.kind for event in found[1]].count("onload") == 1


def test_what_runs_while_paused_leaves_no_events() -> None:
    recorder, tokens = Recorder(), meta(8)
    with recorder:
        recorder.begin()
        with recorder.paused():
            made = tokens + 1
        del made
    assert recorder.events == []


# ---------------------------------------------------------------------- what is known
def test_small_tensors_of_numbers_keep_their_values() -> None:
    def lengths(_: torch.Tensor) -> list[int]:
        counts = torch.tensor([[3, 1], [2, 2]])
        return torch.cumsum(counts.sum(dim=1), dim=0).tolist()

    assert answer(lengths, meta(1)) == [4, 8]


def test_masks_are_read_as_they_are() -> None:
    def masked(_: torch.Tensor) -> tuple[bool, bool, int]:
        mask = torch.arange(6) < 4
        return bool(mask.all()), bool(mask.any()), int(mask.sum())

    assert answer(masked, meta(1)) == (False, True, 4)


def test_a_known_mask_selects_as_many_as_it_says() -> None:
    events, _ = record(lambda x: x[torch.arange(8) < 3], meta(8, 4))
    assert allocs(events)[-1] == 3 * 4 * 2


def test_known_tensors_are_allocations_like_any_other() -> None:
    assert allocs(record(lambda _: torch.arange(100), meta(1))[0]) == [800]


def test_what_outgrows_the_limit_is_unknown_but_counted() -> None:
    devices: list[str] = []

    def build(_: torch.Tensor) -> None:
        for count in (KNOWN_LIMIT // 8, KNOWN_LIMIT // 8 + 1):
            devices.append(torch.arange(count).device.type)

    events, _ = record(build, meta(1))
    assert devices == ["cpu", "meta"]
    assert allocs(events) == [KNOWN_LIMIT, KNOWN_LIMIT + 8]


def test_known_and_unknown_tensors_are_on_one_device() -> None:
    def move(x: torch.Tensor) -> torch.Tensor:
        return torch.arange(4).to(x.device) + x

    events, _ = record(move, meta(4, dtype=torch.int64))
    assert allocs(events) == [32, 32]  # the numbers and the sum: no copy between devices


def test_values_derived_from_weights_are_unknown() -> None:
    events, value = record(lambda x: (x + torch.arange(4)).device.type, meta(4))
    assert value == "meta"
    assert len(allocs(events)) == 2


# ---------------------------------------------------------------------- answers to unknown reads
@pytest.mark.parametrize(
    ("read", "expected"),
    [
        (lambda x: x.sum().item(), 1.0),
        (lambda x: x.argmax().item(), 0),
        (lambda x: bool(x.sum() > 0), False),
        (lambda x: bool((x > 0).any()), False),
        (lambda x: bool((x > 0).all()), True),
        (lambda x: bool(torch.isfinite(x).all()), True),
        (lambda x: torch.equal(x, x + 1), True),
    ],
    ids=["float", "integer", "comparison", "any", "all", "isfinite", "equal"],
)
def test_an_unknown_value_has_a_fixed_answer(read: Callable[[torch.Tensor], object], expected: object) -> None:
    assert answer(read, meta(8, 16)) == expected


@pytest.mark.parametrize(("experts", "selected"), [(0, 0), (4, 8 * 16 // 4), (1, 8 * 16)])
def test_an_unknown_mask_of_tokens_selects_one_in_as_many_as_there_are_experts(experts: int, selected: int) -> None:
    for select in (lambda x: x[x > 0], lambda x: torch.masked_select(x, x > 0)):
        assert allocs(record(select, meta(8, 16), experts=experts)[0])[-1] == selected * 2
    assert allocs(record(lambda x: (x > 0).nonzero(), meta(8, 16), experts=experts)[0])[-1] == selected * 2 * 8


def test_every_expert_has_tokens_where_a_mask_says_which_have() -> None:
    def loop(routed: torch.Tensor) -> int:
        hit = torch.greater(routed.sum(dim=-1), 0).nonzero()
        return len(list(hit))

    assert answer(loop, meta(16, 100), experts=16) == 16


def test_a_bool_index_also_takes_its_positions_as_workspace() -> None:
    events, _ = record(lambda x: x[x > 0], meta(8, 16), experts=2)
    workspace = [event.bytes for event in events if event.kind == "alloc" and event.category == "cuda_workspace"]
    assert workspace == [64 * 2 * 8]  # int64 positions in both dimensions


def test_masked_scatter_takes_a_prefix_sum_and_a_whole_mask() -> None:
    def scatter(x: torch.Tensor, source: torch.Tensor) -> torch.Tensor:
        broadcast = (source[:, :1] > 0).expand_as(x)
        return x.masked_scatter_(broadcast, source)

    events, _ = record(scatter, meta(8, 16), meta(8, 16))
    workspace = [event.bytes for event in events if event.kind == "alloc" and event.category == "cuda_workspace"]
    assert workspace == [8 * 16 * 8 + 8 * 16]


def test_an_operator_that_needs_data_says_which_and_where() -> None:
    class InLayerThree(NoListener):
        def where(self) -> str:
            return "model.layers.3"

    recorder, unknown = Recorder(listener=InLayerThree()), meta(8)
    with pytest.raises(UnsupportedError, match=r"model\.layers\.3: _unique2 does not run without data"), recorder:
        torch.unique(unknown)


def test_a_cuda_build_holds_the_positions_of_a_bool_index_until_the_result_is_there() -> None:
    events, _ = record(lambda x: x[x > 0], meta(8, 16), experts=2)
    cuda = [event for event in events if event.category == "cuda"]
    positions = next(event.id for event in cuda if event.bytes == 64 * 2 * 8)
    result = next(event.id for event in events if event.category == "forward" and event.operator == "index")
    order = [(event.kind, event.id) for event in events]
    assert order.index(("alloc", positions)) < order.index(("alloc", result)) < order.index(("free", positions))


def test_an_operator_without_a_rule_is_remembered() -> None:
    recorder, unknown = Recorder(), meta(1, 100_000)
    with torch.no_grad(), recorder:
        torch.topk(unknown, 40)
    assert recorder.unruled == {"topk"}


# ---------------------------------------------------------------------- softmax
def softmax_bytes(dtype: torch.dtype) -> list[int]:
    def run(x: torch.Tensor) -> torch.Tensor:
        with HalfSoftmax():
            return softmax(x, dim=-1, dtype=torch.float32)

    return allocs(record(run, meta(100, dtype=dtype))[0])


def test_a_bfloat16_softmax_in_fp32_copies_its_input_first() -> None:
    assert softmax_bytes(torch.bfloat16) == [400, 400]


def test_a_float16_softmax_in_fp32_reads_the_half_directly() -> None:
    assert softmax_bytes(torch.float16) == [400]


def test_an_fp32_softmax_has_nothing_to_copy() -> None:
    assert softmax_bytes(torch.float32) == [400]
