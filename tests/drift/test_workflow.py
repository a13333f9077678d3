"""The workflow in docs/drift.md: GitHub can read it, and what it runs is there."""

import shlex
import subprocess
from pathlib import Path
from typing import Any

import yaml
from typer.main import get_command

from planner.cli import app

ROOT = Path(__file__).parents[2]


def steps() -> list[dict[str, Any]]:
    page = (ROOT / "docs" / "drift.md").read_text(encoding="utf-8")
    workflow = yaml.safe_load(page.split("```yaml\n")[1].split("```")[0])
    found: list[dict[str, Any]] = workflow["jobs"]["drift"]["steps"]
    return found


def test_every_command_is_shell() -> None:
    runs = [step["run"] for step in steps() if "run" in step]
    assert len(runs) == 4
    for run in runs:
        subprocess.run(["bash", "-n", "-c", run], check=True)


def test_the_report_is_shown_where_there_is_one_and_no_error_where_there_is_none(tmp_path: Path) -> None:
    (run,) = (step["run"] for step in steps() if step.get("if") == "always()")
    summary = tmp_path / "summary.md"
    for text in (None, "| job |\n"):
        if text:
            (tmp_path / "drift.md").write_text(text)
        environment = {"GITHUB_STEP_SUMMARY": str(summary), "PATH": "/usr/bin:/bin"}
        subprocess.run(["bash", "-e", "-c", run], check=True, cwd=tmp_path, env=environment)
        assert summary.exists() is bool(text)
    assert summary.read_text() == "| job |\n"


def test_drift_knows_the_options_and_writes_the_report_that_is_shown() -> None:
    words = next(shlex.split(step["run"]) for step in steps() if step.get("name") == "drift")
    assert words[:2] == [".venv/bin/planner", "drift"]
    command = get_command(app).commands["drift"]  # type: ignore[attr-defined]  # a group of commands
    given = command.make_context("drift", words[2:]).params
    assert str(given["output"]) == "drift.md"
    assert given["check"] is True
    assert Path(given["environment"]).name == "release"


def test_planners_own_torch_is_the_one_of_the_constraints() -> None:
    assert any(line.startswith("torch==") for line in (ROOT / "constraints.txt").read_text().splitlines())
    assert "grep '^torch==' constraints.txt" in next(step["run"] for step in steps() if "run" in step)
