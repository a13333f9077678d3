"""What a question is answered with, and what is kept between two of them: on real models, in this process."""

import json
from itertools import islice
from types import SimpleNamespace
from typing import Any

import pytest

from planner.compress.binding import decides_program, make_program
from planner.compress.fit import Rehearsal
from planner.compress.schema import Plan
from planner.errors import ModelError, RecipeError
from planner.models import load as loading
from planner.planning import drafted_plan, plan, sized_plan
from planner.sizing.demands import judged
from planner.ui.answers import Answers
from planner.ui.kept import GRAPHS
from planner.ui.latest import Latest
from planner.ui.lines import kind_of, line
from planner.ui.question import PageQuestion
from planner.units import MIB, human_bytes
from tests import built
from tests.ui.fakes import CONFIG

MODEL = "qwen3-0.6b"
RTN = "rtn_w4a16"

Lines = list[dict[str, Any]]


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> Answers:
    built.share_presets(monkeypatch)
    return Answers(lambda _text: None)


@pytest.fixture
def traces(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The jobs for which a model was traced."""
    seen: list[Any] = []
    real = loading.graph_of

    def graph_of(model: Any, job: Any) -> Any:
        seen.append(job)
        return real(model, job)

    monkeypatch.setattr(loading, "graph_of", graph_of)
    return seen


def asked(recipe: str = RTN, *, gpu: str = "L40S", ram: float | None = 64, **job: Any) -> PageQuestion:
    content = {
        "client": "page-1",
        "model": {"name": MODEL},
        "recipe": {"name": recipe},
        "gpu": gpu,
        "ram_gib": ram,
        "job": job,
    }
    return PageQuestion.model_validate(content)


def until(answers: Answers, question: PageQuestion, last: str) -> Lines:
    lines: Lines = []
    for each in answers(question):
        lines.append(json.loads(each))
        if kind_of(each) == last:
            break
    return lines


def test_a_line_is_one_line_and_its_kind_is_read_from_its_beginning() -> None:
    data = line("progress", text='a "quoted"\nword')
    assert data.count(b"\n") == 1
    assert kind_of(data) == "progress"
    assert json.loads(data) == {"kind": "progress", "text": 'a "quoted"\nword'}


def test_what_is_soonest_known_comes_first(answers: Answers) -> None:
    lines = until(answers, asked(), "done")
    kinds = [each["kind"] for each in lines]
    assert kinds[:4] == ["verdict", "plan", "picture", "smallest"]
    choices = [each["choice"]["strategy"] for each in lines if each["kind"] == "choice"]
    order = next(each["order"] for each in lines if each["kind"] == "strategies")
    assert sorted(choices) == sorted(order)
    assert "as asked" in choices
    ways = [*["choice"] * len(choices), "strategies", *["card"] * len(choices), "strategies", "idle"]
    assert kinds[4:] == [*ways, "done"]
    cards = {each["choice"]["strategy"]: each["bytes"] for each in lines if each["kind"] == "card"}
    assert list(cards) == order
    assert cards["as asked"] == lines[3]["plan"]["gpu"]["smallest_card_bytes"]


def test_once_its_smallest_card_is_known_a_way_says_what_is_missing_to_that_and_those_that_change_nothing_leave(
    answers: Answers,
) -> None:
    lines = until(answers, asked(gpu="500MiB"), "done")
    choices = {each["choice"]["strategy"]: each for each in lines if each["kind"] == "choice"}
    cards = {each["choice"]["strategy"]: each for each in lines if each["kind"] == "card"}
    lacking = [name for name, each in cards.items() if "GPU missing" in each["missing"]]
    assert lacking
    for name in lacking:
        assert cards[name]["missing"].startswith(human_bytes(cards[name]["bytes"] - 500 * MIB)), name
    assert any(cards[name]["missing"] != choices[name]["missing"] for name in lacking), "before: at most so much"
    verdict = next(each for each in lines if each["kind"] == "smallest")
    assert cards["as asked"]["choice"]["fits"] == verdict["fits"]
    demands = [{key: value for key, value in each.items() if key != "words"} for each in verdict["demands"]]
    assert cards["as asked"]["choice"]["demands"] == demands
    orders = [each["order"] for each in lines if each["kind"] == "strategies"]
    assert sorted(orders[-1]) == sorted(orders[0]) == sorted(choices)
    idle = next(each for each in lines if each["kind"] == "idle")
    assert set(idle["names"]) < set(choices) - {"as asked"}


def test_a_page_that_made_way_gets_its_smallest_card_though_another_page_had_it_looked_for(answers: Answers) -> None:
    until(answers, asked(), "smallest")  # another page, the same question
    first = json.loads(next(answers(asked(), ("verdict", "plan", "picture"))))
    assert first["kind"] == "smallest"
    assert first["plan"]["gpu"]["smallest_card_bytes"]
    assert [kind_of(each) for each in islice(answers(asked()), 3)] == ["plan", "picture", "choice"], "with the plan"


def test_an_empty_field_of_a_form_is_no_field() -> None:
    empty = {"model": {"name": MODEL, "config": ""}, "recipe": {"name": " ", "text": "x"}}
    question = PageQuestion.model_validate({**asked().model_dump(), **empty})
    assert (question.model.config, question.recipe.name) == (None, None)


def test_the_plan_is_the_one_that_plan_makes(answers: Answers) -> None:
    question = asked()
    shown = until(answers, question, "smallest")[-1]
    whole = plan(MODEL, RTN, question.asked_job(), machine=question.machine())
    assert Plan.model_validate(shown["plan"]) == whole
    assert shown["fits"] == whole.fits
    assert f"planner plan {MODEL} -r {RTN} --gpu L40S --ram 64GiB" in shown["words"]["command"]
    assert "oneshot(" in shown["words"]["call"]


def test_a_program_does_not_hang_on_what_a_move_changes() -> None:
    kept, recipe = Answers(print).kept, Answers(print).kept.recipe(asked("gptq_w4a16").recipe)
    first, other = asked(samples=8).asked_job(), asked(gpu="24GiB", samples=9, offload_device="gpu").asked_job()
    graph = built.graph_of(MODEL, first)
    assert decides_program(recipe, first) == decides_program(recipe, other)
    assert make_program(graph, recipe, first) == make_program(graph, recipe, other)
    trained = kept.recipe(asked("autoround_w4a16").recipe)
    assert decides_program(trained, first) != decides_program(trained, other)


def test_a_plan_says_whether_the_model_sees_and_what_an_outline_needs(answers: Answers) -> None:
    shown = until(answers, asked(), "plan")[-1]
    assert shown["vision"] is False
    assert set(shown["entry"]["parts"]) == {"gpu", "cpu"}


def test_a_drafted_plan_lacks_the_smallest_card_alone() -> None:
    question = asked("gptq_w4a16", samples=8)
    graph, recipe = built.graph_of(MODEL, question.asked_job()), Answers(print).kept.recipe(question.recipe)
    drafted = drafted_plan(graph, recipe, question.asked_job())
    draft, whole = drafted.plan, drafted.whole()
    assert whole == sized_plan(graph, recipe, question.asked_job())
    assert draft.gpu.smallest_card_bytes is None
    assert draft == whole.model_copy(update={"gpu": whole.gpu.model_copy(update={"smallest_card_bytes": None})})


def test_the_first_verdict_says_what_the_last_one_says(answers: Answers) -> None:
    for gpu in ("L40S", "700MiB"):
        lines = [each for each in until(answers, asked(gpu=gpu), "smallest") if each["kind"] != "picture"]
        assert [each["fits"] for each in lines] == [lines[-1]["fits"]] * 3


def test_a_model_is_traced_once_for_all_cards_samples_and_ram(answers: Answers, traces: list[Any]) -> None:
    for question in (asked(), asked(samples=64), asked(gpu="24GiB"), asked(ram=32), asked("rtn_fp8_dynamic")):
        until(answers, question, "plan")
    assert len(traces) == 1
    until(answers, asked(seq_len=1024), "plan")
    assert len(traces) == 2


def test_other_ram_is_held_against_the_same_plan_without_another_simulation(
    answers: Answers, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = until(answers, asked(), "smallest")[-1]
    monkeypatch.setattr("planner.ui.drafts.drafted_plan", None)
    second = until(answers, asked(ram=0.25), "plan")[-1]
    assert (first["fits"], second["fits"]) == ("yes", "no")
    assert Plan.model_validate(second["plan"]) == judged(Plan.model_validate(first["plan"]), asked(ram=0.25).machine())


def test_a_card_on_which_the_job_is_told_the_same_needs_no_simulation(
    answers: Answers, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, other = (asked("gptq_w4a16", gpu=size, samples=4) for size in ("80GiB", "40GiB"))
    fresh = next(iter(Answers(lambda _text: None)(other)))
    assert next(iter(answers(first))) != fresh
    monkeypatch.setattr(Rehearsal, "_simulated", None)
    assert next(iter(answers(other))) == fresh


def test_what_could_not_be_made_is_not_kept() -> None:
    kept: Latest[int] = Latest(3)

    def fail() -> int:
        raise ModelError("no")

    with pytest.raises(ModelError):
        kept.get(1, fail)
    assert 1 not in kept


def test_traces_are_bounded_by_their_number(answers: Answers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "graph_of", lambda _built, job: SimpleNamespace(job=job, tune=None, receivers=None))
    for number in range(GRAPHS + 3):
        answers.kept.graph(asked().model, asked(seq_len=128 + number).asked_job())
    assert len(answers.kept.graphs) == GRAPHS


YAML = """
some_stage:
  some_modifiers:
    QuantizationModifier: {targets: [Linear], scheme: FP8_DYNAMIC, ignore: [lm_head]}
"""


def test_pasted_texts_are_planned_and_pasted_back_as_files(answers: Answers) -> None:
    pasted = {"model": {"config": json.dumps(CONFIG)}, "recipe": {"text": YAML}}
    question = PageQuestion.model_validate({**json.loads(asked().model_dump_json()), **pasted})
    shown = until(answers, question, "plan")[-1]
    assert shown["plan"]["model"]["parameters"] == plan(CONFIG, YAML, question.asked_job()).model.parameters
    assert shown["words"]["command"].startswith("planner plan config.json -r recipe.yaml ")
    assert "recipe='recipe.yaml'" in shown["words"]["call"]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model": {"config": "/etc/passwd"}}, "config.json: not JSON"),
        ({"model": {"config": '{"model_type": "none-such"}'}}, "knows no model_type"),
        ({"model": {"config": '{"model_type": "x", "auto_map": {}}'}}, "a plan never runs"),
        ({"recipe": {"text": "/etc/passwd"}}, "is not a recipe but a line of text"),
        ({"recipe": {"text": "!!python/object/apply:os.system [ls]"}}, "Python tag"),
    ],
)
def test_pasted_text_is_read_as_text_and_nothing_else(answers: Answers, changes: dict[str, Any], said: str) -> None:
    question = PageQuestion.model_validate({**json.loads(asked().model_dump_json()), **changes})
    with pytest.raises((ModelError, RecipeError), match=said):
        until(answers, question, "plan")


def test_gptq_one_module_at_a_time_is_a_question_of_its_own(answers: Answers) -> None:
    question = asked("gptq_w4a16", samples=8)
    single = question.model_copy(update={"one_by_one": True})
    batched, alone = (until(answers, each, "plan")[-1] for each in (question, single))
    peaks = [[step["gpu"]["peak_bytes"] for step in each["plan"]["steps"]] for each in (alone, batched)]
    assert sum(peaks[0]) < sum(peaks[1])
    assert "--set GPTQModifier.batched_quantization=1" in alone["words"]["command"]


@pytest.mark.parametrize(
    "extra",
    [
        {"_attn_implementation": "kernels-community/flash-attn"},
        {"auto_map": {"AutoModelForCausalLM": "someone/model--code.Model"}},
        {"_name_or_path": "/etc"},
    ],
    ids=lambda extra: next(iter(extra)),
)
def test_a_pasted_config_brings_no_code_and_asks_nothing_of_the_network(
    answers: Answers, monkeypatch: pytest.MonkeyPatch, extra: dict[str, Any]
) -> None:
    def refused(*_: Any) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr("socket.getaddrinfo", refused)
    monkeypatch.setattr("socket.socket.connect", refused)
    pasted = {"model": {"config": json.dumps({**CONFIG, **extra})}, "recipe": {"text": YAML}}
    question = PageQuestion.model_validate({**json.loads(asked().model_dump_json()), **pasted})
    assert until(answers, question, "plan")[-1]["fits"] == "yes"
