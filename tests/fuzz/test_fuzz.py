"""Whatever is asked: exit code 0, 1 or 2, an error of one line, no traceback, bounded time and memory, nothing left.

A few of all cases, the same each time; `make fuzz` looks at others for ten minutes. What it finds gets a test of its
own in test_found.py.
"""

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from planner.commands.shell import TOO_LITTLE
from tests.fuzz.cases import case
from tests.fuzz.running import ROOM, Case, Ended, run, seeded, wrong_with

FEW = settings(max_examples=80, derandomize=True, database=None, phases=(Phase.explicit, Phase.generate, Phase.shrink))


@FEW
@given(st.randoms(use_true_random=False))
def test_no_input_ends_in_a_traceback_or_without_an_end(source: random.Random) -> None:
    asked = case(source)
    assert wrong_with(asked, run(asked)) == "", asked.words


@pytest.mark.parametrize("seed", [3, 11])
def test_a_process_ends_as_a_call_does(seed: int, tmp_path: Path) -> None:
    asked, folder = case(seeded(seed)), tmp_path / "here"  # by which `run` calls it: it is a model's name in errors
    folder.mkdir()
    for name, data in asked.files.items():
        (folder / name).write_bytes(data)
    command = [sys.executable, "-m", "planner", *asked.words]
    root = str(Path(__file__).parent.parent.parent)
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": root}
    ran = subprocess.run(
        command, cwd=folder, input=asked.stdin, capture_output=True, check=False, timeout=300, env=environment
    )
    here = run(asked)
    assert (ran.returncode, ran.stderr.decode()) == (here.code, here.err)
    assert sorted(path.name for path in folder.iterdir()) == sorted(asked.files)


@pytest.mark.parametrize(
    ("ended", "told"),
    [
        (Ended(code=3, out="", err=""), "exit code 3"),
        (Ended(code=None, out="", err="", crash="ValueError: x"), "ValueError: x"),
        (Ended(code=2, out="", err="planner: error: a\nb\n"), "an error that is not one line"),
        (Ended(code=2, out="", err=""), "an error that is not one line"),
        (Ended(code=2, out="half a table", err="planner: error: a\n"), "an error, and a result"),
        (Ended(code=0, out="a table", err="a warning\n"), "stderr of a result"),
        (Ended(code=1, out="", err=f"planner: error: {TOO_LITTLE}\n"), f"takes more than {ROOM} bytes"),
        (Ended(code=0, out="", err="", left=("x.part",)), "left behind: x.part"),
        (Ended(code=0, out="Traceback (most recent call last)", err=""), "a traceback is shown"),
    ],
)
def test_every_bad_end_is_seen(ended: Ended, told: str) -> None:
    assert wrong_with(Case(words=("plan",)), ended).startswith(told)


def test_good_ends_are_none() -> None:
    assert wrong_with(Case(words=("plan",)), Ended(code=0, out="a table", err="")) == ""
    assert wrong_with(Case(words=("plan",)), Ended(code=2, out="", err="planner: error: a\n")) == ""
    assert wrong_with(Case(words=("fit", "--check")), Ended(code=1, out="a table", err="")) == ""


def test_cases_are_of_every_command_and_most_of_them_are_planned_or_refused_with_a_reason() -> None:
    words = {case(seeded(seed)).words[0] for seed in range(400)}
    expected = {"plan", "serve", "train", "fit", "compare", "model-free", "machines", "accuracy", "report", "explain"}
    assert expected <= words
    assert case(seeded(7)) == case(seeded(7))
