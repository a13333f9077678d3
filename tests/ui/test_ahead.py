"""What is planned ahead: counted in simulations, traces and walks for charts, on a real but small model."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from planner.compress.fit import Rehearsal
from planner.models import load as loading
from planner.pictures import make as drawing
from planner.ui import ahead as planning_ahead
from planner.ui import drafts
from planner.ui.ahead import NEAR, Ahead
from planner.ui.answers import Answers
from planner.ui.drafts import read
from planner.ui.kept import AHEAD, Kept
from planner.ui.latest import Latest
from planner.ui.lines import kind_of
from planner.ui.moves import MOVED, moves
from planner.ui.question import PageQuestion
from planner.ui.worker import BrokenOff
from tests.ui.fakes import CONFIG

MODEL = {**CONFIG, "hidden_size": 256, "intermediate_size": 512}
SAID = "planning the next moves"
MOST = 2 * (len(MOVED) + 1)


@pytest.fixture(autouse=True)
def time_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning_ahead, "NEAR_SECONDS", float("inf"))
    monkeypatch.setattr(planning_ahead, "SECONDS", float("inf"))
    monkeypatch.setattr(planning_ahead, "TRACE_SECONDS", float("inf"))


@pytest.fixture
def work(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was done: simulations, traces, walks for charts."""
    done: list[str] = []

    def noted(owner: Any, name: str, word: str) -> None:
        real = getattr(owner, name)

        def counted(*given: Any, **named: Any) -> Any:
            done.append(word)
            return real(*given, **named)

        monkeypatch.setattr(owner, name, counted)

    noted(Rehearsal, "_simulated", "simulated")
    noted(loading, "graph_of", "traced")
    noted(drawing, "walked", "walked")
    return done


def asked(
    recipe: str = "gptq_w4a16", *, gpu: str = "RTX 4090", ram: float | None = 64, client: str = "page-1", **job: Any
) -> PageQuestion:
    content = {
        "client": client,
        "model": {"config": json.dumps(MODEL)},
        "recipe": {"name": recipe},
        "gpu": gpu,
        "ram_gib": ram,
        "job": {"samples": 16, "seq_len": 256, "batch_size": 2, **job},
    }
    return PageQuestion.model_validate(content)


def silent() -> Answers:
    return Answers(lambda _text: None)


def until(answers: Answers, question: PageQuestion, last: str) -> dict[str, dict[str, Any]]:
    """The lines up to the first of that kind, by their kinds."""
    lines: dict[str, dict[str, Any]] = {}
    for each in answers(question):
        lines[kind_of(each)] = json.loads(each)
        if kind_of(each) == last:
            break
    return lines


def sliders(question: PageQuestion) -> Iterator[PageQuestion]:
    """One stop further of each slider."""
    for lane in moves(question):
        yield from (each for each in lane[:1] if each.gpu == question.gpu)


def test_once_the_next_moves_are_planned_one_of_them_simulates_nothing_and_says_what_it_would_say_alone(
    work: list[str],
) -> None:
    answers, found = silent(), list(sliders(asked()))
    assert len(found) == 6
    fresh = until(silent(), found[2], "smallest")
    until(answers, asked(), "choice")
    work.clear()
    shown = [until(answers, question, "picture") for question in found]
    assert work == []
    assert {**shown[2], "smallest": until(answers, found[2], "smallest")["smallest"]} == fresh


@pytest.mark.parametrize(
    ("known", "gpu", "fits"),
    [
        ("L40S", "A100 40GB SXM", "yes"),
        ("80GiB", "22GiB", "yes"),
        ("540MiB", "530MiB", "no"),
        ("560MiB", "530MiB", "no"),
    ],
)
def test_a_card_that_tells_the_job_the_same_shows_plan_charts_and_smallest_card_at_once(
    work: list[str], known: str, gpu: str, fits: str
) -> None:
    answers, other = silent(), asked(gpu=gpu)
    is_through = until(answers, asked(gpu=known), "smallest")["smallest"]["fits"] == "yes"
    work.clear()
    shown = until(answers, other, "picture")
    assert list(shown) == ["plan", "picture"]
    assert work == (["walked"] if is_through != (fits == "yes") else []), "it runs out on one of the two"
    fresh = until(silent(), other, "smallest")
    assert shown["picture"] == fresh["picture"]
    assert shown["plan"]["plan"] == fresh["smallest"]["plan"]
    assert shown["plan"]["fits"] == fits


def test_verdict_and_charts_wait_for_nothing_that_is_planned_ahead(
    work: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Ahead, "_draw", lambda *_: None)
    answers, seen = silent(), dict[str, int]()
    for each in answers(asked()):
        seen.setdefault(kind_of(each), work.count("simulated"))
        if kind_of(each) == "choice":
            break
    assert (seen["verdict"], seen["plan"], seen["picture"]) == (1, 1, 1)
    assert 1 < len(answers.ahead.kept.drafts) <= MOST == AHEAD


def test_only_the_slider_that_was_moved_comes_before_the_smallest_card() -> None:
    answers = silent()
    until(answers, asked(), "picture")
    until(answers, asked(seq_len=320), "smallest")
    jobs = [key[2] for key in answers.ahead.kept.drafts._values]  # type: ignore[index]  # keys are tuples: Asked.key
    assert len(jobs) <= NEAR
    assert {(job.samples, job.batch_size) for job in jobs} == {(16, 2)}


