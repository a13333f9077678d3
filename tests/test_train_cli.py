"""planner train on the command line."""

import json
from dataclasses import fields
from pathlib import Path

import pytest

from planner.cli import main
from planner.commands.train import TrainFlags
from planner.training.schema import TrainingPlan, TrainOptions


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = main(["train", *arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_flags_and_options_have_the_same_names_and_defaults() -> None:
    flags = {item.name: item.default for item in fields(TrainFlags)}
    assert flags.pop("gpu_memory") is None  # a second name of gpu
    assert [flags.pop(name) for name in ("machine", "here", "catalogue")] == [None, False, None]
    assert flags.pop("gpus") is None  # 1, or those of the machine
    flags["gpus"] = TrainFlags().options().gpus
    assert flags == {name: field.default for name, field in TrainOptions.model_fields.items()}


def test_the_table_shows_parts_choices_and_a_verdict(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "llama-3-8b", "--gpus", "8", "--sharding", "zero3", "--gpu", "80GiB")
    assert code == 0
    for text in ("master weights", "optimizer states", "zero3 *", "optimizer+params to nvme", "fits, ", "notes"):
        assert text in out


def test_what_does_not_fit_names_a_way_that_does(capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = run(capsys, "llama-3-8b", "--gpus", "8", "--gpu", "80GiB")
    assert "does not fit" in out and "would fit" in out


def test_the_json_is_the_versioned_record(capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = run(capsys, "llama-3-8b", "--method", "qlora", "--format", "json")
    plan = TrainingPlan.model_validate_json(out)
    assert json.loads(out)["schema_version"] == plan.schema_version == 1
    assert plan.options.checkpointing == "full"


def test_markdown_is_written_to_a_file(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "plan.md"
    code, out, _ = run(capsys, "llama-3-8b", "--method", "lora", "--format", "markdown", "-o", str(path))
    assert (code, out) == (0, "")
    assert path.read_text(encoding="utf-8").startswith("### llama-3-8b, training, lora")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("llama-3-8b", "--seq-len", "0"), "--seq-len"),
        (("llama-3-8b", "--offload", "optimizer"), "offload needs ZeRO or FSDP"),
        (("llama-3-8b", "--method", "lora", "--targets", "nothing"), "no Linear"),
        (("llama-3-8b", "--method", "qlora", "--precision", "fp32"), "--precision fp32"),
        (("llama-3-8b", "--rank", "99"), "--rank"),
        (("llama-3-8b", "--targets", "q_proj"), "--targets"),
        (("llama-3-8b", "--dropout", "0.1"), "--dropout"),
        (("llama-3-8b", "--gpus", "8", "--sharding", "zero3", "--offload-to", "nvme"), "--offload-to"),
        (("llama-3-8b", "--gpu", "24"), "24GiB"),
        (("no-such-model",), "no-such-model"),
    ],
)
def test_a_mistake_is_one_line(capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], words: str) -> None:
    code, out, error = run(capsys, *arguments)
    assert code == 2 and not out
    assert words in error and error.count("\n") == 1


def test_the_layer_is_named_with_the_backward_and_not_with_the_optimizers_step(
    capsys: pytest.CaptureFixture[str],
) -> None:
    _, out, _ = run(capsys, "llama-3-8b", "--optimizer", "adafactor", "--checkpointing", "full")
    step = next(line for line in out.splitlines() if "in the optimizer step" in line)
    backward = next(line for line in out.splitlines() if "in the forward and backward" in line)
    assert step.startswith("per GPU") and "LlamaDecoderLayer" not in step and "head" not in step
    assert "in the backward of" in backward
