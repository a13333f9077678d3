"""Rounds of batches that a device does without the books: nothing it holds may differ from what walking them gives."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from planner.compress import batches as walking
from planner.compress.batches import walk_batches
from planner.compress.context import Context, Shortcuts
from planner.compress.devices import PassedOn, card
from planner.compress.ledger import Ledger
from planner.compress.rounds import Quiet, Round, next_round
from planner.compress.tape import play
from planner.timeline import Handle
from planner.units import GIB, MIB
from tests import toys

GROWS = 7
"""The handle of a holding that grows."""


def event(handle: Handle, tensors: int = 1) -> tuple[int, int, int]:
    return handle, 3 * MIB, tensors


def kept_round(first: Handle, before: Handle) -> list[Any]:
    """A tensor is taken, the one of the round before is freed, and one stays."""
    return [event(first), event(before, -1), event(GROWS)]


def test_what_two_rounds_did_alike_is_done_again_under_the_names_of_the_last() -> None:
    rounds = [kept_round(first, first - 10) for first in (110, 120, 130)]
    assert next_round(rounds, {GROWS}) == ((event(130), event(130, -1), event(GROWS)),)


def test_rounds_that_differ_in_the_size_of_a_tensor_are_not_alike() -> None:
    rounds = [kept_round(first, first - 10) for first in (110, 120, 130)]
    rounds[2][0] = (130, 4 * MIB, 1)
    assert next_round(rounds, {GROWS}) is None


def test_a_round_may_pass_on_a_tensor_that_grew_and_free_the_one_of_the_round_before() -> None:
    rounds = [[event(GROWS), PassedOn(GROWS, part, 3 * MIB), event(part - 10, -1)] for part in (110, 120, 130)]
    assert next_round(rounds, {GROWS}) == ((event(GROWS), PassedOn(GROWS, 130, 3 * MIB), event(130, -1)),)


def test_a_round_that_frees_what_others_do_not_is_not_done_again() -> None:
    rounds = [[*kept_round(first, first - 10), event(first - 100, -1)] for first in (110, 120, 130)]
    assert next_round(rounds, {GROWS}) is None


@pytest.mark.parametrize(("batches", "length", "has_room"), [(0, 8, True), (7, 1, True), (7, 2, False), (8, 1, False)])
def test_no_round_is_begun_in_which_batches_could_settle(batches: int, length: int, has_room: bool) -> None:
    assert Quiet(8, batches).has_room(length) == has_room


# ---------------------------------------------------------------------- beside walking
def keeping(context: Context) -> Callable[[int], None]:
    """Batches that take some tensors, hold one until the next batch, keep two, and swap names every second time."""
    ledger = context.ledger
    kept = ledger.open("gpu", "forward", "kept")
    names = context.frame("forward", "names")

    def batch(number: int) -> None:
        names.assign("inputs", (5 + number % 2) * MIB)
        with ledger.hold("gpu", 40 * MIB, "forward", "temporary"):
            ledger.grow(kept, 24 * MIB)
            ledger.give(ledger.alloc("gpu", 2 * MIB, "forward", "output"), kept)

    return batch


def walked(monkeypatch: pytest.MonkeyPatch | None) -> tuple[Context, list[int]]:
    context = Context(toys.job(samples=60), Ledger(gpu=card(80 * GIB, 0)), shortcuts=Shortcuts(settled=8))
    if monkeypatch:
        monkeypatch.setattr(walking, "next_round", lambda *_: None)
    batch, numbers = keeping(context), list[int]()
    walk_batches(context, 60, lambda number: (numbers.append(number), batch(number))[1])
    return context, numbers


@pytest.fixture
def both(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Context, Context]]:
    quick, few = walked(None)
    slow, all_of_them = walked(monkeypatch)
    assert len(few) < len(all_of_them) == 60
    yield quick, slow


def test_books_and_card_are_as_if_every_batch_had_been_walked(both: tuple[Context, Context]) -> None:
    quick, slow = (context.ledger for context in both)
    assert quick.live("gpu") == slow.live("gpu")
    assert quick.claims("gpu") == slow.claims("gpu")
    assert quick.close_step()["gpu"] == slow.close_step()["gpu"]


def test_the_tape_says_the_same_of_another_card(both: tuple[Context, Context]) -> None:
    def reserved(context: Context) -> Round | int:
        device = card(80 * GIB, 0, is_strict=True)
        assert play([*context.ledger.tape("gpu"), [None]], device).out_of_memory is None
        return device.held_now[1]

    assert reserved(both[0]) == reserved(both[1])
