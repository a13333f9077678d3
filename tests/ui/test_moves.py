"""What a page may ask next, and what is kept for it, without planning anything."""

import pytest

from planner.ui.latest import Latest
from planner.ui.moves import MOVED, Move, moved, moves
from planner.ui.question import PageQuestion
from planner.ui.stops import STOPS, beside, cards, gib


def asked(*, gpu: str = "RTX 4090", **job: int) -> PageQuestion:
    content = {"client": "page-1", "model": {"name": "llama-3-8b"}, "recipe": {"name": "gptq_w4a16"}, "gpu": gpu}
    return PageQuestion.model_validate({**content, "job": {"samples": 512, "seq_len": 2048, "batch_size": 4, **job}})


def nearest(question: PageQuestion, move: Move | None = None) -> list[tuple[str, object]]:
    """The nearest of each lane, as the field that it changes and its value; None where a lane has nothing."""
    found: list[tuple[str, object]] = []
    for lane in moves(question, move):
        if not lane:
            found.append(("", None))
            continue
        values = {field: getattr(lane[0], field, lane[0].job.get(field)) for field in MOVED}
        before = {field: getattr(question, field, question.job.get(field)) for field in MOVED}
        (changed,) = [field for field in MOVED if values[field] != before[field]]
        found.append((changed, values[changed]))
    return found


@pytest.mark.parametrize("field", STOPS)
def test_stops_ascend_and_each_is_beside_the_next(field: str) -> None:
    stops = STOPS[field]
    assert list(stops) == sorted(set(stops))
    assert [beside(field, value) for value in stops] == list(zip((None, *stops), (*stops[1:], None), strict=False))


def test_a_typed_value_moves_from_the_stop_that_is_nearest() -> None:
    assert beside("samples", 500) == beside("samples", 512) == (432, 608)
    assert beside("samples", 1) == (None, 12)
    assert beside("batch_size", 10**6) == (48, None)


def test_cards_are_listed_the_smallest_first() -> None:
    sizes = [gib(card) for card in cards()]
    assert sizes == sorted(sizes)


def test_one_stop_up_and_down_of_each_slider_is_next_and_then_cards() -> None:
    assert nearest(asked())[:6] == [
        ("samples", 608),
        ("samples", 432),
        ("seq_len", 2432),
        ("seq_len", 1728),
        ("batch_size", 6),
        ("batch_size", 3),
    ]
    assert nearest(asked())[6:] == [("gpu", name) for name in _cards_beside("RTX 4090") * 2]
    assert nearest(asked(batch_size=1))[4:6] == [("batch_size", 2), ("", None)]


def _cards_beside(name: str) -> list[str]:
    names = [card.name for card in cards()]
    return [names[names.index(name) + 1], names[names.index(name) - 1]]


def test_a_size_that_was_typed_has_no_cards_beside_it() -> None:
    assert nearest(asked(gpu="24GiB"))[6:] == [("", None)] * 4


def test_the_slider_that_was_moved_goes_on_first() -> None:
    assert nearest(asked(), Move("seq_len", is_up=False))[:3] == [
        ("seq_len", 1728),
        ("seq_len", 2432),
        ("samples", 608),
    ]
    assert nearest(asked(), Move("gpu", is_up=True))[0][0] == "gpu"


def test_a_move_is_one_field_of_the_same_job() -> None:
    assert moved(asked(), asked(samples=608)) == Move("samples", is_up=True)
    assert moved(asked(batch_size=8), asked(batch_size=1)) == Move("batch_size", is_up=False)
    assert moved(asked(gpu="L40S"), asked(gpu="T4")) == Move("gpu", is_up=False)
    assert moved(asked(), asked()) is None
    assert moved(asked(), asked(samples=608, seq_len=1024)) is None
    other = asked(samples=608).model_copy(update={"recipe": asked().recipe.model_copy(update={"name": "awq_w4a16"})})
    assert moved(asked(), other) is None


def test_only_the_latest_values_are_kept() -> None:
    kept: Latest[int] = Latest(3)
    for number in (1, 2, 3, 1, 4):
        assert kept.get(number, lambda value=number: value * 10) == number * 10  # type: ignore[misc]  # mypy infers no lambda with a default
    assert len(kept) == 3
    assert [number in kept for number in (1, 2, 3, 4)] == [True, False, True, True]


def test_what_is_made_ahead_is_found_by_who_asks_and_costs_nothing_that_was_asked_for() -> None:
    base: Latest[str] = Latest(2)
    ahead = Latest(2, base)
    base.put(1, "asked first")
    base.put(2, "asked then")
    for number in (3, 4, 5):
        ahead.put(number, "ahead")
    assert ahead.get(1, lambda: "made anew") == "asked first"
    assert (list(base._values), list(ahead._values)) == ([1, 2], [4, 5])
    assert base.get(5, lambda: "made anew") == "ahead"
    assert (list(base._values), list(ahead._values)) == ([2, 5], [4]), "to look ahead was no question for 1"
    assert sorted(base) == sorted(ahead) == [2, 4, 5]
    assert base.peek(4) == "ahead"
    assert 4 not in base._values
