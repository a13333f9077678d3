"""Calls of a module that are played instead of run."""

from typing import Any

import pytest
import torch

from planner.rehearse.child import calls
from planner.rehearse.child.books import RecordedCall
from planner.rehearse.child.calls import EQUAL, PlayedModule

CALM = RecordedCall(hash=1, cpu=0, large=0, survivors=1, plain=1, change=0, rise=7)


class Books:
    """As far as calls need them: what the next call does is `does`, and what it returns outlives it."""

    def __init__(self) -> None:
        self.does, self.room = CALM, True
        self.rises: list[int] = []
        self.made: list[torch.Tensor] = []
        self.played: list[int] = []
        self.dropped: list[int] = []

    def record(self) -> None: ...

    def recorded(self) -> RecordedCall:
        return self.does

    def keep(self, call: int, _survivors: int) -> tuple[int, list[int]]:
        return max(call, 3), [each.untyped_storage().data_ptr() for each in self.made]

    def drop(self, call: int) -> None:
        self.dropped.append(call)

    def has_room(self, call: int) -> bool:
        return self.room and call == 3

    def numbers(self, tensor: torch.Tensor) -> int:
        return 0 if tensor.is_floating_point() else int(tensor.sum()) + 1

    def rise(self, nbytes: int) -> None:
        self.rises.append(nbytes)

    def play(self, call: int, place: int) -> tuple[int, int]:
        assert call == 3
        self.played.append(place)
        return place + 2, 5

    class made_at:  # noqa: N801  (a context, as the books' own)
        def __init__(self, _origin: int) -> None: ...

        def __enter__(self) -> None: ...

        def __exit__(self, *_error: Any) -> None: ...


class Module:
    """What is called: it counts its calls."""

    def __init__(self, books: Books, keeps: bool = False, rows: int = 0, dtype: torch.dtype | None = None) -> None:
        self.books, self.calls, self.kept, self.rows, self.dtype = books, 0, keeps, rows, dtype

    def __call__(self, x: torch.Tensor, **_named: Any) -> tuple[torch.Tensor, None]:
        self.calls += 1
        made = torch.zeros(self.rows or x.shape[0], 5, dtype=self.dtype)[: x.shape[0]]
        self.books.made = [torch.empty(3)] if self.kept else [made]
        return made, None


@pytest.fixture(autouse=True)
def _on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """The card is the CPU here."""
    monkeypatch.setattr(calls, "CARD", torch.device("cpu"))
    monkeypatch.setattr(calls, "is_on_card", lambda tensor: tensor.device == calls.CARD)


def played_of(module: Any, books: Any = None) -> PlayedModule:
    return PlayedModule(module, books or module.books)


def times(module: Module, count: int, **named: Any) -> PlayedModule:
    played = played_of(module)
    with torch.no_grad():
        for _ in range(count):
            made, nothing = played(torch.empty(4, 2), **named)
            assert made.shape == (4, 5)
            assert nothing is None
    return played


def test_equal_calls_are_played_after_some_that_did_the_same() -> None:
    module = Module(Books())
    times(module, 20, mask=torch.tensor([1, 1]))
    assert module.calls == EQUAL
    assert module.books.rises == [7] * (20 - EQUAL)
    assert module.books.played[:2] == [0, 3]


@pytest.mark.parametrize("change", [{"plain": 0}, {"large": 1}, {"change": 8}])
def test_calls_that_do_more_than_return_something_are_run(change: dict[str, int]) -> None:
    books = Books()
    books.does = CALM._replace(**change)
    module = Module(books)
    times(module, 20)
    assert module.calls == 20


def test_calls_that_leave_something_else_are_run() -> None:
    module = Module(Books(), keeps=True)
    times(module, 20)
    assert module.calls == 20


@pytest.mark.parametrize("form", [{"dtype": torch.int64}, {"rows": 9}])
def test_results_of_known_numbers_or_that_are_a_part_of_more_are_made_by_running(form: dict[str, Any]) -> None:
    module = Module(Books(), **form)
    times(module, 20)
    assert module.calls == 20


def test_calls_with_other_inputs_or_without_room_or_with_gradients_are_run() -> None:
    module = Module(Books())
    played = times(module, 10)
    with torch.no_grad():
        assert played(torch.empty(6, 2))[0].shape == (6, 5)
    assert module.calls == EQUAL + 1
    module = Module(Books())
    module.books.room = False
    times(module, 10)
    assert module.calls == 10
    module = Module(Books())
    played = played_of(module)
    for _ in range(10):
        played(torch.empty(4, 2))
    assert module.calls == 10


def test_a_call_is_forgotten_with_the_module_that_was_played() -> None:
    module = Module(Books())
    played = times(module, 20)
    assert not module.books.dropped
    del played
    assert module.books.dropped == [3]


def test_a_played_module_is_found_where_the_module_is() -> None:
    module = torch.nn.Linear(2, 3)
    played = played_of(module, Books())
    assert {module: 1}[played] == 1
    assert played.out_features == 3
