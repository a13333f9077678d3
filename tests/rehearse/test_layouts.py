"""Plays that begin where the rehearsal wrote down how its card looked do as those that begin at the beginning."""

import random
from collections.abc import Sequence
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from planner.compress.schema import Plan
from planner.cuda.allocator import OFFSETS, PLACE, PLACES, CachingAllocator, is_of_large_pool
from planner.cuda.allocator import Block as TensorBlock
from planner.cuda.settings import DEFAULT, AllocatorSettings
from planner.job import Job
from planner.rehearse import run, tape
from planner.rehearse.actions import Action
from planner.rehearse.job import rehearse_job
from planner.rehearse.layouts import HAS_TENSOR, IS_ACTIVE, IS_LARGE, recorded_layouts
from planner.rehearse.report import Rehearsed, report
from planner.rehearse.run import ScriptWish
from planner.rehearse.tape import RecordedTape, Replay
from planner.rehearse.trace import ALLOC, BLOCK, FREED, LAYOUT, MARK, RECORD, SEGMENT, SEGMENT_FREE, Trace
from planner.units import KIB, MIB
from tests.rehearse.cuda_build import MARKS, PYTHON


def with_cuda_build(test: Any) -> Any:
    """Skipped without one."""
    for mark in MARKS:
        test = mark(test)
    return test


STEPS = 12
FIRST_ADDRESS = 1 << 40
Row = tuple[int, int, int, int, int, int]


