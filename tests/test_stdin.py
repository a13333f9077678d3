"""`-r -`: a recipe on stdin, read once, in every command that takes a recipe; one line where there is none."""

import io
import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from planner import plan
from planner.choose.paste import FROM_STDIN, command_line, library_call
from planner.cli import main
from planner.compress.recipes import load_recipe
from planner.errors import RecipeError
from planner.job import Job
from planner.measure.files import recipe_argument, recipe_text
from planner.recipe.files import MAX_BYTES, ON_STDIN
from planner.reports.advice import advice

RECIPE = (Path(__file__).parent.parent / "recipes" / "rtn_w4a16.yaml").read_text(encoding="utf-8")
JOB = ("qwen3-0.6b", "--layers", "1", "--samples", "1", "--seq-len", "16")
MACHINE = ("--gpu", "8GiB", "--ram", "16GiB")


def pipe(text: str | bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    data = text.encode() if isinstance(text, str) else text
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))


@pytest.mark.parametrize(
    "command",
    [("plan",), ("compare", "-r", "rtn_w4a16"), ("fit", *MACHINE), ("strategies", *MACHINE),
     ("rent", "--cloud", "lambda")],
    ids=lambda words: words[0],
)  # fmt: skip
def test_a_recipe_on_stdin_is_planned_as_its_file_is(
    command: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def answer(recipe: str) -> str:
        assert main([command[0], *JOB, "-r", recipe, *command[1:], "--format", "json"]) == 0
        return capsys.readouterr().out

    pipe(RECIPE, monkeypatch)
    of_stdin, of_file = answer("-"), answer("rtn_w4a16")
    as_file = (
        of_stdin.replace("stdin: ", "rtn_w4a16: ").replace('"stdin"', '"rtn_w4a16"').replace("-r - ", "-r rtn_w4a16 ")
    )
    assert '"stdin"' in of_stdin
    if command[0] == "plan":
        assert json.loads(as_file) == json.loads(of_file)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "stdin: is empty; pipe the recipe in, like `-r - < recipe.yaml`"),
        (" \n\n", "stdin: is empty; "),
        ("quant_stage: [", "stdin: is not YAML in line 1"),
        ("[1, 2]", "stdin: is not a recipe but a list"),
        (b"\xff\xfe\x00", "stdin: is not text (UTF-8)"),
        (b"a" * (MAX_BYTES + 1), "stdin: is larger than 1048576 bytes"),
        ("quant_stage: {quant_modifiers: {GPTQModifer: {}}}", "stdin: quant_stage.quant_modifiers.GPTQModifer: "),
    ],
)
def test_what_is_no_recipe_on_stdin_is_one_line(
    text: str | bytes, told: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pipe(text, monkeypatch)
    assert main(["plan", *JOB, "-r", "-"]) == 2
    out, err = capsys.readouterr()
    assert err.startswith(f"planner: error: {told}")
    assert (out, err.count("\n")) == ("", 1)


def test_stdin_holds_one_recipe(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    pipe(RECIPE, monkeypatch)
    for command in (["compare", *JOB], ["report", *JOB, "-o", "-"]):
        assert main([*command, "-r", "-", "-r", "-"]) == 2
        assert capsys.readouterr().err == "planner: error: --recipe -: stdin holds one recipe; give it once\n"


def test_a_stdin_without_bytes_as_a_notebook_has_it_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(RECIPE))
    with pytest.raises(RecipeError, match="stdin: is no pipe"):
        load_recipe("-")


def test_a_terminal_and_a_closed_stdin_are_one_line() -> None:
    leader, follower = pty.openpty()
    command = f"exec {sys.executable} -m planner plan qwen3-0.6b -r -"
    try:
        terminal = subprocess.run(["bash", "-c", command], stdin=follower, capture_output=True, text=True, check=False)
    finally:
        os.close(leader)
        os.close(follower)
    closed = subprocess.run(["bash", "-c", f"{command} <&-"], capture_output=True, text=True, check=False)
    way_out = "pipe the recipe in, like `-r - < recipe.yaml`\n"
    assert (terminal.returncode, terminal.stderr) == (2, f"planner: error: stdin: is a terminal; {way_out}")
    assert (closed.returncode, closed.stderr) == (2, f"planner: error: stdin: is closed; {way_out}")


def test_measuring_and_rehearsing_give_the_library_the_text(monkeypatch: pytest.MonkeyPatch) -> None:
    pipe(RECIPE, monkeypatch)
    assert recipe_text("-") == RECIPE
    assert recipe_argument("-").strip() == RECIPE.strip()
    assert "\n" in recipe_argument("-")  # or the library would look for a file of this name
    assert recipe_argument("rtn_w4a16").endswith("/recipes/rtn_w4a16.yaml")


def test_what_is_advised_names_the_file_that_the_recipe_from_stdin_is_to_be_saved_to() -> None:
    assert command_line("fit", "m", "stdin", Job()) == f"planner fit m -r {FROM_STDIN}"


def test_advice_on_a_recipe_from_stdin_says_to_save_it_first() -> None:
    told = plan("qwen3-0.6b", "rtn_w4a16", Job(layers=1, samples=1, seq_len=64))
    sentence, command = advice(told.model_copy(update={"recipe": ON_STDIN}))
    assert sentence.endswith(f"(first save the recipe from stdin as {FROM_STDIN}):")
    assert FROM_STDIN in command


def test_what_is_pasted_names_a_file_for_the_recipe_from_stdin() -> None:
    told = plan("qwen3-0.6b", "rtn_w4a16", Job(layers=1, samples=1, seq_len=64))
    call = library_call(told, "stdin", told.job, {})
    assert "recipe='recipe.yaml'" in call
    assert "# recipe.yaml: what planner read from stdin" in call
