"""Where all blocks of a card lay when a step ended, as PyTorch's own allocator said: driver/layouts.h.

Up to there every card on which all segments that had been taken by then find room does the same. So a play of the
tape on a smaller card (tape.py) begins there, instead of doing all that came before.
"""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from planner.cuda.allocator import OFFSETS, PLACES, Block, Layout
from planner.rehearse.trace import BLOCK, LAYOUT, MARK, SEGMENT, SEGMENT_FREE, Array, Trace

HAS_TENSOR, IS_ACTIVE, IS_LARGE = 1, 2, 4
"""Of a row's number. A block without a tensor that is active waits for another stream."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedLayout:
    """A card when a step ended."""

    step: int
    layout: Layout
    """Its one group has the live blocks."""
    numbers: tuple[int, ...]
    """Of their tensors, in their order there: by birth."""
    reserved: tuple[int, ...]
    """Bytes of segments when each step up to this one ended; no segment was given back before."""


def recorded_layouts(trace: Trace, device: int) -> Iterator[RecordedLayout]:
    """Those that are wholly known, and that were reached without giving anything back to the driver."""
    records = trace.records
    action, here = records["action"], records["device"] == device
    marks = np.flatnonzero(action == MARK)
    segments = np.flatnonzero((action == SEGMENT) & here)
    given_back = np.flatnonzero((action == SEGMENT_FREE) & here)
    rows = np.flatnonzero((action == BLOCK) & here)
    headers = [*np.flatnonzero(action == LAYOUT).tolist(), len(records)]
    for header, following in itertools.pairwise(headers):
        step = int(records["number"][header])
        mark = int(marks[step])
        if len(given_back) and given_back[0] < mark:
            return
        low, high = np.searchsorted(rows, [header, following])
        taken = segments[: np.searchsorted(segments, mark)]
        found = _layout(records[taken], records[rows[low:high]], _alive(trace, device, mark))
        if found is not None:
            sums = np.cumsum(records["bytes"][segments].astype(np.int64))
            so_far = np.searchsorted(segments, marks[: step + 1])
            reserved = tuple(int(sums[count - 1]) if count else 0 for count in so_far.tolist())
            yield RecordedLayout(step=step, layout=found[0], numbers=found[1], reserved=reserved)


def _alive(trace: Trace, device: int, mark: int) -> tuple[Array, Array]:
    """Numbers of the tensors that are alive there, and their records."""
    born, gone = trace.births(device)
    count = int(np.searchsorted(born, mark))
    numbers = np.flatnonzero(gone[:count] > mark)
    return numbers, trace.records[born[numbers]]


def _layout(segments: Array, blocks: Array, alive: tuple[Array, Array]) -> tuple[Layout, tuple[int, ...]] | None:
    """As planner/cuda/allocator.py says it; None where these do not fit together."""
    if len(segments) >= 1 << (63 - OFFSETS):
        return None
    by_address = np.argsort(segments["address"])
    starts = segments["address"][by_address]
    at = np.searchsorted(starts, blocks["address"], side="right") - 1
    if (at < 0).any() or int(blocks["bytes"].sum()) != int(segments["bytes"].sum()):
        return None
    places = (by_address[at].astype(np.int64) + 1 << OFFSETS) + (blocks["address"] - starts[at]).astype(np.int64)
    state = blocks["number"]
    pools = 2 * blocks["stream"].astype(np.int64) + (state & IS_LARGE == 0)
    has_tensor = state & HAS_TENSOR > 0
    numbers, tensors = alive
    order = np.argsort(blocks["address"][has_tensor])
    found = np.searchsorted(blocks["address"][has_tensor][order], tensors["address"])
    if len(order) != len(tensors) or ((state & IS_ACTIVE > 0) != has_tensor).any():
        return None
    mine = np.flatnonzero(has_tensor)[order][found] if len(order) else np.empty(0, np.int64)
    if (blocks["address"][mine] != tensors["address"]).any():
        return None
    columns = (tensors["bytes"], places[mine], blocks["bytes"][mine], pools[mine])
    live: tuple[Block, ...] = tuple(zip(*(each.tolist() for each in columns), strict=True))
    layout = tuple(segments["bytes"].tolist()), _free(places, blocks["bytes"], pools, ~has_tensor), (live,), ()
    return layout, tuple(numbers.tolist())


def _free(places: Array, sizes: Array, pools: Array, is_free: Array) -> tuple[tuple[int, tuple[int, ...]], ...]:
    """The keys of each pool's free blocks."""
    keys: dict[int, list[int]] = {}
    columns = (places[is_free], sizes[is_free], pools[is_free])
    for place, size, pool in zip(*(each.tolist() for each in columns), strict=True):
        keys.setdefault(pool, []).append(size << PLACES | place)
    return tuple((pool, tuple(sorted(keys[pool]))) for pool in sorted(keys))
