"""Environments, and jobs whose rehearsal a fabricated plan stands for."""

import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import planner.planning
import planner.rehearse.build
import planner.rehearse.job
from planner.cli import main
from planner.compress.schema import Plan
from planner.drift.cases import CASES, DriftCase, chosen
from planner.drift.run import check_release, drift, python_of
from planner.errors import JobError, RehearseError, StoppedError
from planner.fields import JOB_FIELDS
from planner.models.source import list_presets
from planner.recipe.files import list_recipes
from planner.upstream import LLMCOMPRESSOR_VERSION
from tests.drift.fabricated import plan, step

PLANNED = plan(step("compress", {"weights": 400, "compress": 600}, subgraph=2))
MOVED = plan(step("compress", {"weights": 400, "compress": 700}, subgraph=2))
CASE = CASES[0]


@pytest.fixture
def rehearses(monkeypatch: pytest.MonkeyPatch) -> Callable[[Plan | Exception], None]:
    """Let every rehearsal end so, in an environment that has llmcompressor 0.13.0."""

    def install(outcome: Plan | Exception) -> None:
        def rehearse_job(*_given: Any) -> Plan:
            if isinstance(outcome, Exception):
                raise outcome
            return outcome

        environment = SimpleNamespace(packages={"llmcompressor": "0.13.0", "torch": "2.14.1", "accelerate": None})
        monkeypatch.setattr(planner.rehearse.build, "interpreter", lambda *_given: environment)
        monkeypatch.setattr(planner.rehearse.job, "rehearse_job", rehearse_job)
        monkeypatch.setattr(planner.planning, "plan", lambda *_given: PLANNED)

    return install


def silent(_text: str) -> None:
    pass


def test_every_named_job_is_one_of_shipped_models_and_recipes_and_differs_from_the_others() -> None:
    presets, recipes = {each.name for each in list_presets()}, {each.name for each in list_recipes()}
    assert {case.model for case in CASES} <= presets
    assert {case.recipe for case in CASES} <= recipes
    assert len({case.name for case in CASES}) == len(CASES) >= 12
    page = (Path(__file__).parents[2] / "docs" / "drift.md").read_text(encoding="utf-8")
    assert all(f"| {case.name} | {case.model}" in page for case in CASES)
    options = {each.option: each.name for each in JOB_FIELDS}
    for case in CASES:
        words = case.options.split()
        assert {options[word] for word in words[::2]} <= case.job.model_fields_set


def test_jobs_are_chosen_by_name_or_made_of_a_model_and_a_recipe() -> None:
    assert chosen([]) == CASES
    assert [case.name for case in chosen(["awq", "gptq", "awq"])] == ["awq", "gptq"]
    assert chosen(["m:r.yaml"]) == (DriftCase(name="m:r.yaml", model="m", recipe="r.yaml"),)
    with pytest.raises(JobError, match="gtpq: no such job; did you mean gptq"):
        chosen(["gtpq"])
    with pytest.raises(JobError, match="rtn-w4a16, "):
        chosen([":"])


def test_an_environment_is_a_folder_or_a_python(tmp_path: Path) -> None:
    assert python_of(None) is None
    assert python_of("some/python") == "some/python"
    with pytest.raises(RehearseError, match="no bin/python in this folder"):
        python_of(str(tmp_path))
    for folder in (tmp_path / "venv" / "bin", tmp_path / "bin"):
        folder.mkdir(parents=True)
        (folder / "python").symlink_to(sys.executable)
        assert python_of(str(tmp_path)) == str(folder / "python")


def test_another_release_is_refused_with_what_makes_its_environment() -> None:
    check_release("env", "0.13.0", None)
    check_release("env", "0.13.0", "0.13.0")
    with pytest.raises(RehearseError) as wrong:
        check_release("env", "0.14.0.1", "0.13.0")
    assert str(wrong.value) == (
        "--environment env has llmcompressor 0.14.0.1, not 0.13.0; make one that does: python -m venv "
        "llmcompressor-0.13.0 && llmcompressor-0.13.0/bin/pip install llmcompressor==0.13.0, then --environment "
        "llmcompressor-0.13.0"
    )
    with pytest.raises(RehearseError, match=f"own environment has no llmcompressor.*=={LLMCOMPRESSOR_VERSION}"):
        check_release(None, None, None)


def test_a_job_that_is_as_planned_and_one_that_is_not(rehearses: Callable[[Plan | Exception], None]) -> None:
    rehearses(PLANNED)
    found = drift([CASE], None, "0.13.0", silent)
    assert (found.is_off, found.planned_for) == (False, LLMCOMPRESSOR_VERSION)
    assert found.versions == {"llmcompressor": "0.13.0", "torch": "2.14.1"}
    rehearses(MOVED)
    (job,) = drift([CASE], None, None, silent).jobs
    assert [(each.figure, each.phase) for each in job.off] == [("requested", "compress"), ("reserved", "compress")]


@pytest.mark.parametrize("error", [StoppedError("failed at oneshot.py:25: ValueError: no"), RehearseError("no class")])
def test_a_job_that_the_release_does_not_get_through_is_a_result(
    error: Exception, rehearses: Callable[[Plan | Exception], None]
) -> None:
    rehearses(error)
    found = drift([CASE], None, None, silent)
    assert found.is_off
    assert found.jobs[0].stopped == str(error)


def test_running_out_of_memory_is_said(rehearses: Callable[[Plan | Exception], None]) -> None:
    from planner.compress.schema import Verdict

    rehearses(PLANNED.model_copy(update={"verdict": Verdict(outcome="out of memory", retries=0)}))
    assert drift([CASE], None, None, silent).jobs[0].stopped == "out of memory"


def test_ctrl_c_ends_it(rehearses: Callable[[Plan | Exception], None]) -> None:
    rehearses(StoppedError("interrupted", interrupted=True))
    with pytest.raises(StoppedError, match="interrupted"):
        drift([CASE], None, None, silent)


def test_check_says_it_with_the_exit_code(
    rehearses: Callable[[Plan | Exception], None], capsys: pytest.CaptureFixture[str]
) -> None:
    rehearses(MOVED)
    assert main(["drift", "gptq"]) == 0
    assert main(["drift", "gptq", "--check"]) == 1
    assert "1 of 1 jobs are not as planned: gptq." in capsys.readouterr().out
    rehearses(PLANNED)
    assert main(["drift", "gptq", "--check", "--format", "json"]) == 0
    assert '"planned_for"' in capsys.readouterr().out
    assert main(["drift", "gtpq"]) == 2
