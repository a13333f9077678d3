"""Names that people type from other tools: taken where the meaning is the same, else one line with what to write."""

import json
import shlex
from typing import Any

import pytest
from typer.main import get_command

from planner.cli import app, main
from planner.commands.jobs import make_job
from planner.commands.words import SYNONYMS, hint, spelled
from planner.job import Job

COMMANDS: dict[str, Any] = getattr(get_command(app), "commands")  # noqa: B009  (typer's type does not say it)
WORDS = {"gpu", "gpu:1", "bfloat16", "float16", "float32"}
"""Values of options, not their names."""


def options_of(command: str) -> set[str]:
    return {option for parameter in COMMANDS[command].params for option in parameter.opts}


def refused(line: str, capsys: pytest.CaptureFixture[str]) -> str:
    assert main(shlex.split(line)) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    return err.removeprefix("planner: error: ").strip()


@pytest.mark.parametrize("command", sorted(set(SYNONYMS) & set(COMMANDS)))
def test_a_synonym_stands_for_an_option_that_some_command_of_its_kind_has_and_hides_none(command: str) -> None:
    has, kin = options_of(command), [each for each in COMMANDS if SYNONYMS.get(each) == SYNONYMS[command]]
    of_kin = set().union(*map(options_of, kin))
    for name, meant in SYNONYMS[command].items():
        assert f"--{name}" not in has, f"{command} has a --{name} of its own"
        assert meant in WORDS or f"--{meant}" in of_kin


@pytest.mark.parametrize("command", sorted(name for name in COMMANDS if name != "rehearse"))
def test_every_command_that_takes_samples_knows_what_oneshot_calls_them(command: str) -> None:
    if "--samples" in options_of(command):
        assert spelled(command)("num_calibration_samples") == "samples"


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("plan x -r y --num-calibration-samples 0", "--samples 0: "),
        ("plan x -r y --num_calibration_samples=0", "--samples 0: "),
        ("compare x -r y --max_seq_length 0", "--seq-len 0: "),
        ("fit x -r y --sequential_targets_per_subgraph 0", "--targets-per-subgraph 0: "),
        ("plan x -r y --batch_size 0", "--batch-size 0: "),
        ("serve x --max-model-len 0", "--context 0: "),
        ("serve x --max-num-seqs 0", "--batch 0: "),
        ("formats x --max_model_len 0", "--context 0: "),
        ("serve x --tensor-parallel-size 0", "--gpus 0: "),
        ("train x --per_device_train_batch_size 0", "--batch-size 0: "),
        ("plan x -r y --max-model-len 9", "No such option: --max-model-len; that is of serving (`planner serve`); a "),
        ("plan x -r y --max-num-seqs 9", "No such option: --max-num-seqs; that is of serving (`planner serve`); sam"),
        ("plan x -r y --device_map auto", "No such option: --device-map; write --weights: cpu, gpu for device_map="),
        ("plan x -r y --scheme W4A16", "No such option: --scheme; the recipe says that: -r FILE, and --set MODIF"),
        ("plan --model x -r y", "No such option: --model; the model comes first, without an option: planner plan M"),
        ("serve x --quantization fp8", "No such option: --quantization; write --weights FORMAT"),
        ("plan x", "Missing option '--recipe' / '-r'; `planner recipes` lists what ships (see planner plan --help)"),
        ("train", "Missing argument 'MODEL'; `planner models` lists what ships (see planner train --help)"),
        ("serve x -r gptq_w4a16", "No such option: -r; `planner serve MODEL --weights RECIPE`"),
        ("bpw x --recipe gptq_w4a16", "No such option: --recipe; `planner serve MODEL --weights RECIPE`"),
        ("rehearse x -r y --max_seq_length 9", "--max_seq_length 9: with --recipe there is no script that would take"),
        ("plan x -r y --sequential-offload-device disk", "Invalid value for '--offload-device'"),
        ("plan x -r y --foo_bar 9", "No such option: --foo-bar (see planner plan --help)"),
        ("plan x -r y --seq_lan 9", "No such option: --seq-lan (Possible options: --seq-len)"),
        ("model_fre x", "No such command 'model_fre'. Did you mean 'model-free'"),
    ],
)
def test_a_name_of_another_tool_works_or_says_what_to_write(
    line: str, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert refused(line, capsys).startswith(told)


def test_a_plan_with_the_names_of_oneshot_is_the_plan_with_our_own(capsys: pytest.CaptureFixture[str]) -> None:
    def planned(options: str) -> Any:
        words = shlex.split(f"plan qwen3-0.6b -r rtn_w8a8_static --layers 1 --format json {options}")
        assert main(words) == 0
        return json.loads(capsys.readouterr().out)

    ours = "--samples 2 --seq-len 64 --offload-device gpu --prefetch --loss-mask --dtype float16"
    theirs = (
        "--num_calibration_samples 2 --max_seq_length 64 --sequential_offload_device cuda:0 --sequential_prefetch "
        "--use_loss_mask --torch-dtype fp16"
    )
    assert planned(theirs) == planned(ours)


def test_a_script_keeps_its_own_options() -> None:
    assert spelled("rehearse")("max_seq_length") == "max_seq_length"


def test_an_unknown_name_has_no_hint() -> None:
    assert hint("plan", "--nonsense") == ""
    assert make_job({}) == Job()


@pytest.mark.parametrize(
    ("typed", "first"),
    [
        ("llama-3-70b", "llama-3.3-70b"),
        ("llama-8b", "llama-3-8b"),
        ("Llama_3_8B", "llama-3-8b"),
        ("qwen3-4b", "qwen3-8b"),
        ("qwen-3-30b", "qwen3-30b-a3b"),
        ("deepseek", "deepseek-r1"),
        ("deepseek-v3.1", "deepseek-r1"),
        ("gpt-oss-120b", "gpt-oss-20b"),
        ("gemma-3-12b", "gemma-3-27b"),
        ("mistral", "mistral-7b"),
        ("qwen2-vl-7b", "qwen2.5-vl-7b"),
    ],
)
def test_a_name_that_is_nearly_a_preset_finds_its_neighbour(
    typed: str, first: str, capsys: pytest.CaptureFixture[str]
) -> None:
    told = refused(f"graph {typed}", capsys)
    assert f"presets like it: {first}" in told


@pytest.mark.parametrize(
    ("typed", "meant"),
    [("gptq-w4a16", "gptq_w4a16"), ("GPTQ_W4A16", "gptq_w4a16"), ("W4A16", "rtn_w4a16"), ("awq", "awq_w4a16"),
     ("smoothquant", "smoothquant_w8a8"), ("fp8_dynamic", "rtn_fp8_dynamic"), ("nvfp4", "rtn_nvfp4")],
)  # fmt: skip
def test_a_name_that_is_nearly_a_recipe_finds_its_neighbour(
    typed: str, meant: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert f"did you mean {meant}?" in refused(f"plan qwen3-0.6b -r {typed}", capsys)
