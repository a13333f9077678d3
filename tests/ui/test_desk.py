"""The desk with a process of its own, whose answers are scripted: nothing is planned here, and no torch is needed."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from planner.errors import UiError
from planner.ui.desk import MOST_WAITING, Desk
from tests.ui.fakes import OTHER, question, scripted

Lines = list[dict[str, Any]]


def at_desk(do: Callable[[Desk], Awaitable[None]], **settings: float) -> None:
    """Run a test with an open desk."""

    async def inside() -> None:
        desk = Desk(scripted, **settings)
        desk.open()
        try:
            await asyncio.wait_for(do(desk), 60)
        finally:
            desk.close()

    asyncio.run(inside())


async def all_of(desk: Desk, model: str, client: str = "page-1") -> Lines:
    return [json.loads(each) async for each in desk.answers(question(model, client))]


async def started(desk: Desk, model: str, client: str = "page-1", *, until: str = "at work") -> "asyncio.Task[Lines]":
    """The question, once the process is at work on it, or has sent a line of a kind."""
    at_work = asyncio.Event()

    async def listen() -> Lines:
        lines: Lines = []
        try:
            async for each in desk.answers(question(model, client)):
                lines.append(json.loads(each))
                if until in (lines[-1].get("text", "")[: len(until)], lines[-1]["kind"]):
                    at_work.set()
        finally:
            at_work.set()
        return lines

    task = asyncio.create_task(listen())
    await at_work.wait()
    return task


def kinds(lines: Lines) -> list[str]:
    return [each["kind"] for each in lines if each["kind"] != "progress"]


def test_the_newest_question_of_a_page_wins_and_the_same_process_goes_on() -> None:
    async def do(desk: Desk) -> None:
        (first,) = [each for each in await all_of(desk, "quick") if each["kind"] == "done"]
        slow = await started(desk, "slow")
        newest = await all_of(desk, "quick")
        assert kinds(await slow) == ["superseded"]
        assert kinds(newest) == ["plan", "done"]
        assert newest[-1]["process"] == first["process"], "what it had kept is still there"
        dropped = [asyncio.create_task(all_of(desk, "slow")) for _ in range(3)]
        await asyncio.sleep(0)
        assert kinds(await all_of(desk, "quick")) == ["plan", "done"]
        assert [kinds(await each) for each in dropped] == [["superseded"]] * 3

    at_desk(do)


def test_a_model_that_is_half_built_is_finished_and_kept_for_the_next_question() -> None:
    async def do(desk: Desk) -> None:
        building = await started(desk, "builds", until="building")
        (done,) = [each for each in await all_of(desk, "quick") if each["kind"] == "done"]
        assert kinds(await building) == ["superseded"]
        assert done["built"] == 1

    at_desk(do)


def test_who_stops_listening_ends_the_work_on_it() -> None:
    async def do(desk: Desk) -> None:
        slow = await started(desk, "slow")
        slow.cancel()
        assert kinds(await all_of(desk, "quick", OTHER)) == ["plan", "done"]
        assert desk.state() == {"planning": False, "waiting": 0, "process": True}

    at_desk(do)


def test_a_page_that_has_its_plan_makes_way_for_another_and_then_gets_the_rest() -> None:
    async def do(desk: Desk) -> None:
        first = await started(desk, "long", until="plan")
        assert kinds(await all_of(desk, "quick", OTHER)) == ["plan", "done"]
        assert kinds(await first) == ["plan", "done"], "its plan came once"

    at_desk(do)


def test_errors_are_lines_and_a_fault_of_planner_begins_a_new_process(capfd: pytest.CaptureFixture[str]) -> None:
    async def do(desk: Desk) -> None:
        bad = await all_of(desk, "bad")
        assert bad[-1] == {"kind": "error", "text": "no such model"}
        (before,) = [each for each in await all_of(desk, "quick") if each["kind"] == "done"]
        bug = await all_of(desk, "bug")
        assert bug[-1]["kind"] == "error"
        assert "KeyError" in bug[-1]["text"]
        assert "Traceback" not in bug[-1]["text"]
        (after,) = [each for each in await all_of(desk, "quick") if each["kind"] == "done"]
        assert before["process"] != after["process"]
        died = await all_of(desk, "dies")
        assert kinds(died) == ["error"]
        assert "has ended" in died[-1]["text"]

    at_desk(do)
    assert "KeyError: 'of planner itself'" in capfd.readouterr().err, "the terminal shows where"


def test_a_break_off_that_python_swallows_is_tried_again() -> None:
    async def do(desk: Desk) -> None:
        first = await all_of(desk, "quick")
        swallowed = await started(desk, "swallows")
        newest = await all_of(desk, "quick")
        assert kinds(await swallowed) == ["superseded"]
        assert newest[-1]["process"] == first[-1]["process"]

    at_desk(do)


def test_what_does_not_break_off_is_ended() -> None:
    async def do(desk: Desk) -> None:
        stubborn = await started(desk, "stubborn")
        assert kinds(await all_of(desk, "quick")) == ["plan", "done"]
        assert kinds(await stubborn) == ["superseded"]

    at_desk(do, grace_seconds=0.1)


def test_a_question_takes_no_longer_than_the_limit() -> None:
    async def do(desk: Desk) -> None:
        await all_of(desk, "quick")
        desk.limit_seconds = 0.2
        slow = await (await started(desk, "slow"))
        assert kinds(slow) == ["error"]
        assert "longer than" in slow[-1]["text"]
        desk.limit_seconds = 60
        assert kinds(await all_of(desk, "quick")) == ["plan", "done"]

    at_desk(do)


def test_only_so_many_pages_wait() -> None:
    async def do(desk: Desk) -> None:
        first = await started(desk, "slow")
        waiting = [asyncio.create_task(all_of(desk, "quick", f"page-{number + 2}")) for number in range(MOST_WAITING)]
        await asyncio.sleep(0.1)
        with pytest.raises(UiError, match="too many pages"):
            await all_of(desk, "quick", "one-too-many")
        first.cancel()
        assert [kinds(await each) for each in waiting] == [["plan", "done"]] * MOST_WAITING

    at_desk(do)