def test_what_is_planned_ahead_is_bounded_asks_no_network_and_nothing_that_was_asked_for_is_forgotten_for_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    answers, question = silent(), asked()
    until(answers, question, "picture")
    monkeypatch.setattr("socket.getaddrinfo", _refused)
    monkeypatch.setattr("socket.socket.connect", _refused)
    before = {name: list(pool._values) for name, pool in _pools(answers.kept)}
    answers.ahead.all(read(answers.kept, question), answers.ahead.lanes(question))
    assert {name: list(pool._values) for name, pool in _pools(answers.kept)} == before
    ahead = dict(_pools(answers.ahead.kept))
    assert all(len(pool) <= AHEAD for pool in ahead.values())
    assert len(ahead["pictures"]) > NEAR
    assert not ahead["trials"]
    assert not ahead["built"]


def _refused(*_: Any) -> None:
    raise AssertionError("the network was asked")


def _pools(kept: Kept) -> list[tuple[str, Latest[Any]]]:
    return [(name, pool) for name, pool in vars(kept).items() if isinstance(pool, Latest)]


def test_a_new_question_breaks_planning_ahead_off_and_nothing_half_done_is_kept(work: list[str]) -> None:
    said: list[str] = []

    def say(text: str) -> None:
        said.append(text)
        if text == SAID and said.count(SAID) == 4:
            raise BrokenOff

    answers = Answers(say)
    with pytest.raises(BrokenOff):
        until(answers, asked(), "done")
    assert 0 < len(answers.ahead.kept.drafts) <= 3
    assert until(answers, asked(samples=64), "smallest") == until(silent(), asked(samples=64), "smallest")


def test_a_simulation_that_is_broken_off_is_made_again_by_who_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = silent()
    until(answers, asked(), "picture")
    with monkeypatch.context() as patch, pytest.raises(BrokenOff):
        patch.setattr(Rehearsal, "_simulated", _broken_off)
        answers.ahead.all(read(answers.kept, asked()), answers.ahead.lanes(asked()))
    other = next(sliders(asked()))
    assert until(answers, other, "smallest") == until(silent(), other, "smallest")


def _broken_off(*_: Any, **__: Any) -> None:
    raise BrokenOff


def test_a_fault_of_planner_surfaces_there_too(monkeypatch: pytest.MonkeyPatch) -> None:
    real = drafts.drafted

    def drafted(kept: Kept, question: Any) -> Any:
        if kept is answers.ahead.kept:
            raise KeyError("of planner itself")
        return real(kept, question)

    answers = silent()
    monkeypatch.setattr(drafts, "drafted", drafted)
    with pytest.raises(KeyError, match="of planner itself"):
        until(answers, asked(), "choice")


def test_a_job_that_fits_has_its_moves_planned_before_other_ways_and_one_that_does_not_after_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Ahead, "_draw", lambda *_: None)
    for gpu, first in (("RTX 4090", {"smallest"}), ("530MiB", {"smallest", "choice", "strategies"})):
        answers, seen = silent(), list[str]()
        monkeypatch.setattr(
            answers.ahead, "all", lambda _asked, lanes, seen=seen: seen.append("all") if lanes else None
        )
        for each in answers(asked(gpu=gpu)):
            if seen[-1:] == ["all"]:
                break
            seen.append(kind_of(each))
        assert set(seen[seen.index("smallest") : seen.index("all")]) == first


def test_as_long_as_simulations_take_too_long_nothing_is_planned_ahead(
    work: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    answers, question = silent(), asked()
    monkeypatch.setattr(planning_ahead, "NEAR_SECONDS", 100.0)
    monkeypatch.setattr(planning_ahead, "SECONDS", 100.0)
    until(answers, question, "plan")
    answers.kept.simulating.put((question.model, answers.kept.recipe(question.recipe)), 200.0)
    lanes = answers.ahead.lanes(question)
    work.clear()
    answers.ahead.near(read(answers.kept, question), lanes)
    answers.ahead.all(read(answers.kept, question), lanes)
    assert work == []


def test_what_takes_long_to_trace_is_traced_for_nobody_who_did_not_ask(
    work: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    answers, question = silent(), asked()
    monkeypatch.setattr(planning_ahead, "TRACE_SECONDS", 0.0)
    until(answers, question, "plan")
    work.clear()
    answers.ahead.near(read(answers.kept, question), answers.ahead.lanes(question))
    answers.ahead.near(read(answers.kept, question), answers.ahead.lanes(question)[2:])
    assert work == ["simulated"] * NEAR, "other samples need no trace, another length does"


def test_no_model_is_built_or_traced_from_the_start_for_what_nobody_asked(work: list[str]) -> None:
    answers = silent()
    answers.ahead.all(read(answers.kept, asked()), answers.ahead.lanes(asked()))
    assert work == []


def test_what_is_trained_is_not_planned_ahead(work: list[str]) -> None:
    answers, question = silent(), asked("autoround_w4a16")
    until(answers, question, "plan")
    work.clear()
    answers.ahead.all(read(answers.kept, question), answers.ahead.lanes(question))
    assert work == []
