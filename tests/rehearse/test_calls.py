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
        self.known: list[tuple[int, int, tuple[int, ...]]] = []

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

    def know(self, call: int, place: int, tensor: torch.Tensor) -> None:
        self.known.append((call, place, tuple(tensor.shape)))

    class made_at:  # noqa: N801  (a context, as the books' own)
        def __init__(self, _origin: int) -> None: ...

        def __enter__(self) -> None: ...

        def __exit__(self, *_error: Any) -> None: ...


class Recordings(Books):
    """How many calls are being recorded."""

    open = 0

    def record(self) -> None:
        self.open += 1

    def recorded(self) -> RecordedCall:
        self.open -= 1
        return super().recorded()


class Module:
    """What is called: it counts its calls."""

    def __init__(self, books: Books, keeps: bool = False, rows: int = 0, dtype: torch.dtype | None = None) -> None:
        self.books, self.calls, self.kept, self.rows, self.dtype = books, 0, keeps, rows, dtype

    def __call__(self, x: torch.Tensor, **_named: Any) -> tuple[torch.Tensor, None]:
        self.calls += 1
        made = torch.zeros(self.rows or x.shape[0], 5, dtype=self.dtype)[: x.shape[0]]
        self.books.made = [torch.empty(3)] if self.kept else [made]
        return made, None


class Counting(Module):
    """Returns how often it was called."""

    def __call__(self, x: torch.Tensor, **named: Any) -> tuple[torch.Tensor, None]:
        made, nothing = super().__call__(x, **named)
        return made.fill_(self.calls), nothing


class Mixture(Module):
    """Calls three others, each as often as it is called itself."""

    def __init__(self, books: Books) -> None:
        super().__init__(books)
        self.others = [Module(Books()) for _ in range(3)]
        self.played = [PlayedModule(each, each.books) for each in self.others]

    def __call__(self, x: torch.Tensor, **named: Any) -> tuple[torch.Tensor, None]:
        for each in self.played:
            each(x)
        return super().__call__(x, **named)


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


def test_results_that_are_a_part_of_more_are_made_by_running() -> None:
    module = Module(Books(), rows=9)
    times(module, 20)
    assert module.calls == 20


def test_results_whose_known_numbers_were_the_same_have_them_again() -> None:
    module = Module(Books(), dtype=torch.int64)
    times(module, 20)
    assert module.calls == EQUAL
    assert module.books.known == [(3, 2, (4, 5))] * (20 - EQUAL)


def test_results_of_unknown_numbers_get_none() -> None:
    module = Module(Books())
    times(module, 20)
    assert module.calls == EQUAL
    assert not module.books.known


def test_results_whose_known_numbers_differ_each_time_are_made_by_running() -> None:
    module = Counting(Books(), dtype=torch.int64)
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


def test_a_call_that_is_played_calls_nothing_and_counts_as_the_calls_within_it() -> None:
    module, before = Mixture(Books()), PlayedModule.played
    times(module, 20)
    assert module.calls == EQUAL
    assert [each.calls for each in module.others] == [EQUAL] * 3
    assert PlayedModule.played - before == 3 * (20 - EQUAL)


def test_calls_within_one_that_is_run_are_played_on_their_own() -> None:
    module, before = Mixture(Books()), PlayedModule.played
    module.books.does = CALM._replace(plain=0)
    times(module, 20)
    assert module.calls == 20
    assert [each.calls for each in module.others] == [EQUAL] * 3
    assert PlayedModule.played - before == 3 * (20 - EQUAL)


def test_a_call_that_is_run_with_other_calls_within_it_is_not_what_it_was() -> None:
    module = Mixture(Books())
    played = times(module, EQUAL - 1)
    module.played = module.played[:2]
    with torch.no_grad():
        for _ in range(20):
            played(torch.empty(4, 2))
    assert module.calls == EQUAL - 1 + EQUAL


def test_a_call_that_fails_is_over_for_the_books() -> None:
    books = Recordings()

    def fail(_x: torch.Tensor) -> None:
        assert books.open == PlayedModule.recorded == 1
        raise ValueError("no luck")

    with torch.no_grad(), pytest.raises(ValueError, match="no luck"):
        played_of(fail, books)(torch.empty(4, 2))
    assert books.open == PlayedModule.recorded == 0


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
