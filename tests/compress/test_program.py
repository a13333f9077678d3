"""Subgraphs: how segments are grouped, what they read, write and read for the last time."""

from dataclasses import replace

import pytest

from planner.compress.program import cut
from planner.models.traces import Crossing, ModelTrace, Segment
from tests import toys
from tests.toys import HIDDEN, IDS, MASK, POSITIONS, Toy

SHARED = (MASK, POSITIONS)


def test_each_target_begins_a_subgraph_after_the_head() -> None:
    subgraphs = cut(Toy(order=(0,) * 4).trace, 1)
    assert [s.segments for s in subgraphs] == [(0,), (1,), (2,), (3,), (4,)]
    assert [s.number for s in subgraphs] == [1, 2, 3, 4, 5]
    assert [s.unit for s in subgraphs] == ["head", *(f"model.layers.{i}" for i in range(4))]


@pytest.mark.parametrize(
    ("per_subgraph", "groups"), [(2, [(1, 2), (3, 4), (5,)]), (4, [(1, 2, 3, 4), (5,)]), (9, [(1, 2, 3, 4, 5)])]
)
def test_the_head_stays_alone_however_many_targets_share_a_subgraph(
    per_subgraph: int, groups: list[tuple[int, ...]]
) -> None:
    assert [s.segments for s in cut(Toy(order=(0,) * 5).trace, per_subgraph)] == [(0,), *groups]


def test_the_head_reads_the_batch_and_consumes_it() -> None:
    head = cut(Toy().trace, 1)[0]
    assert (head.reads, head.consumed) == ((IDS,), (IDS,))
    assert sorted(head.writes) == [*SHARED, HIDDEN]


def test_hidden_states_are_consumed_by_the_next_layer_and_shared_values_by_the_last() -> None:
    _, first, second, last = cut(Toy().trace, 1)
    assert first.reads == (HIDDEN, *SHARED)
    assert (first.writes, first.consumed) == ((HIDDEN + 1,), (HIDDEN,))
    assert (second.writes, second.consumed) == ((HIDDEN + 2,), (HIDDEN + 1,))
    assert (last.writes, set(last.consumed)) == ((), {HIDDEN + 2, *SHARED})


def test_what_is_made_and_read_inside_a_subgraph_crosses_no_border() -> None:
    _, pair, last = cut(Toy().trace, 2)
    assert pair.reads == (HIDDEN, *SHARED)
    assert pair.writes == last.reads[:1] == (HIDDEN + 2,)


def test_every_name_is_consumed_exactly_once_by_its_last_reader() -> None:
    trace = Toy(order=(0,) * 5).trace
    for per_subgraph in (1, 2, 3, 7):
        subgraphs = cut(trace, per_subgraph)
        consumed = [n for s in subgraphs for n in s.consumed]
        assert len(consumed) == len(set(consumed))
        assert set(consumed) == {n for s in subgraphs for n in s.reads}
        for s in subgraphs:
            assert all(trace.crossings[n].last_reader in s.segments for n in s.consumed)


def test_a_subgraph_is_exact_when_all_its_segments_are() -> None:
    trace = Toy().trace
    segments = list(trace.segments)
    segments[2] = replace(segments[2], exact=False)
    subgraphs = cut(replace(trace, segments=tuple(segments)), 2)
    assert [s.exact for s in subgraphs] == [True, False, True]


def test_a_subgraph_of_many_targets_names_the_first_four() -> None:
    named = cut(Toy(order=(0,) * 6).trace, 6)[1].unit
    assert named == "model.layers.0, model.layers.1, model.layers.2, model.layers.3 and 2 more"


def test_a_value_of_the_batch_may_be_read_late() -> None:
    crossings = {0: Crossing(0, "late", 8, -1, 2)}
    segments = tuple(Segment(i, f"t{i}" if i else "", i, (), (0,) if i == 2 else (), ()) for i in range(3))
    head, middle, last = cut(ModelTrace(segments, crossings, 8, 8), 1)
    assert (head.consumed, middle.consumed, last.consumed) == ((), (), (0,))


def test_a_run_knows_the_targets_of_each_unit() -> None:
    run = Toy(kinds=(toys.Layer(), toys.Layer()), order=(0, 1, 0)).run(toys.gptq())
    assert [run.signature(f"model.layers.{i}") for i in range(4)] == [0, 1, 0, -1]
    targets = run.of("model.layers.2")
    assert targets is not None
    assert [m.name for m in targets.named()] == ["model.layers.2.up", "model.layers.2.down"]
    assert [m.copies for m in targets.named(copies=5)] == [5, 5]
