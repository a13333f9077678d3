"""Every example in `--help` runs, and ends in a job that LLM Compressor would finish."""

import re
import shlex
from typing import Any

import pytest
from typer.main import get_command

from planner.cli import app, main
from tests.built import share_presets
from tests.test_docs import check_finishes, shown_commands, update

COMMANDS: dict[str, Any] = getattr(get_command(app), "commands")  # noqa: B009  (typer's type does not say it)
WITHOUT = ("models", "recipes")
"""Commands that have nothing to ask for, and so no examples."""
NEED_MORE = ("rehearse", "measure", "drift", "report", "explain", "ui")
"""Commands that need a CUDA build of torch, a GPU or a browser, or show a part of a plan: their jobs are planned here.
test_docs.py runs the examples of all others."""


def examples(command: str) -> list[str]:
    """What the command's help shows, as it is printed."""
    with update.terminal(update.WIDTH) as stream:
        assert main([command, "--help"] if command else ["--help"]) == 0
    *_, told = re.split(r"^ Examples?$", update.plain(stream.getvalue()), flags=re.MULTILINE)
    return re.findall(r"^ (planner .*)$", told, re.MULTILINE)


def written(command: str) -> list[str]:
    """The same as the source has it, which costs no rendering; `examples` has of each what fits a line."""
    return re.findall(r"^(planner .*)$", COMMANDS[command].epilog or "", re.MULTILINE)


@pytest.mark.parametrize("command", ["", *sorted(COMMANDS)])
def test_every_example_of_a_help_is_run_by_the_test_of_the_docs(command: str) -> None:
    shown = examples(command)
    if command:
        assert [whole[: len(line)] for line, whole in zip(shown, written(command), strict=True)] == shown
    assert bool(shown) == (command not in WITHOUT), f"planner {command} --help shows {len(shown)} examples"
    assert {each for each in shown if each.split()[1] not in NEED_MORE} <= set(shown_commands())


def _jobs() -> list[str]:
    """Examples of these commands that name a job: a model and a recipe."""
    return [each for command in NEED_MORE for each in written(command) if " -r " in each or " --recipe " in each]


def _as_plan(example: str) -> list[str]:
    """The job for `planner plan`, or for `compare` where it has several recipes; as asked, in one way."""
    _, _, *words = shlex.split(example)
    for option in ("-o", "--strategy", "--step", "--device", "--format"):
        if option in words:
            del words[words.index(option) : words.index(option) + 2]
    return ["compare" if words.count("-r") > 1 else "plan", *words]


@pytest.mark.parametrize("example", _jobs())
def test_a_job_that_is_shown_for_a_gpu_or_a_rehearsal_finishes_too(
    example: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    share_presets(monkeypatch)
    assert main(_as_plan(example)) == 0
    check_finishes("planner plan ", capsys.readouterr().out)


def test_a_job_that_fails_in_the_library_would_be_noticed(capsys: Any) -> None:
    words = "plan deepseek-r1 --layers 1 -r sparsegpt_2of4 --samples 1 --seq-len 64"
    assert main(words.split()) == 0
    with pytest.raises(AssertionError, match="fails in the library"):
        check_finishes(f"planner {words}", capsys.readouterr().out)


def test_measure_and_rehearse_show_jobs() -> None:
    assert len(_jobs()) >= 2
