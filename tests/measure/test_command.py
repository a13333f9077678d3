"""planner measure refuses in one line whatever cannot be measured, before anything runs."""

import importlib.metadata
import re
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from planner.cli import main
from planner.measure import checks
from planner.measure.record import Card, MeasuredStep, Measurement
from planner.units import GIB
from planner.upstream import LLMCOMPRESSOR_VERSION

ROOT = Path(__file__).parent.parent.parent
JOB = ("measure", "llama-3-8b", "--recipe", "gptq_w4a16", "--layers", "2", "--samples", "4")
Refused = Callable[..., str]


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Refused:
    def refused(*arguments: str) -> str:
        code = main(arguments)
        out, err = capsys.readouterr()
        assert (code, out) == (2, "")
        assert err.startswith("planner: error: ")
        assert err.count("\n") == 1
        return err

    return refused


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> Callable[[str | None], None]:
    """Say which llmcompressor is installed."""
    real = importlib.metadata.version

    def install(found: str | None) -> None:
        def version(name: str) -> str:
            if name != "llmcompressor":
                return real(name)
            if found is None:
                raise importlib.metadata.PackageNotFoundError(name)
            return found

        monkeypatch.setattr(checks, "version", version)

    return install


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch, library: Callable[[str | None], None]) -> Callable[..., list[Any]]:
    """A machine with the right library and a card; returns what was asked to be run."""

    def install(free: int = 79 * GIB, result: Measurement | None = None) -> list[Any]:
        from planner.measure import run

        library(LLMCOMPRESSOR_VERSION)
        asked: list[Any] = []

        def measure(request: Any, keep: Any, say: Any) -> Measurement:
            asked.append(request)
            made = result or Measurement(source="device", complete=True)
            keep(made)
            return made

        monkeypatch.setattr(checks, "find_card", lambda: Card(name="toy", total_bytes=80 * GIB, free_bytes=free))
        monkeypatch.setattr(run, "measure", measure)
        return asked

    return install


def test_without_the_extra_it_says_how_to_get_it(refused: Refused, library: Any) -> None:
    library(None)
    assert "pip install 'compression-planner[measure]'" in refused(*JOB)


def test_another_version_than_the_plans_is_refused(refused: Refused, library: Any) -> None:
    library("0.13.0")
    assert f"llmcompressor 0.13.0 is installed, and plans are for {LLMCOMPRESSOR_VERSION}" in refused(*JOB)


def test_without_an_accelerator_it_says_so(refused: Refused, library: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    library(LLMCOMPRESSOR_VERSION)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "no accelerator" in refused(*JOB)


def test_too_little_gpu_memory_for_the_plan_is_refused(refused: Refused, device: Any) -> None:
    asked = device(free=2 * GIB)
    message = refused(*JOB)
    assert re.search(r"the plan needs 4\.224 GiB of GPU memory and 2\.000 GiB is free", message)
    assert "--force" in message
    assert not asked


def test_too_little_cpu_memory_for_the_plan_is_refused(
    refused: Refused, device: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    device()
    monkeypatch.setattr(checks, "available_bytes", lambda: GIB)
    assert "of CPU memory and 1.000 GiB is free" in refused(*JOB)


def test_force_goes_on(device: Any, capsys: pytest.CaptureFixture[str]) -> None:
    asked = device(free=GIB)
    assert main([*JOB, "--force"]) == 0
    (request,) = asked
    assert (request.source.name, request.recipe.name, request.job.layers) == ("llama-3-8b", "gptq_w4a16", 2)
    assert request.job.gpu_memory_bytes == 80 * GIB  # the card's, whatever the default is
    assert '"complete": true' in capsys.readouterr().out


def test_what_cannot_be_planned_is_measured_by_force_alone(
    refused: Refused, device: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = device()
    recipe = tmp_path / "calc.yaml"
    fields = "{targets: [Linear], init_sparsity: 0, final_sparsity: 1, start: 0, end: 1, update_scheduler: calc(1)}"
    text = f"a_stage:\n  a_modifiers:\n    MagnitudePruningModifier: {fields}\n"
    recipe.write_text(text, encoding="utf-8")
    words = ("measure", "llama-3-8b", "--recipe", str(recipe), "--layers", "2")
    assert "--force measures without a plan" in refused(*words)
    run = tmp_path / "run.json"
    assert main([*words, "--force", "-o", str(run)]) == 0
    assert len(asked) == 1
    assert "MagnitudePruningModifier" in (asked[0].recipe.text or "")
    assert run.exists()
    assert capsys.readouterr().out == ""  # nothing to lay beside it


@pytest.mark.parametrize(
    ("stopped", "code"), [("out of memory in 2/5 compress", 1), ("interrupted in 2/5 compress", 130)]
)
def test_a_job_that_stopped_keeps_its_steps_and_fails(
    device: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], stopped: str, code: int
) -> None:
    step = MeasuredStep(index=0, modifier=None, subgraph=None, of=None, phase="load", unit="load")
    device(result=Measurement(source="device", complete=False, stopped=stopped, steps=(step,)))
    run = tmp_path / "run.json"
    assert main([*JOB, "-o", str(run)]) == code
    assert f"planner: error: {stopped}; the 1 steps before that are in {run}" in capsys.readouterr().err
    assert Measurement.model_validate_json(run.read_text()).stopped == stopped


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("measure",), "name a MODEL and a --recipe"),
        (("measure", "llama-3-8b"), "name a MODEL and a --recipe"),
        (("measure", "llama-3-8b", "-r", "gptq_w4a16", "--log", "x.log"), "--log reads a finished run"),
        (("measure", "--log", "nowhere.log"), "nowhere.log: cannot be read"),
        ((*JOB, "-o", "/nowhere/run.json"), "the folder /nowhere does not exist"),
        ((*JOB, "--batch-size", "8"), "--batch-size 8 is larger than --samples 4"),
        (("accuracy",), "Missing argument"),
        (("accuracy", "nowhere.json"), "nowhere.json: cannot be read"),
    ],
)
def test_mistakes_are_one_line(refused: Refused, words: tuple[str, ...], message: str) -> None:
    assert message in refused(*words)


def test_the_extra_asks_for_the_version_that_plans_are_for() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert extras["measure"] == [f"llmcompressor=={LLMCOMPRESSOR_VERSION}"]


def test_a_containers_limit_counts_where_it_is_less(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "_system_bytes", lambda: 10)
    monkeypatch.setattr(checks, "_container_bytes", lambda: 5)
    assert checks.available_bytes() == 5
    monkeypatch.setattr(checks, "_container_bytes", lambda: None)
    assert checks.available_bytes() == 10