class WholeCard:
    """A card with room for all, and the trace of what it does, as the books write it."""

    def __init__(self) -> None:
        self.card = CachingAllocator()
        self.rows: list[Row] = []
        self.layout: list[Row] = []
        self.live: list[TensorBlock] = []
        self.starts: dict[int, int] = {}
        """Address of each segment: none of them in the order of birth."""

    def address(self, place: int) -> int:
        return self.starts[place >> OFFSETS] + (place & (1 << OFFSETS) - 1)

    def alloc(self, nbytes: int, stream: int = 0) -> None:
        before = len(self.card.segments)
        block = self.card.malloc(nbytes, stream)
        for size in self.card.segments[before:]:
            self.rows += self.layout
            self.layout = []
            number = len(self.starts) + 1
            self.starts[number] = FIRST_ADDRESS + (number * 7919 % 101 << 30)
            self.rows.append((SEGMENT, 0, stream, 0, size, self.starts[number]))
        self.live.append(block)
        self.rows.append((ALLOC, 0, stream, 0, nbytes, self.address(block[1])))

    def free(self, number: int) -> None:
        block = self.live.pop(number)
        self.card.free(block)
        self.rows.append((FREED, 0, 0, 0, block[0], self.address(block[1])))

    def mark(self, step: int) -> None:
        self.rows.append((MARK, 0, 0, step, 0, 0))
        self.layout = [(LAYOUT, 0, 0, step, 0, 0)]
        _, free, (live,), _ = self.card.layout([self.live])
        blocks = [(place, size, pool, HAS_TENSOR | IS_ACTIVE) for _, place, size, pool in live]
        blocks += [(key & PLACE, key >> PLACES, pool, 0) for pool, keys in free for key in keys]
        for place, size, pool, state in blocks:
            state |= IS_LARGE * is_of_large_pool(pool)
            self.layout.append((BLOCK, 0, pool // 2, state, size, self.address(place)))

    def trace(self, *, with_layouts: bool = True) -> Trace:
        rows = [row for row in self.rows if with_layouts or row[0] not in (LAYOUT, BLOCK)]
        return Trace(np.array(rows, dtype=RECORD), {}, "job.py")


def job(seed: int) -> WholeCard:
    """Asks for more, and less again, step by step, in both pools and on two streams; most at the end."""
    chance, whole = random.Random(seed), WholeCard()  # noqa: S311  (jobs, no secrets)
    for step in range(STEPS):
        for _ in range(60):
            if whole.live and chance.random() < 0.5 - step / 50:
                whole.free(chance.randrange(len(whole.live)))
            else:
                nbytes = chance.choice((chance.randint(1, 900 * KIB), chance.randint(MIB, (4 + 2 * step) * MIB)))
                whole.alloc(nbytes, chance.choice((0, 0, 0, 1)))
        whole.mark(step)
    return whole


@pytest.fixture
def done(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many actions each part took that was done."""
    own, found = tape._Player._do, list[int]()

    def counted(player: tape._Player, actions: Sequence[Action], shift: int) -> None:
        found.append(len(actions))
        own(player, actions, shift)

    monkeypatch.setattr(tape._Player, "_do", counted)
    return found


def figures(replay: Replay) -> tuple[object, ...]:
    """All but the cards of which it is true: a play that begins later knows of no more."""
    return replay.reserved, replay.retries, replay.ran_out


@pytest.mark.parametrize("seed", range(6))
def test_a_play_on_any_card_is_what_it_is_from_the_beginning(seed: int, done: list[int]) -> None:
    whole = job(seed)
    known, plain = RecordedTape(whole.trace()), RecordedTape(whole.trace(with_layouts=False))
    most = whole.card.use.reserved
    assert len(known._recorded) > STEPS // 2
    for total in (most, most - MIB, most * 7 // 8, most // 2, most // 8):
        assert figures(known.play(total, 0, DEFAULT)) == figures(plain.play(total, 0, DEFAULT))
    assert known.smallest(most, most // 2, 0, DEFAULT) == plain.smallest(most, most // 2, 0, DEFAULT)


def test_a_play_begins_with_the_last_layout_that_fits_on_the_card(done: list[int]) -> None:
    whole = job(1)
    known, plain = RecordedTape(whole.trace()), RecordedTape(whole.trace(with_layouts=False))
    most = whole.card.use.reserved
    plain.play(most, 0, DEFAULT)
    from_beginning = sum(done)
    done.clear()
    known.play(most, 0, DEFAULT)
    assert sum(done) < from_beginning / 4
    assert known.parts[0].listed.cache_info().currsize == 0  # type: ignore[attr-defined]  # functools.cache made it


def compared(trace: Trace) -> int:
    """Compare each recorded layout with that of a play from the beginning; how many there were."""
    recorded = {each.step: each for each in recorded_layouts(trace, 0)}
    player, step = tape._Player(CachingAllocator()), count()
    for part in RecordedTape(trace).parts:
        player.play(part)
        found = recorded.get(next(step)) if part.ends_step else None
        if found is not None:
            blocks = [player.blocks[number] for number in sorted(player.blocks)]
            assert player.card.layout([blocks]) == found.layout
            assert tuple(sorted(player.blocks)) == found.numbers
            assert tuple(player.reserved) == found.reserved
    return len(recorded)


def test_what_is_recorded_is_what_a_play_comes_to() -> None:
    assert compared(job(2).trace()) > STEPS // 2


@with_cuda_build
@pytest.mark.parametrize(
    ("model", "recipe", "options"),
    [
        ("llama-3-8b", "awq_w4a16", {"layers": 3, "samples": 20, "seq_len": 512}),
        ("qwen3-30b-a3b", "rtn_nvfp4", {"layers": 2, "samples": 12}),
    ],
)
def test_pytorch_s_own_allocator_lays_blocks_as_a_play_does(
    model: str, recipe: str, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[int] = []

    def report_too(done: Rehearsed) -> Plan:
        found.append(compared(Trace.read(done.folder / "trace.bin", {}, done.script)))
        return report(done)

    monkeypatch.setattr(run, "report", report_too)
    asked = ScriptWish(script=Path(), arguments=(), job=Job(**options), python=PYTHON, quiet=True)
    rehearse_job(asked, model, recipe, lambda _text: None)
    assert found[0] > 1


def test_other_settings_than_pytorch_s_own_play_all(done: list[int]) -> None:
    whole = job(3)
    known = RecordedTape(whole.trace())
    known.play(whole.card.use.reserved, 0, AllocatorSettings(large_segment_size=32 * MIB))
    assert sum(done) == sum(len(part.actions) for part in known.parts)


def test_nobody_begins_behind_a_segment_that_was_given_back_or_where_a_block_waits_for_a_stream() -> None:
    whole = job(4)
    records = whole.trace().records
    steps = [each.step for each in recorded_layouts(Trace(records, {}, "job.py"), 0)]
    middle = int(np.flatnonzero((records["action"] == MARK) & (records["number"] == steps[3]))[0])
    given_back = np.insert(records, middle, np.array([(SEGMENT_FREE, 0, 0, 0, MIB, 0)], dtype=RECORD))
    assert [each.step for each in recorded_layouts(Trace(given_back, {}, "job.py"), 0)] == steps[:3]
    waiting = records.copy()
    (rows,) = np.nonzero((waiting["action"] == BLOCK) & (waiting["number"] & HAS_TENSOR == 0))
    waiting["number"][rows] |= IS_ACTIVE
    assert not list(recorded_layouts(Trace(waiting, {}, "job.py"), 0))


def test_each_card_has_layouts_of_its_own() -> None:
    records = job(5).trace().records
    both = Trace(records, {}, "job.py")
    records["device"][records["action"] != MARK] = 1
    assert {each.layout for each in recorded_layouts(both, 0)} == {((), (), ((),), ())}
    segments = [len(each.layout[0]) for each in recorded_layouts(both, 1)]
    assert segments == sorted(segments)
    assert segments[-1] > 0
