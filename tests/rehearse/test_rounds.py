"""Which batches of a loop are passed over."""

from collections.abc import Hashable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch

from planner.rehearse.child import batches as own
from planner.rehearse.child.batches import CachedBatches, each_batch
from planner.rehearse.child.books import Deeds
from planner.rehearse.child.grid import GridPoints
from planner.rehearse.child.rounds import LAST, LoopRounds, settled

NOTHING = Deeds(card=1, held=1, questions=0, cpu=0, large_taken=0, large_given=0, change=0, rise=0)


class Books:
    """As far as rounds need them: every batch did what `deeds` says."""

    def __init__(self, deeds: Any = lambda _number: NOTHING) -> None:
        self.deeds, self.number = deeds, -1
        self.told: list[tuple[int, int]] = []
        self.rises: list[int] = []

    def batch(self) -> Deeds:
        self.number += 1
        found: Deeds = self.deeds(self.number)
        return found

    def again(self, batches: int, times: int) -> None:
        self.told.append((batches, times))

    def rise(self, nbytes: int) -> None:
        self.rises.append(nbytes)

    def rounds_end(self) -> None: ...

    def unknown(self, _tensor: Any) -> None: ...

    def numbers(self, tensor: torch.Tensor) -> int:
        return 0 if tensor.is_floating_point() else hash(tuple(tensor.flatten().tolist())) | 1

    class made_where:  # noqa: N801  (a context, as the books' own)
        def __init__(self, _storage: Any) -> None: ...

        def __enter__(self) -> None: ...

        def __exit__(self, *_error: Any) -> None: ...


@dataclass
class Loop:
    """Batches of these kinds."""

    kinds: list[Hashable | None]
    passed: list[int] = field(default_factory=list)
    models: list[int] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.kinds)

    def kind(self, number: int) -> Hashable | None:
        return self.kinds[number]

    def effect(self, _done: Deeds) -> Hashable | None:
        return ()

    def pass_over(self, number: int, like: int, _done: Deeds) -> None:
        self.passed.append(number)
        self.models.append(like)


def run(loop: Loop, books: Any, patience: int = 4) -> list[int]:
    """The numbers of the batches that are run."""
    rounds, number, done = LoopRounds(books, loop, patience), 0, []
    while number < len(loop):
        number += rounds.begin(number)
        done.append(number)
        number += 1
    return done


def test_equal_batches_are_passed_over_up_to_the_last_ones() -> None:
    loop, books = Loop(["a"] * 50), Books()
    done = run(loop, books)
    assert len(done) < 10
    assert done[-LAST:] == [48, 49]
    assert sorted(done + loop.passed) == list(range(50))
    assert books.told == [(1, len(loop.passed))]


