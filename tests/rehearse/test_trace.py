from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from planner.cuda.settings import DEFAULT
from planner.rehearse import actions, tape
from planner.rehearse.events import CodeFrame
from planner.rehearse.tape import RecordedTape
from planner.rehearse.trace import (
    AGAIN,
    ALLOC,
    BATCH,
    CPU_ALLOC,
    CPU_FREE,
    FREED,
    MARK,
    ORIGIN,
    OUT_OF_MEMORY,
    RECORD,
    ROUNDS_END,
    Trace,
)
from planner.units import GIB, MIB

SCRIPT = "/home/somebody/job.py"
FORWARD = (CodeFrame("/lib/transformers/models/x/modeling_x.py", "forward", 7), CodeFrame(SCRIPT, "<module>", 3))
HESSIAN = (CodeFrame("/lib/llmcompressor/modifiers/gptq/h.py", "make_empty_hessian", 9), CodeFrame(SCRIPT, "main", 4))
Event = tuple[int, int, int, int, int, int]


class Writer:
    """Writes a trace as the books do."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.serial = 0
        self.live: dict[int, tuple[int, int]] = {}

    def alloc(self, name: int, nbytes: int, origin: int = 0, *, cpu: bool = False, device: int = 0) -> None:
        self.serial += 1
        address = 4096 * (1 + name)
        self.live[name] = nbytes, address
        self.events.append((CPU_ALLOC if cpu else ALLOC, device, 0, self.serial, nbytes, address))
        if origin:
            self.events.append((ORIGIN, 0, 0, self.serial, origin, 0))

    def free(self, name: int, *, cpu: bool = False) -> None:
        nbytes, address = self.live.pop(name)
        self.events.append((CPU_FREE if cpu else FREED, 0, 0, 0, nbytes, address))

    def mark(self, action: int = MARK, *, nbytes: int = 0, address: int = 0, device: int = 0) -> None:
        self.events.append((action, device, 0, 0, nbytes, address))

    def again(self, batches: int, times: int) -> None:
        self.events.append((AGAIN, 0, 0, times, batches, 0))

    def trace(self) -> Trace:
        return Trace(np.array(self.events, dtype=RECORD), {1: FORWARD, 2: HESSIAN}, SCRIPT)


def test_a_step_shows_what_was_alive_at_its_highest_moment() -> None:
    writer = Writer()
    writer.alloc(1, 100, origin=2)
    writer.alloc(2, 500, origin=1)
    writer.free(2)
    writer.alloc(3, 50)
    writer.mark()
    writer.alloc(4, 10)
    writer.mark()
    first, second = writer.trace().at_peaks(0)
    assert first.bytes == 600
    assert first.by_kind == {"forward": 500, "hessian": 100}
    assert first.largest[0].name == "modeling_x.py:7 forward"
    assert first.largest[0].role == "from job.py:3"
    assert (second.bytes, second.by_kind) == (160, {"hessian": 100, "other": 60})


def test_an_address_that_is_used_again_is_another_tensor() -> None:
    writer = Writer()
    writer.alloc(1, 100)
    writer.free(1)
    writer.alloc(1, 300, origin=1)
    writer.mark()
    assert writer.trace().at_peaks(0)[0].by_kind == {"forward": 300}


def test_cpu_tensors_are_no_card_s() -> None:
    writer = Writer()
    writer.alloc(1, 700, origin=1, cpu=True)
    writer.alloc(2, 30)
    writer.free(1, cpu=True)
    writer.mark()
    trace = writer.trace()
    assert trace.at_peaks(None)[0].bytes == 700
    assert trace.at_peaks(0)[0].bytes == 30
    assert trace.at_peaks(1)[0].bytes == 0


def test_what_held_the_card_is_told_where_memory_ran_out() -> None:
    writer = Writer()
    writer.alloc(1, 100, origin=2)
    writer.mark(OUT_OF_MEMORY, nbytes=900, address=40)
    writer.free(1)
    writer.mark()
    trace = writer.trace()
    assert trace.ran_out(0) == (900, 40)
    assert trace.ran_out(1) is None
    assert trace.at_end(0).bytes == 100


def test_a_file_that_was_cut_off_is_read_to_its_last_whole_record(tmp_path: Path) -> None:
    writer = Writer()
    writer.alloc(1, 100)
    writer.mark()
    path = tmp_path / "trace.bin"
    path.write_bytes(writer.trace().records.tobytes()[:-5])
    assert len(Trace.read(path, {}, SCRIPT).records) == 1
    assert len(Trace.read(tmp_path / "nowhere.bin", {}, SCRIPT).records) == 0


def passes(batches: int, *, grows: bool = False, pairs: bool = False, passed: range = range(0)) -> Writer:
    """A step of equal batches: each keeps a result until the next one has made its own. In pairs: every second one
    gives back what it takes in another order. Those that are `passed` were not run."""
    writer = Writer()
    writer.alloc(0, 30 * MIB)
    for batch in range(batches):
        if batch in passed:
            continue
        writer.mark(BATCH)
        if passed and batch == passed.stop:
            writer.again(2, len(passed) // 2)
        writer.alloc(10, 40 * MIB)
        writer.alloc(11, 25 * MIB)
        if pairs and batch % 2:
            writer.alloc(12, 8 * MIB)
            writer.free(12)
        writer.free(10)
        if batch and not grows:
            writer.free(20 + (batch - 1) % 2)
        name = 100 + batch if grows else 20 + batch % 2
        writer.alloc(name, 12 * MIB)
        writer.free(11)
    writer.mark()
    writer.free(0)
    writer.alloc(5, 64 * MIB)
    writer.mark()
    return writer


def length(tape: RecordedTape) -> int:
    return sum(len(part.actions) for part in tape.parts)


@pytest.mark.parametrize("pairs", [False, True])
def test_equal_batches_are_on_the_tape_a_few_times(pairs: bool) -> None:
    few, many = (RecordedTape(passes(count, pairs=pairs).trace()) for count in (10, 200))
    assert length(many) == length(few) < len(passes(200).events) / 10


@pytest.mark.parametrize("pairs", [False, True])
def test_passing_over_batches_changes_nothing_on_any_card(pairs: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    trace = passes(60, pairs=pairs).trace()
    short = RecordedTape(trace)
    monkeypatch.setattr(actions, "PERIODS", ())
    long = RecordedTape(trace)
    assert length(short) < length(long) / 3
    for total in (None, GIB, *range(160 * MIB, 60 * MIB, -4 * MIB)):
        assert short.play(total, 0, DEFAULT) == long.play(total, 0, DEFAULT)


@pytest.mark.parametrize("pairs", [False, True])
@pytest.mark.parametrize("passed", [range(8, 50), range(12, 40), range(6, 58)])
def test_batches_that_were_not_run_are_played(pairs: bool, passed: range) -> None:
    whole = RecordedTape(passes(60, pairs=pairs).trace())
    short = RecordedTape(passes(60, pairs=pairs, passed=passed).trace())
    for total in (None, GIB, *range(160 * MIB, 60 * MIB, -4 * MIB)):
        assert short.play(total, 0, DEFAULT) == whole.play(total, 0, DEFAULT)


def test_batches_that_were_not_run_are_no_higher_than_those_that_were() -> None:
    whole, short = passes(60).trace(), passes(60, passed=range(8, 50)).trace()
    assert short.at_peaks(0) == whole.at_peaks(0)
    assert short.at_end(0) == whole.at_end(0)


def test_what_follows_a_loop_is_none_of_its_batches() -> None:
    writer = passes(20)
    writer.mark(ROUNDS_END)
    for name in range(30, 40):
        writer.alloc(name, 64 * MIB)
    writer.mark()
    assert RecordedTape(writer.trace()).play(None, 0, DEFAULT).reserved[-1] >= 640 * MIB


def generating(tokens: int, experts: int, *, counted: bool) -> Writer:
    """A step that runs all experts for each token: those that are `counted` were not written."""
    writer = Writer()
    for token in range(tokens):
        writer.alloc(1, 3 * MIB + token * MIB)
        written = range(min(experts, 3)) if counted else range(experts)
        for _ in written:
            writer.mark(BATCH)
            writer.alloc(10, 8 * MIB)
            writer.alloc(11, 5 * MIB)
            writer.free(10)
            writer.free(11)
        if counted and experts > 3:
            writer.mark(BATCH)
            writer.again(1, experts - 3)
        writer.mark(ROUNDS_END)
        writer.alloc(12, 30 * MIB)
        writer.free(12)
        writer.free(1)
    writer.mark()
    return writer


@pytest.mark.parametrize("experts", [3, 4, 60])
def test_rounds_that_were_counted_are_played_before_what_follows_them(experts: int) -> None:
    whole, short = (RecordedTape(generating(6, experts, counted=counted).trace()) for counted in (False, True))
    for total in (None, GIB, *range(80 * MIB, 30 * MIB, -2 * MIB)):
        assert short.play(total, 0, DEFAULT) == whole.play(total, 0, DEFAULT)


def changing_places(batches: int) -> Writer:
    """A step of equal batches whose result takes the place of the last one but one."""
    writer = Writer()
    for batch in range(batches):
        writer.mark(BATCH)
        writer.alloc(20 + batch % 2, 12 * MIB)
        writer.alloc(10, 40 * MIB)
        writer.free(10)
        if batch:
            writer.free(20 + (batch - 1) % 2)
    writer.mark()
    writer.alloc(5, 14 * MIB)
    writer.free(20 + (batches - 1) % 2)
    writer.alloc(6, 12 * MIB)
    writer.mark()
    return writer


@pytest.mark.parametrize("batches", [200, 201])
def test_batches_whose_results_change_places_are_passed_over_in_whole_rounds(
    batches: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    played = RecordedTape(changing_places(batches).trace())
    done: list[int] = []
    own = tape._Player._do

    def counted(player: tape._Player, events: Sequence[actions.Action], shift: int) -> None:
        done.append(shift)
        own(player, events, shift)

    monkeypatch.setattr(tape._Player, "_do", counted)
    short = [played.play(total, 0, DEFAULT) for total in (None, 100 * MIB, 64 * MIB, 40 * MIB)]
    few = len(done)
    monkeypatch.setattr(tape, "CYCLE", 0)
    assert short == [played.play(total, 0, DEFAULT) for total in (None, 100 * MIB, 64 * MIB, 40 * MIB)]
    assert few < 40 < 200 < len(done) - few


def test_batches_that_leave_something_behind_stay_on_the_tape() -> None:
    played = RecordedTape(passes(30, grows=True).trace())
    assert played.play(None, 0, DEFAULT).reserved[0] >= 30 * 12 * MIB


def test_the_smallest_card_is_one_on_which_the_tape_gets_through() -> None:
    played = RecordedTape(passes(12).trace())
    reserved = max(played.play(None, 0, DEFAULT).reserved)
    smallest = played.smallest(reserved, 0, 0, DEFAULT)
    assert played.play(smallest, 0, DEFAULT).ran_out is None
    assert played.play(smallest * 9 // 10, 0, DEFAULT).ran_out is not None


def test_a_play_that_begins_where_an_earlier_one_was_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    writer = passes(12)
    for step in range(40):
        writer.alloc(50, (20 + step) * MIB)
        writer.mark()
        writer.free(50)
    trace = writer.trace()
    sizes = [*range(200 * MIB, 60 * MIB, -7 * MIB), *range(63 * MIB, 190 * MIB, 9 * MIB)]
    played = RecordedTape(trace)
    begun: list[int] = []
    own = tape._Player.stand_at
    monkeypatch.setattr(tape._Player, "stand_at", lambda player, moment: begun.append(own(player, moment)) or begun[-1])
    again = [played.play(total, 0, DEFAULT) for total in sizes]
    assert len(begun) > len(sizes) / 2
    assert max(begun) > 30
    assert again == [RecordedTape(trace).play(total, 0, DEFAULT) for total in sizes]


def test_the_workspace_that_cublas_keeps_is_named_as_in_a_plan() -> None:
    writer = Writer()
    writer.alloc(1, 33_554_432, origin=1)
    writer.free(1)
    writer.alloc(2, 33_554_432, origin=1)
    writer.alloc(3, 33_554_432, origin=1)
    writer.mark()
    (held,) = writer.trace().at_peaks(0)
    assert held.by_kind == {"cuda_workspace": 33_554_432, "forward": 33_554_432}
    assert "workspace of cuBLAS" in [each.name for each in held.largest]
