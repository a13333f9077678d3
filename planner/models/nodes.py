"""The traced graph: operations as nodes, and its partition at the sequential targets."""

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from planner.models.traces import Event


@dataclass(slots=True)
class GraphValue:
    """A tensor that a node produced: other nodes may read it, and it may cross a border."""

    storage: int
    """Id of the allocation behind it; -1 for a calibration input or a parameter."""
    bytes: int
    batched: bool


@dataclass(slots=True)
class GraphNode:
    """One operation of the traced graph."""

    index: int
    name: str
    target: bool = False
    reads: dict[int, None] = field(default_factory=dict)
    """Ids of the values that it reads."""
    waits: dict[int, None] = field(default_factory=dict)
    """Nodes that make the numbers which it is given."""
    values: list[int] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)


def as_graph(nodes: Sequence[GraphNode], producers: Mapping[int, int]) -> Any:
    """A networkx.DiGraph; an edge leads from a node to each node that reads its values or waits for it.

    `producers`: the node of each value.
    """
    import networkx  # costs 50 ms, and most plans need no cut

    graph: Any = networkx.DiGraph()
    for node in nodes:
        graph.add_node(node.index, name=node.name, target=node.target)
        graph.add_edges_from((producers[v], node.index) for v in node.reads)
        graph.add_edges_from((number, node.index) for number in node.waits)
    return graph


def partition(nodes: Sequence[GraphNode], producers: Mapping[int, int]) -> list[list[GraphNode]]:
    """helpers.py topological_partition with one target per part: breadth first, in program order."""
    graph = as_graph(nodes, producers)
    waiting = {index: graph.in_degree(index) for index in graph}
    queue = deque(index for index in sorted(graph) if not waiting[index])
    parts: list[list[GraphNode]] = [[]]
    while queue:
        node = nodes[queue.popleft()]
        if node.target and (len(parts) > 1 or parts[0]):
            parts.append([])
        parts[-1].append(node)
        for user in sorted(graph.successors(node.index)):
            waiting[user] -= 1
            if not waiting[user]:
                queue.append(user)
    return parts
