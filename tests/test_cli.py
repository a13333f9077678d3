"""The command line: arguments in, text and exit codes out. Plans are stubs here; test_docs.py runs real ones."""

import importlib
import json
import signal
import subprocess
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from planner.cli import app, main
from planner.commands.jobs import make_job, option_of
from planner.compress.schema import Plan
from planner.errors import JobError, ModelError
from planner.fields import JOB_FIELDS
from planner.job import Job
from planner.recipe.specs import Recipe
from planner.units import GIB

PLANS = Path(__file__).parent / "data" / "plans"
JOB = ("plan", "llama-3-8b", "--recipe", "gptq_w4a16")


def load(recipe: str) -> Plan:
    return Plan.model_validate_json((PLANS / f"llama-3-8b-{recipe}.json").read_text(encoding="utf-8"))


class Planner:
    """Stands for planner.planning: hands out recorded plans and keeps what it was asked for."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []
        self.error: BaseException | None = None

    def plan(self, model: str, recipe: Recipe, job: Job, **options: Any) -> Plan:
        self.asked.append({"model": model, "recipe": recipe.name, "job": job, **options})
        if self.error:
            raise self.error
        options["progress"]("tracing")
        return load(recipe.name)

    def compare(self, model: str, recipes: list[Recipe], job: Job, **options: Any) -> tuple[Plan, ...]:
        return tuple(self.plan(model, recipe, job, **options) for recipe in recipes)


@pytest.fixture
def planner(monkeypatch: pytest.MonkeyPatch) -> Iterator[Planner]:
    stub = Planner()
    module: Any = types.ModuleType("planner.planning")
    module.plan, module.compare = stub.plan, stub.compare
    monkeypatch.setitem(sys.modules, "planner.planning", module)
    yield stub


Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def run(*arguments: str) -> tuple[int, str, str]:
        code = main(arguments)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


def refused(result: tuple[int, str, str]) -> str:
    """The one message of a refused command line."""
    code, out, err = result
    assert code == 2
    assert out == ""
    assert err.startswith("planner: error: ")
    assert err.count("\n") == 1
    assert "Traceback" not in err
    return err


# what is asked


def test_defaults_on_the_command_line_are_those_of_the_job() -> None:
    assert make_job({}) == make_job({field.name: field.typed_default for field in JOB_FIELDS}) == Job()


def test_every_job_field_has_an_option_and_its_spelling_is_known(run: Run) -> None:
    _, help_text, _ = run("plan", "--help")
    for field in Job.model_fields:
        assert option_of(field) in help_text


def test_every_option_reaches_the_job(planner: Planner, run: Run) -> None:
    options = (
        "--samples 16 --seq-len 128 --batch-size 2 --pipeline sequential --sequential-targets A,B "
        "--targets-per-subgraph 2 --offload-device gpu --no-propagate-error --prefetch --no-calibrate-all-experts "
        "--linearized --dtype float16 --gpu-memory 24GiB --images 1 --image-size 644x448 --layers 3 --vision-layers 4 "
        "--loss-mask"
    )
    code, _, _ = run(*JOB, *options.split(), "--method", "rule-of-thumb")
    assert code == 0
    (asked,) = planner.asked
    assert (asked["model"], asked["recipe"], asked["method"]) == ("llama-3-8b", "gptq_w4a16", "rule-of-thumb")
    assert asked["job"] == Job(
        samples=16,
        seq_len=128,
        batch_size=2,
        pipeline="sequential",
        sequential_targets=("A", "B"),
        targets_per_subgraph=2,
        offload_device="gpu",
        propagate_error=False,
        prefetch=True,
        loss_mask=True,
        calibrate_all_experts=False,
        linearized=True,
        dtype="float16",
        gpu_memory_bytes=24 * GIB,
        images=1,
        image_size=(644, 448),
        layers=3,
        vision_layers=4,
    )


@pytest.mark.parametrize("recipes", [["gptq_w4a16"], ["rtn_fp8_dynamic", "gptq_w4a16"]])
def test_compare_takes_recipe_as_often_as_it_is_given(planner: Planner, run: Run, recipes: list[str]) -> None:
    arguments = [word for recipe in recipes for word in ("--recipe", recipe)]
    code, out, _ = run("compare", "llama-3-8b", *arguments)
    assert code == 0
    assert [asked["recipe"] for asked in planner.asked] == recipes
    assert all(recipe in out for recipe in recipes)


# what comes out


def test_the_table_is_the_default_and_stdout_holds_the_result_alone(planner: Planner, run: Run) -> None:
    code, out, err = run(*JOB)
    assert (code, err) == (0, "")
    assert out.startswith("verdict   fits in 80 GiB")
    assert out.endswith("\n")


def test_json_on_stdout_is_the_plan(planner: Planner, run: Run) -> None:
    _, out, _ = run(*JOB, "--format", "json")
    assert Plan.model_validate_json(out) == load("gptq_w4a16")


def test_compare_json_holds_the_plans(planner: Planner, run: Run) -> None:
    _, out, _ = run("compare", "x", "-r", "gptq_w4a16", "-r", "rtn_fp8_dynamic", "--format", "json")
    assert [plan["recipe"] for plan in json.loads(out)["plans"]] == ["gptq_w4a16", "rtn_fp8_dynamic"]


def test_markdown(planner: Planner, run: Run) -> None:
    assert run(*JOB, "--format", "markdown")[1].startswith("### llama-3-8b, gptq_w4a16")
    assert run("compare", "x", "-r", "gptq_w4a16", "--format", "markdown")[1].startswith("### ")


def test_steps_all_is_longer_than_folded(planner: Planner, run: Run) -> None:
    assert len(run(*JOB, "--steps", "all")[1].splitlines()) > 2 * len(run(*JOB)[1].splitlines())


def test_models_and_recipes_list_what_there_is(run: Run) -> None:
    assert "671,026,404,352" in run("models")[1]
    assert "gptq_w4a16" in run("recipes")[1]
    assert "| deepseek-r1 |" in run("models", "--format", "markdown")[1]
    assert {each["name"] for each in json.loads(run("models", "--format", "json")[1])["models"]} >= {"llama-3-8b"}
    assert {each["name"] for each in json.loads(run("recipes", "--format", "json")[1])["recipes"]} >= {"rtn_w4a16"}


def test_version_names_the_planner_and_the_library_it_models(run: Run) -> None:
    code, out, _ = run("--version")
    assert code == 0
    assert out == "planner 0.1.0, models llmcompressor 0.14.0.1\n"


@pytest.mark.parametrize("command", ["plan", "compare", "graph", "models", "recipes", "gpus", "machines"])
def test_every_sub_command_explains_itself(run: Run, command: str) -> None:
    code, out, _ = run(command, "--help")
    assert code == 0
    assert "Usage: planner " + command in out
    if command in ("plan", "compare"):
        assert "Calibration data" in out
        assert "Examples" in out


def test_no_help_is_broken_where_its_source_is() -> None:
    helps = [command.help or "" for command in app.registered_commands]
    assert all(helps)
    assert not [text for text in helps if "\n" in text.replace("\n\n", "")]


@pytest.mark.parametrize("command", ["plan", "compare", "graph", "gpus", "machines"])
def test_examples_in_the_help_fit_in_a_line(command: str) -> None:
    text = importlib.import_module(f"planner.commands.{command}").EPILOG
    assert all(len(line) <= 78 for line in text.splitlines())


# mistakes


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--samples", "0"], "--samples 0: should be greater than or equal to 1"),
        (["--samples", "-5"], "--samples -5: should be greater than or equal to 1"),
        (["--samples", "many"], "'--samples'"),
        (["--samples", "1.5"], "'--samples'"),
        (["--samples", "2", "--batch-size", "3"], "--batch-size 3 is larger than --samples 2"),
        (["--layers", "1000000000000"], "--layers 1000000000000: should be less than or equal to 10000"),
        (["--seq-len", "99999999999999999999999"], "--seq-len"),
        (["--gpu-memory", "80G"], "--gpu-memory: '80G' is not a size"),
        (["--gpu-memory", "0GiB"], "--gpu-memory: '0GiB' is not a positive size"),
        (["--gpu-memory", "-1GiB"], "--gpu-memory"),
        (["--image-size", "448"], "--image-size: '448' is not a size; write height x width"),
        (["--image-size", "0x448"], "--image-size: image sides must be between 1 and"),
        (["--sequential-targets", "A,,B"], "--sequential-targets: 'A,,B' is not a list"),
        (["--sequential-targets", ""], "--sequential-targets: '' is not a list"),
        (["--pipeline", "parallel"], "'parallel' is not one of"),
        (["--offload-device", "disk"], "'disk' is not one of"),
        (["--dtype", "int4"], "'int4' is not one of"),
        (["--format", "html"], "'html' is not one of"),
        (["--method", "guess"], "'guess' is not one of"),
        (["--smples", "3"], "No such option"),
    ],
)
def test_a_mistake_is_one_message_that_names_the_option(
    planner: Planner, run: Run, arguments: list[str], message: str
) -> None:
    assert message in refused(run(*JOB, *arguments))
    assert planner.asked == [], "nothing was planned"


def test_several_mistakes_are_named_together(planner: Planner, run: Run) -> None:
    message = refused(run(*JOB, "--samples", "0", "--layers", "-1"))
    assert "--samples 0" in message
    assert "--layers -1" in message


@pytest.mark.parametrize(
    ("arguments", "command"),
    [
        (["plan"], "planner plan"),
        (["plan", "x"], "planner plan"),
        (["compare", "x"], "planner compare"),
        (["plan", "x", "-r", "y", "--loss-mask=3"], "planner plan"),
        (["model-free", "x", "--version=3"], "planner model-free"),
        (["plam"], "planner"),
        (["--version=3"], "planner"),
        (["models", "x"], "planner models"),
    ],
)
def test_a_wrong_usage_points_to_the_help_of_its_command(run: Run, arguments: list[str], command: str) -> None:
    assert f"(see {command} --help)" in refused(run(*arguments))


def test_the_command_alone_shows_the_help_and_is_a_usage_error(run: Run) -> None:
    code, out, err = run()
    assert code == 2
    assert "Usage: planner" in out + err
    assert "error" not in err


def test_an_error_of_the_planner_is_its_message_and_its_exit_code(planner: Planner, run: Run) -> None:
    planner.error = ModelError("no such model; presets like it: llama-3-8b")
    assert refused(run(*JOB)) == "planner: error: no such model; presets like it: llama-3-8b\n"


@pytest.mark.parametrize("bug", [ZeroDivisionError, BrokenPipeError, ValueError, AttributeError, KeyError, OSError])
def test_the_planners_own_bugs_are_not_hidden(planner: Planner, bug: type[Exception]) -> None:
    planner.error = bug("a bug")
    with pytest.raises(bug, match="a bug"):
        main(JOB)


def test_an_unknown_model_or_recipe_ends_in_one_message(run: Run) -> None:
    assert "llama-3-8b" in refused(run("plan", "llama-3-8c", "--recipe", "gptq_w4a16"))


# files


def test_output_writes_the_file_and_nothing_to_stdout(planner: Planner, run: Run, tmp_path: Path) -> None:
    target = tmp_path / "plan.json"
    code, out, err = run(*JOB, "--format", "json", "--output", str(target))
    assert (code, out, err) == (0, "", "")
    assert Plan.model_validate_json(target.read_text(encoding="utf-8")) == load("gptq_w4a16")
    assert list(tmp_path.iterdir()) == [target]


def test_an_output_that_cannot_be_written_is_refused_before_any_planning(
    planner: Planner, run: Run, tmp_path: Path
) -> None:
    file = tmp_path / "file"
    file.write_text("")
    assert "does not exist" in refused(run(*JOB, "--output", str(tmp_path / "none" / "plan.json")))
    assert "this is a folder" in refused(run(*JOB, "--output", str(tmp_path)))
    assert "--output" in refused(run(*JOB, "--output", str(file / "plan.json")))
    assert planner.asked == []


def test_a_failed_plan_touches_no_file(planner: Planner, run: Run, tmp_path: Path) -> None:
    target = tmp_path / "plan.json"
    target.write_text("before")
    planner.error = JobError("no")
    refused(run(*JOB, "--output", str(target)))
    assert target.read_text() == "before"
    assert list(tmp_path.iterdir()) == [target]


# interrupting


def test_ctrl_c_is_exit_code_130_without_a_word(planner: Planner, run: Run, tmp_path: Path) -> None:
    planner.error = KeyboardInterrupt()
    assert run(*JOB, "--output", str(tmp_path / "plan.json")) == (130, "", "")
    assert list(tmp_path.iterdir()) == []


SLOW = """
import sys, time, types
module = types.ModuleType("planner.planning")
def plan(*_, **__):
    print("started", file=sys.stderr, flush=True)
    time.sleep(60)
module.plan = plan
sys.modules["planner.planning"] = module
from planner.cli import run
run()
"""


def test_a_real_signal_ends_a_real_process_cleanly(tmp_path: Path) -> None:
    command = [sys.executable, "-c", SLOW, *JOB, "--output", str(tmp_path / "plan.json")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    assert process.stderr.readline() == "started\n"
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=20)
    assert (process.returncode, out, err) == (130, "", "")
    assert list(tmp_path.iterdir()) == []


def test_a_reader_that_stops_early_is_not_an_error() -> None:
    script = f"{sys.executable} -m planner models --format json | head -c 10; echo ${{PIPESTATUS[0]}}"
    result = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True)
    assert result.stderr == ""
    assert result.stdout.endswith("0\n")
