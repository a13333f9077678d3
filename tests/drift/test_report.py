import json
from collections.abc import Callable

import pytest

from planner.compress.schema import Plan
from planner.drift.compare import compare_steps
from planner.drift.schema import Drift, DriftOfJob
from planner.reports.drift import FORMATS, render, render_markdown
from tests.drift.fabricated import held, plan, step


def of_job(rehearsed: Plan, planned: Plan, name: str = "gptq", stopped: str | None = None) -> DriftOfJob:
    found = compare_steps(rehearsed, planned)
    return DriftOfJob(
        name=name,
        model="llama-3-8b",
        recipe="gptq_w4a16",
        options="--samples 3",
        steps=found.steps,
        worst=found.worst if not stopped else (),
        off=found.off,
        only_rehearsed=found.only_rehearsed,
        only_planned=found.only_planned,
        collected_bytes=found.collected_bytes,
        stopped=stopped,
        seconds=1.0,
    )


LINE = held("gptq_quantize.py:154 quantize_weight", "compress", 700)
THERE = [step("compress", {"weights": 400, "compress": 700}, subgraph=n, largest=(LINE,)) for n in (1, 2)]
PLANNED = [step("compress", {"weights": 400, "compress": 600}, subgraph=n) for n in (1, 2)]
OFF = of_job(plan(*THERE), plan(*PLANNED))
SAME = of_job(plan(*THERE), plan(*THERE), "awq")
STOPPED = of_job(plan(), plan(), "reap", "failed at oneshot.py:25: ValueError: no [REAP]")
VERSIONS = {"llmcompressor": "0.13.0", "torch": "2.14.1"}


def of(*jobs: DriftOfJob) -> Drift:
    return Drift(planned_for="0.14.0.1", versions=VERSIONS, planned_with={"torch": "2.13.0"}, jobs=jobs)


def test_a_job_that_is_off_says_where_what_holds_it_and_what_the_plan_follows() -> None:
    text = render(of(OFF, SAME))
    assert "rehearsed  llmcompressor 0.13.0, torch 2.14.1" in text
    assert "planned    for llmcompressor 0.14.0.1, traced with torch 2.13.0" in text
    assert "1/3 compress, 2/3 compress: requested 1.074 GiB, planned 0.977 GiB (-9.1%)" in text
    assert "gptq_quantize.py:154 quantize_weight" in text
    assert "gptq/base.py compress_module_list" in text
    assert "1 of 2 jobs are not as planned: gptq." in text
    assert text.count("llama-3-8b, gptq_w4a16") == 1


@pytest.mark.parametrize("form", [render, render_markdown])
def test_what_was_forgiven_as_collected_is_said(form: Callable[[Drift], str]) -> None:
    there = step("setup", {"weights": 400}, cpu={"model": 1000})
    ours = step("setup", {"weights": 400}, cpu={"model": 1000, "transform": 70})
    text = form(of(of_job(plan(there), plan(ours), "spinquant")))
    assert "70.00 MiB of transforms' matrices, which the plan counts to the end" in text
    assert "Plans hold for this release" in text
    assert "collected by then" not in form(of(SAME))


def test_a_job_that_stopped_says_why() -> None:
    text = render(of(STOPPED))
    assert "ValueError: no [REAP]" in text
    assert "stopped" in text


def test_plans_that_hold_are_one_line_each() -> None:
    text = render(of(SAME))
    assert "as planned" in text
    assert "Plans hold for this release: 1 jobs are as planned." in text


def test_it_fits_eighty_columns() -> None:
    assert max(map(len, render(of(OFF, SAME, STOPPED), width=80).splitlines())) <= 80


def test_json_is_the_record_and_markdown_has_the_table() -> None:
    drift = of(OFF, STOPPED)
    assert json.loads(FORMATS["json"](drift, width=None, color=False)) == drift.model_dump(mode="json")
    markdown = FORMATS["markdown"](drift, width=None, color=False)
    assert "| gptq | 2 |" in markdown
    assert "- 1/3 compress, 2/3 compress: requested" in markdown
