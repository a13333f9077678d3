"""In which order autograd's threads go through a backward: torch/csrc/autograd/engine.cpp has one for each card.

They run at the same time. Here one thread runs all, and of the nodes that are ready it takes the one with the highest
number (engine.h CompareNodeTaskTime), as each of those threads does with its own. So every node is numbered by the
moment at which its card's thread would begin it.
"""

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

HANDS_ON = frozenset(
    f"{name}Backward0"
    for name in (
        *("Add", "Alias", "AsStrided", "Cat", "Clone", "Expand", "Permute", "ReshapeAlias", "Squeeze", "Stack", "T"),
        *("Transpose", "UnsafeView", "Unsqueeze", "View"),
    )
)
"""Nodes that mostly hand on the gradient, or views of it."""

QUICK, SLOW = 1, 6
"""How long one of these takes, and any other. On PyTorch's CUDA build 9 to 30 microseconds, and 40 to 330: kernels are
only launched. Where threads come close to one another, the real order is another one from run to run."""

FIRST = 2**64 - 1
"""The number of every AccumulateGrad: torch/csrc/autograd/functions/accumulate_grad.cpp."""

Node = Any
"""torch.autograd.graph.Node, or AccumulateGrad, which has a variable besides."""


@dataclass(slots=True)
class _Thread:
    """Of one card."""

    takes_time: bool
    free_at: int = 0
    ready: list[tuple[int, int, Node]] = field(default_factory=list)
    """When it became ready, its number, and it."""

    @property
    def begins_at(self) -> int:
        """When it takes the next one."""
        return max(self.free_at, min(time for time, _, _ in self.ready))

    def take(self, now: int) -> Node:
        """The one with the highest number of those that are ready by now."""
        task = max((task for task in self.ready if task[0] <= now), key=lambda task: task[1])
        self.ready.remove(task)
        self.free_at = now + (duration(task[2]) if self.takes_time else 0)
        return task[2]


def duration(node: Node) -> int:
    """How long a thread is at it."""
    return QUICK if node.name() in HANDS_ON else SLOW


def _number(node: Node) -> int:
    """Its own, but of what was numbered here already: a parameter's AccumulateGrad may live on to the next backward."""
    return FIRST if hasattr(node, "variable") else int(node._sequence_nr())


def number_nodes(
    loss: torch.Tensor, card_of: Callable[[torch.Tensor], int], at_once: Collection[int] = frozenset()
) -> None:
    """Number the nodes behind a loss so that one thread runs them in the order in which the cards' threads begin them.

    `card_of`: the card on which a tensor lies. A node that copies to another card has that one as its `card`.
    `at_once`: cards whose threads take no time.
    """
    root: Node = loss.grad_fn
    edges = _edges(root)
    order = run_order(root, edges, _cards(root, edges, card_of), at_once)
    for number, node in enumerate(reversed(order)):
        node._set_sequence_nr(number)


def run_order(
    root: Node, edges: Mapping[Node, Sequence[Node]], cards: Mapping[Node, int], at_once: Collection[int] = frozenset()
) -> list[Node]:
    """All nodes by the moment at which they begin; of two that begin together, the lower card's first."""
    waits_for = Counter(after for afters in edges.values() for after in afters)
    threads = {card: _Thread(takes_time=card not in at_once) for card in sorted(set(cards.values()))}
    threads[cards[root]].ready.append((0, _number(root), root))
    order: list[Node] = []
    while busy := [thread for thread in threads.values() if thread.ready]:
        thread = min(busy, key=lambda thread: thread.begins_at)
        node = thread.take(thread.begins_at)
        order.append(node)
        for after in edges[node]:
            waits_for[after] -= 1
            if not waits_for[after]:
                threads[cards[after]].ready.append((thread.free_at, _number(after), after))
    return order


def _edges(root: Node) -> dict[Node, list[Node]]:
    """Whom each node hands a gradient, as often as it does."""
    edges: dict[Node, list[Node]] = {}
    waiting = [root]
    while waiting:
        node = waiting.pop()
        if node not in edges:
            edges[node] = [after for after, _ in node.next_functions if after is not None]
            waiting += edges[node]
    return edges


def _cards(root: Node, edges: dict[Node, list[Node]], card_of: Callable[[torch.Tensor], int]) -> dict[Node, int]:
    """The card of what each node made in forward, whose thread runs it: what it was made of lies there too."""
    cards: dict[Node, int] = {}
    for node in _inputs_first(root, edges):
        if hasattr(node, "variable"):
            cards[node] = card_of(node.variable)
        else:
            copied_to: int | None = getattr(node, "card", None)
            beside = max((cards[after] for after in edges[node]), default=0)
            cards[node] = beside if copied_to is None else copied_to
    return cards


def _inputs_first(root: Node, edges: dict[Node, list[Node]]) -> Iterable[Node]:
    """Every node behind all that it hands a gradient."""
    done: dict[Node, None] = {}
    waiting = [(root, False)]
    while waiting:
        node, is_left = waiting.pop()
        if is_left:
            done.setdefault(node)
        elif node not in done:
            waiting += [(node, True), *((after, False) for after in edges[node])]
    return done
