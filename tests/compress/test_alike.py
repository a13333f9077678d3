"""Equal blocks of events are folded, and a device that does some of them is where it would be after all of them."""

from collections.abc import Iterator

from hypothesis import given
from hypothesis import strategies as st

from planner.compress.alike import LEAST_BLOCKS, LEAST_EVENTS, Alike, folded, shape_of
from planner.compress.devices import Action, CardUse, card
from planner.cuda.settings import AllocatorSettings
from planner.timeline import MemoryEvent
from planner.units import KIB, MIB

SIZES = st.sampled_from([512, 700 * KIB, 3 * MIB, 11 * MIB, 40 * MIB])
SETTINGS = ["", "max_split_size_mb:64,garbage_collection_threshold:0.5", "expandable_segments:True"]


def stream(sizes: list[int], stay: list[bool], count: int) -> list[MemoryEvent]:
    """Blocks that take tensors of these sizes; those that stay are freed once the next block has taken its own."""
    return list(_stream(sizes, stay, count))


def _stream(sizes: list[int], stay: list[bool], count: int) -> Iterator[MemoryEvent]:
    handle, before = 0, dict[int, int]()
    yield from ((handle := handle + 1, size, 1) for size in (5 * MIB, 90 * MIB))
    for _ in range(count):
        mine = list(enumerate(sizes, handle + 1))
        handle += len(mine)
        yield from ((each, size, 1) for each, size in mine)
        yield from ((each, size, -1) for each, size in before.items())
        before = {each: size for (each, size), stays in zip(mine, stay, strict=False) if stays}
        yield from ((each, size, -1) for each, size in mine if each not in before)


def unfolded(actions: list[Action]) -> list[Action]:
    return [
        event
        for action in actions
        for event in (action.blocks(0, len(action)) if isinstance(action, Alike) else (action,))
    ]


@given(
    st.lists(SIZES, min_size=1, max_size=6),
    st.lists(st.booleans(), min_size=6, max_size=6),
    st.integers(0, 3),
    st.sampled_from(SETTINGS),
)
def test_a_device_that_does_folded_work_is_where_all_of_it_would_leave_it(
    sizes: list[int], stay: list[bool], more: int, text: str
) -> None:
    events = stream(sizes, stay, count=LEAST_EVENTS // 2 + more)
    short: list[Action] = folded(events, since=0)
    assert shape_of(unfolded(short), since=-len(events)) == shape_of(events, since=0)
    assert any(isinstance(action, Alike) for action in short)
    settings = AllocatorSettings.parse(text)
    devices, helds = [card(1000 * MIB, 0, settings, is_strict=True) for _ in range(2)], list[CardUse]()
    for device, actions in zip(devices, (events, short), strict=True):
        device.do([*actions, None], helds)
    born = {handle for handle, _, tensors in events if tensors > 0}
    live = sorted(born - {handle for handle, _, tensors in events if tensors < 0})
    assert devices[0].layout(live) == devices[1].layout(live)
    assert devices[0].claims == devices[1].claims
    assert helds[0] == helds[1]


def test_few_blocks_are_left_as_they_are() -> None:
    different = [(handle, handle * 512, tensors) for handle in range(1, LEAST_EVENTS) for tensors in (1, -1)]
    few = [(10_000 + each, 512, tensors) for each in range(LEAST_BLOCKS - 1) for tensors in (1, -1)]
    assert folded([*different, *few], since=0) == [*different, *few]


def test_the_tensors_of_a_holding_that_grows_are_not_told_apart() -> None:
    events = [(1, 512, tensors) for _ in range(LEAST_EVENTS) for tensors in (1, -1)]
    assert folded(events, since=2) == events
