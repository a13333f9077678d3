"""Work that is done again on a device: a card is brought to where other work of the same kind left it."""

from dataclasses import replace
from typing import Any

import pytest

from planner.compress.context import EVERYTHING, PLACED
from planner.compress.devices import DiffersError, OnStream, Question, Script, card
from planner.compress.fit import Rehearsal
from planner.compress.tape import Outcomes, Repeated
from planner.units import GIB, MIB
from tests import toys
from tests.toys import Layer, Toy

SUMS, WEIGHT = 1, 2


def test_a_holding_of_which_the_last_is_taken_plays_its_part_to_the_end() -> None:
    device = card(GIB, 0)
    device.do([(SUMS, 8 * MIB, 2), (WEIGHT, 32 * MIB, 1)], helds=[])
    take = Script(actions=((SUMS, 8 * MIB, -1), None), begin=(SUMS, WEIGHT), end=(SUMS, WEIGHT))
    outcomes = Outcomes(take)
    for left in (1, 0):
        after, _ = outcomes.of(device, (SUMS, WEIGHT), settled=None)
        device.restore(after, (SUMS, WEIGHT))
        assert device.allocator.use.allocated == (32 + 8 * left) * MIB
    device.do([(WEIGHT, 32 * MIB, -1)], helds=[])
    assert device.allocator.use.allocated == 0


def test_a_script_that_was_broken_off_leaves_nothing_in_what_the_next_step_counts() -> None:
    device = card(GIB, 0)
    differs = Script(actions=(Question(nbytes=MIB, percent=50, wanted=4, answer=3),), begin=(), end=())
    with pytest.raises(DiffersError):
        Outcomes(differs).of(device, (), settled=None)
    assert device.close_step().asked == 0


def test_streams_go_round_about_and_the_first_one_stays() -> None:
    assert [OnStream(stream).later(3) for stream in (0, 1, 29, 30, 32)] == [0, 4, 32, 1, 3]


def figures(rehearsal: Rehearsal) -> list[object]:
    steps = rehearsal.roomy.steps
    return [(s.phase, s.unit, s.gpu.bytes, s.gpu.end, s.gpu.by_kind, s.gpu.held, s.cpu) for s in steps]


@pytest.mark.parametrize(
    "options",
    [
        {"offload_device": "gpu"},
        {"prefetch": True},
        {"prefetch": True, "offload_device": "gpu", "weights": "gpu"},
        {"prefetch": True, "propagate_error": False, "progress_bars": True},
    ],
    ids=str,
)
def test_layers_are_done_again_on_the_card_where_their_batches_come_by_streams_or_stay_there(
    options: dict[str, Any],
) -> None:
    job = toys.job(samples=5, **options)
    program = Toy(kinds=(Layer(),), order=(0,) * 20).program(toys.gptq())
    exact = Rehearsal(program, job, shortcuts=replace(PLACED, settled=None))
    walked = Rehearsal(program, job, shortcuts=EVERYTHING)
    assert any(isinstance(part, Repeated) for part in exact._ledger.tape("gpu"))
    assert figures(exact) == figures(walked)
