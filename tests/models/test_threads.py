"""Autograd's threads, one for each card: in which order nodes begin, and what that order takes."""

from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import torch

from planner.job import Job
from planner.models.autograd import TrainingRecorder, moved
from planner.models.load import graph_of, load_built
from planner.models.recorder import NoListener
from planner.models.threads import number_nodes, run_order
from planner.models.traces import Event
from planner.models.tuned import Spread, TunedBlock, TuningRequest, card_peaks, most_of_any_order
from planner.units import GIB
from tests.models.test_tuning import CONFIG, INT4, JOB, NAMES

SIDE_BY_SIDE = {**CONFIG, "model_type": "cohere2", "architectures": ["Cohere2ForCausalLM"], "layer_norm_eps": 1e-5}
"""Attention and MLP run on the same hidden states."""


@dataclass(eq=False)
class Node:
    """A node of autograd's graph, without what it computes."""

    number: int
    kind: str = "MulBackward0"
    after: list["Node"] = field(default_factory=list)

    def name(self) -> str:
        return self.kind

    def _sequence_nr(self) -> int:
        return self.number


def numbers(root: Node, cards: dict[Node, int], at_once: tuple[int, ...] = ()) -> list[int]:
    return [node.number for node in run_order(root, {node: node.after for node in cards}, cards, at_once)]


def branches(kind: str = "MulBackward0") -> tuple[Node, dict[Node, int]]:
    """A loss over two branches, whose later one, 8 to 6, is on card 1, and the earlier one, 5 to 3, on card 0."""
    there, here = ([Node(number, kind) for number in chain] for chain in ((8, 7, 6), (5, 4, 3)))
    for chain in (there, here):
        for one, other in pairwise(chain):
            one.after = [other]
    root = Node(9, kind, [there[0], here[0]])
    return root, {root: 0, **dict.fromkeys(there, 1), **dict.fromkeys(here, 0)}


def test_one_card_takes_the_latest_of_what_is_ready() -> None:
    root, cards = branches()
    assert numbers(root, dict.fromkeys(cards, 0)) == [9, 8, 7, 6, 5, 4, 3]


def test_two_cards_go_on_side_by_side() -> None:
    root, cards = branches()
    assert numbers(root, cards) == [9, 5, 8, 4, 7, 3, 6]


def test_a_thread_that_takes_no_time_is_done_before_the_other_goes_on() -> None:
    root, cards = branches()
    assert numbers(root, cards, (1,)) == [9, 5, 8, 7, 6, 4, 3]
    assert numbers(root, cards, (0,)) == [9, 5, 4, 3, 8, 7, 6]


def test_a_node_that_only_hands_on_takes_less_than_another() -> None:
    root, cards = branches()
    for node in cards:
        if cards[node]:
            node.kind = "ViewBackward0"
    assert numbers(root, cards) == [9, 5, 8, 7, 6, 4, 3]


def test_a_node_waits_for_all_that_it_is_handed() -> None:
    root, cards = branches()
    last = Node(1)
    for node in cards:
        if not node.after:
            node.after = [last]
    assert numbers(root, {**cards, last: 0})[-1] == 1


# ---------------------------------------------------------------------- in a real graph
def backward_of(at_once: tuple[int, ...] | None) -> list[int]:
    """Cards of what two branches take in backward, in order; None: as one thread runs them."""
    recorder = TrainingRecorder(0, NoListener())
    with recorder:
        recorder.begin()
        first = torch.empty(4, 4, device="meta", requires_grad=True)
        here = first * 2 * 2 * 2
        result = here + moved(moved(first, 1, recorder) * 2 * 2 * 2, 0, recorder)
        loss, given = result.sum(), torch.empty((), device="meta")
        if at_once is not None:
            number_nodes(loss, recorder.card_of, at_once)
        before = len(recorder.events)
        torch.autograd.backward(loss, given)
        return [event.card for event in recorder.events[before:] if event.kind == "alloc" and event.operator == "mul"]


def test_the_engine_runs_nodes_in_the_order_of_their_numbers() -> None:
    assert backward_of(None) == [1, 1, 1, 0, 0, 0]
    assert backward_of((0,)) == [0, 0, 0, 1, 1, 1]
    assert backward_of(()) not in (backward_of(None), backward_of((0,))), "in turn"


def test_a_parameters_gradient_is_taken_first_in_a_second_backward_too() -> None:
    """The node that takes it lives on with the first loss, and has a number from there."""
    weight, other = (torch.empty(4, device="meta", requires_grad=True) for _ in range(2))
    earlier = []
    for _ in range(2):
        loss = (weight * (other * 3)).sum()
        number_nodes(loss, lambda _tensor: 0)
        assert loss.grad_fn is not None
        (product, _), *_ = loss.grad_fn.next_functions
        assert product is not None
        (accumulated, _), (factor, _) = product.next_functions
        assert accumulated is not None and factor is not None
        assert "AccumulateGrad" in accumulated.name()
        assert accumulated._sequence_nr() > factor._sequence_nr()
        earlier.append((loss, accumulated))
    assert earlier[0][1] is earlier[1][1], "it is the same node"


# ---------------------------------------------------------------------- a whole layer
def spread(config: dict[str, Any], cards: int = 2) -> TunedBlock:
    built = load_built(config, JOB.build)
    graph = graph_of(built, Job(samples=10, seq_len=16))
    assert graph.tune is not None
    over = Spread(gpus=tuple(range(cards)), card_bytes=80 * GIB, samples=10, batch=8) if cards > 1 else None
    linears = tuple((name, INT4) for name in NAMES)
    return graph.tune(
        TuningRequest(layer="model.layers.1", linears=linears, rows=8, last_rows=2, trained=(8,), spread=over)
    )


def made(events: tuple[Event, ...]) -> list[tuple[str, int, int]]:
    """All but sums of gradients: which part came first says whether it is changed in place."""
    allocs = [event for event in events if event.kind == "alloc" and event.operator != "add"]
    return sorted((event.operator, event.bytes, event.card) for event in allocs)


def test_every_order_takes_the_same_tensors() -> None:
    block = spread(CONFIG)
    assert len(block.orders) == 2
    assert all(made(order) == made(block.iteration) for order in block.orders)


def test_one_card_has_one_order() -> None:
    block = spread(CONFIG, 1)
    assert not block.orders
    assert most_of_any_order(block) == card_peaks(block)


def test_branches_side_by_side_on_two_cards_race() -> None:
    block = spread(SIDE_BY_SIDE)
    usual, most = card_peaks(block), most_of_any_order(block)
    assert most.keys() == usual.keys() == {0, 1}
    assert all(most[card] >= usual[card] for card in usual)
    assert any(most[card] > usual[card] for card in usual)
