"""The benchmarks are run by hand; here only what would make their page wrong."""

import sys

from tests.benchmarks.cases import MIB, PairCase, Results, WhatIfs, imported_by_help
from tests.benchmarks.measure import Pair, Spread, Usage, run_process, take_turns
from tests.benchmarks.page import render

IDLE = (sys.executable, "-c", "")


def usage(seconds: float, rss: int = 100 * MIB) -> Usage:
    return Usage(seconds=seconds, cpu_seconds=seconds, rss_bytes=rss)


def results(pair: Pair, max_time: float) -> Results:
    case = PairCase(subject="ours", baseline="theirs", commands=(IDLE, IDLE), rounds=1, max_time=max_time)
    return Results(
        pairs=((case, pair),),
        imported_by_help=(),
        whole_size={"gptq": usage(1.0, 2049 * MIB)},
        phases={"toy": {"import": 0.5, "plan": 0.25}},
        simulations={("toy", "simulate"): Spread.of([0.01, 0.02, 0.04])},
        allocator={"a stream": Spread.of([1e-6, 2e-6, 4e-6])},
        what_ifs=WhatIfs(strategies=12, first=3.0, what_ifs=1008, seconds=6.0),
    )


def test_help_imports_nothing_heavy() -> None:
    assert imported_by_help() == ()


def test_memory_is_that_of_the_process() -> None:
    child = run_process((sys.executable, "-c", f"held = b'x' * {2**28}"))
    assert child.rss_bytes > 2**28
    assert child.seconds > 0


def test_commands_take_turns() -> None:
    pair = take_turns(IDLE, IDLE, 2)
    assert len(pair.subject) == len(pair.baseline) == 2


def test_a_ratio_is_that_of_neighbours() -> None:
    pair = Pair(subject=[usage(2.0), usage(9.0)], baseline=[usage(1.0), usage(3.0)])
    assert pair.ratio(lambda one: one.seconds) == Spread(low=2.0, middle=2.5, high=3.0)


def test_the_page_admits_what_is_missed() -> None:
    pair = Pair(subject=[usage(3.0)], baseline=[usage(1.0)])
    missed = render(results(pair, max_time=2.0))
    assert "| ours | theirs | time | 2 | 3.00 | 3.00 | 3.00 | **missed** |" in missed
    assert "| gptq | 1.00 | 2049 | 2048 | **missed** |" in missed
    assert "| ours | theirs | time | 4 | 3.00 | 3.00 | 3.00 | met |" in render(results(pair, max_time=4.0))


def test_the_allocator_s_time_is_shown_in_microseconds() -> None:
    page = render(results(Pair(subject=[usage(1.0)], baseline=[usage(1.0)]), max_time=2.0))
    assert "| a stream | 3 | 1.00 | 2.00 | 4.00 | met |" in page


def test_what_ifs_stand_beside_their_goal() -> None:
    page = render(results(Pair(subject=[usage(1.0)], baseline=[usage(1.0)]), max_time=2.0))
    assert "| 1,008 what-ifs | 5 s | 6.00 s | **missed** |" in page


def test_the_parts_of_a_plan_are_summed() -> None:
    page = render(results(Pair(subject=[usage(1.0)], baseline=[usage(1.0)]), max_time=2.0))
    assert "| together | 750 |" in page