@pytest.mark.parametrize(("asked", "period"), [(1, 1), (1, 5), (2, 2), (2, 12), (1, 24)])
def test_batches_are_passed_over_in_whole_rounds(asked: int, period: int) -> None:
    loop = Loop(["a"] * 70)
    books = Books(lambda number: NOTHING._replace(card=number % asked, held=number % period))
    done = run(loop, books)
    assert len(loop.passed) % period == 0 < len(loop.passed)
    assert sorted(done + loop.passed) == list(range(70))
    assert books.told == [(asked, len(loop.passed) // asked)]
    assert all(
        (number - like) % asked == 0 and like in done for number, like in zip(loop.passed, loop.models, strict=True)
    )


@pytest.mark.parametrize(
    "deeds",
    [
        lambda number: NOTHING._replace(card=number),
        lambda number: NOTHING._replace(held=number),
        lambda _number: NOTHING._replace(questions=1),
        lambda number: NOTHING._replace(cpu=number),
        lambda number: NOTHING._replace(rise=number),
    ],
)
def test_batches_that_differ_in_what_they_do_are_run(deeds: Any) -> None:
    assert run(Loop(["a"] * 30), Books(deeds)) == list(range(30))


def test_batches_of_unknown_or_other_inputs_are_run() -> None:
    assert run(Loop([None] * 30), Books()) == list(range(30))
    assert run(Loop(list(range(30))), Books()) == list(range(30))
    loop = Loop(["a"] * 20 + ["b"] + ["a"] * 20)
    assert 20 in run(loop, Books())


def test_few_batches_are_all_run() -> None:
    assert run(Loop(["a"] * 5), Books()) == list(range(5))


def test_patience_is_a_number_of_batches() -> None:
    same, other = ("did", 1), ("did otherwise", 1)
    assert settled([same] * 7, 8) == (0, 0)
    assert settled([same] * 8, 8) == (1, 1)
    assert settled([None] + [same] * 7, 8) == (0, 0)
    assert settled([same, other] * 2, 4) == (2, 2)
    assert settled([same, same, same, other], 4) == (0, 0)


def test_tensors_must_lie_as_before_while_the_same_was_asked_for() -> None:
    before, then = [("did otherwise", 7), ("did otherwise", 8)], [("did", place) for place in (1, 2, 3, 4, 7)]
    assert settled([*before, *then], 4) == (0, 0)
    assert settled([*then, *then[:3]], 4) == (1, 5)


@dataclass
class IntermediateValue:
    """llmcompressor/pipelines/cache.py has such a one."""

    value: Any
    device: Any


class Cache:
    """llmcompressor/pipelines/cache.py IntermediatesCache, as far as its loops go."""

    def __init__(self, ids: list[list[int]]) -> None:
        self.batch_intermediates = [{"ids": IntermediateValue(torch.tensor(each), None)} for each in ids]
        self.fetched: list[int] = []

    def fetch(self, number: int, _names: Any = None) -> Any:
        self.fetched.append(number)
        return dict(self.batch_intermediates[number])

    def batches(self) -> Iterator[tuple[int, Any]]:
        yield from enumerate(self.fetch(number) for number in range(len(self.batch_intermediates)))


def batches_of(cache: Cache, books: Any) -> CachedBatches:
    return CachedBatches(books, cache)


def looped(cache: Cache, books: Any) -> Iterator[tuple[int, Any]]:
    batches = batches_of(cache, books)
    return each_batch(cache.batches(), LoopRounds(books, batches, 4), batches, cache)


def pipeline(cache: Cache, books: Books, keep: list[Any] | None = None) -> list[int]:
    """llmcompressor/pipelines/sequential/pipeline.py's loop that propagates."""
    done = []
    for number, inputs in looped(cache, books):
        done.append(number)
        made = torch.empty(inputs["ids"].value.shape[0], 3)
        cache.batch_intermediates[number].update({"out": IntermediateValue((made, made), None)})
        if keep is not None:
            keep.append(inputs["ids"].value)
        del cache.batch_intermediates[number]["ids"]
    return done


def moving(_number: int, tokens: int = 4) -> Deeds:
    """One result of 12 bytes a token comes, ids of 8 bytes a token go."""
    return NOTHING._replace(change=tokens * 3 * 4 - tokens * 8, rise=100)


def test_the_cache_is_left_as_if_every_batch_had_been_run() -> None:
    cache, books = Cache([[1, 2, 3, 4]] * 40), Books(moving)
    done = pipeline(cache, books)
    assert len(done) < 12
    assert done[-1] == 39
    assert cache.fetched == done[:1] + cache.fetched[1:-1] + done[-1:]
    assert "fetch" not in vars(cache)
    assert len(books.rises) == 40 - len(done)
    results = [entry["out"].value for entry in cache.batch_intermediates]
    assert all(list(entry) == ["out"] for entry in cache.batch_intermediates)
    assert all(one is two and one.shape == (4, 3) for one, two in results)
    assert len({id(one) for one, _ in results}) == 40


def test_batches_that_alternate_are_each_passed_over_as_their_own_kind() -> None:
    lengths = [4, 2] * 20
    books = Books(lambda number: moving(number, lengths[number - 1])._replace(rise=lengths[number - 1]))
    cache = Cache([[7, 7, 7, 7][:length] for length in lengths])
    done = pipeline(cache, books)
    assert len(done) < 20
    assert [entry["out"].value[0].shape for entry in cache.batch_intermediates] == [(length, 3) for length in lengths]
    assert books.rises == [lengths[number] for number in range(40) if number not in done]


def test_batches_of_other_lengths_and_other_known_numbers_are_run() -> None:
    assert len(pipeline(Cache([[number, 2, 3, 4] for number in range(30)]), Books(moving))) == 30
    cache = Cache([[1, 2, 3, 4]] * 20 + [[1, 2]] + [[1, 2, 3, 4]] * 20)
    assert 20 in pipeline(cache, Books(moving))


def test_batches_whose_masks_differ_are_run() -> None:
    """AWQ's hook takes the rows of the batch's loss mask, which no subgraph reads."""
    cache = Cache([[1, 2, 3, 4]] * 30)
    for number, entry in enumerate(cache.batch_intermediates):
        entry["loss_mask"] = IntermediateValue(torch.tensor([number % 7, 1]), None)
    assert len(pipeline(cache, Books(moving))) == 30


def test_what_somebody_keeps_is_no_reason_to_pass_over() -> None:
    assert len(pipeline(Cache([[1, 2, 3, 4]] * 30), Books(lambda number: moving(number)._replace(change=99)))) == 30


def test_who_holds_a_cached_tensor_is_noticed() -> None:
    cache = Cache([[1, 2, 3, 4]] * 30)
    batches = batches_of(cache, Books())
    batches.begin(3)
    assert batches.effect(NOTHING) == ((), ())
    kept = cache.batch_intermediates[3]["ids"].value
    assert batches.effect(NOTHING) is None
    del kept
    view = cache.batch_intermediates[3]["ids"].value.view(2, 2)
    assert batches.effect(NOTHING) is None
    del view
    assert batches.effect(NOTHING) == ((), ())
    assert own.PATIENCE == 8


def test_a_tensor_of_many_names_that_loses_one_is_still_there() -> None:
    """Each layer of a model is handed the mask under a name of its own, which goes with the layer."""
    cache = Cache([[1, 2, 3, 4]] * 40)
    for entry in cache.batch_intermediates:
        mask = torch.ones(2, dtype=torch.int64)
        entry.update({name: IntermediateValue(mask, None) for name in ("first", "second", "third")})
    done = []
    for number, inputs in looped(cache, Books()):
        done.append(number)
        inputs.clear()  # the library's are tensors of their own
        del cache.batch_intermediates[number]["first"]
    assert len(done) < 12
    for entry in cache.batch_intermediates:
        assert list(entry) == ["ids", "second", "third"]
        assert entry["second"].value is entry["third"].value


def test_a_tensor_of_many_names_that_somebody_else_keeps_is_no_reason_to_pass_over() -> None:
    cache, kept = Cache([[1, 2, 3, 4]] * 30), list[torch.Tensor]()
    batches = batches_of(cache, Books())
    for number, entry in enumerate(cache.batch_intermediates):
        entry["other"] = IntermediateValue(entry["ids"].value, None)
        batches.begin(number)
        kept.append(entry["ids"].value)
        del entry["other"]
        assert batches.effect(NOTHING) is None


def test_points_with_exponents_of_their_own_kernels_are_run() -> None:
    points = [(number / 20, both) for number in range(20) for both in (False, True)]
    books: Any = Books(lambda number: NOTHING._replace(card=number % 2))
    grid = GridPoints(points, books, lambda points: LoopRounds(books, points, 4))
    done = list(grid)
    assert [point for point in done if point[0] in (0, 0.5)] == [(0, False), (0, True), (0.5, False), (0.5, True)]
    assert done[-2:] == points[-2:]
    assert len(done) < 30
    assert list(GridPoints(points, books, lambda _points: None)) == points
