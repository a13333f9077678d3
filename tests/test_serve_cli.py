import json
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any, get_type_hints

import pytest

from planner.cli import main
from planner.commands.serve import parse_params
from planner.commands.serve_options import ServeFlags
from planner.errors import JobError
from planner.serving.schema import ServeOptions, Serving


def run(capsys: Any, *arguments: str) -> str:
    assert main(["serve", *arguments]) == 0
    return str(capsys.readouterr().out)


def fail(capsys: Any, *arguments: str) -> str:
    assert main(["serve", *arguments]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("planner: error: ")
    assert captured.err.count("\n") == 1
    return str(captured.err)


def test_the_table_names_every_part_and_answers_every_question(capsys: Any) -> None:
    text = run(capsys, "llama-3-8b", "--gpu", "rtx4090")
    for word in (
        "weights",
        "KV cache",
        "activations",
        "CUDA context",
        "CUDA graphs",
        "left to others",
        "total",
        "rule",
    ):
        assert word in text
    for answer in ("fits in 23.49 GiB", "at most 8,192 tokens", "at the same time", "tokens/s", "GB/s"):
        assert answer in text


def test_the_whole_table_is_as_it_was(capsys: Any) -> None:
    golden = Path(__file__).parent / "serving" / "golden" / "serve-llama-3-8b-bf16.txt"
    assert run(capsys, "llama-3-8b", "--gpu", "a100", "--gpus", "2", "--batch", "4") == golden.read_text()


def test_json_holds_what_is_promised_and_reads_back(capsys: Any) -> None:
    text = run(capsys, "qwen3-0.6b", "--gpu", "24GiB", "--format", "json")
    found = json.loads(text)
    assert found["schema_version"] == 1
    assert {"format", "bytes", "bits_per_weight"} <= set(found["weights"])
    assert {"bytes", "bytes_per_token"} <= set(found["kv_cache"])
    assert {"bytes", "method"} <= set(found["activations"])
    assert {"bytes", "parts"} <= set(found["overhead"])
    assert found["per_gpu"]["total_bytes"] > 0
    assert found["fits"] is True
    assert {"model", "max_context", "max_batch", "notes"} <= set(found)
    assert Serving.model_validate_json(text).model_dump_json(indent=1) + "\n" == text


def test_markdown_is_a_table_with_the_same_numbers(capsys: Any) -> None:
    text = run(capsys, "qwen3-0.6b", "--gpu", "24GiB", "--gpus", "2", "--format", "markdown")
    assert "| part, in GiB | GPU | all GPUs | rule |  |" in text
    assert "- verdict: fits" in text


def test_what_does_not_fit_says_so_in_capitals(capsys: Any) -> None:
    text = run(capsys, "llama-3-8b", "--gpu", "12GiB")
    assert "DOES NOT FIT in 12 GiB" in text
    assert "no context fits" in text


def test_the_result_goes_to_a_file(capsys: Any, tmp_path: Any) -> None:
    path = tmp_path / "out.json"
    assert run(capsys, "--params", "8B", "--format", "json", "-o", str(path)) == ""
    assert json.loads(path.read_text())["model"]["parameters"] == 8 * 10**9


def test_parameters_alone_need_no_torch() -> None:
    code = """
import sys
from planner.cli import main
assert main(["serve", "--params", "1T", "--weights", "IQ2_XS", "--overhead", "20%"]) == 0
found = {"torch", "transformers", "accelerate", "compressed_tensors"} & set(sys.modules)
assert not found, found
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert "323.05 GiB" in result.stdout
    assert "269.21" in result.stdout


@pytest.mark.parametrize(
    ("text", "count"),
    [("1T", 10**12), ("8B", 8 * 10**9), ("70e9", 70 * 10**9), ("8030261248", 8030261248), ("0.6b", 6 * 10**8)],
)
def test_parameters_are_read_as_people_write_them(text: str, count: int) -> None:
    assert parse_params(text) == count


@pytest.mark.parametrize("text", ["", "many", "0", "-8B", "1.5", "8 GB", "1e99", "8BB"])
def test_other_parameters_are_refused(text: str) -> None:
    with pytest.raises(JobError, match="--params"):
        parse_params(text)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give a MODEL, or --params"),
        (["llama-3-8b", "--params", "8B"], "not both"),
        (["llama-3-8b", "--gpu", "rtx4091"], "the nearest names are RTX 4090"),
        (["llama-3-8b", "--gpu", "l40s", "--gpu-memory", "48GB"], "--gpu-memory 48GB is 44.70 GiB"),
        (["llama-3-8b", "--kv-dtype", "fp9"], "unknown KV cache type"),
        (["llama-3-8b", "--weights", "Q4_K_X"], "unknown weight format"),
        (["llama-3-8b", "-ngl", "3"], "GGUF"),
        (["llama-3-8b", "--gpus", "3"], "32 attention heads"),
        (["llama-3-8b", "--split", "expert", "--gpus", "2"], "has no experts"),
        (["llama-3-8b", "--overhead", "some"], "20%"),
        (["llama-3-8b", "--reserve", "cuda-graphs"], "--reserve 'cuda-graphs'"),
        (["llama-3-8b", "--reserve", "graphs=1GiB"], "unknown overhead part"),
        (["llama-3-8b", "--bandwidth", "fast"], "--bandwidth 'fast'"),
        (["llama-3-8b", "--context", "0"], "--context 0"),
        (["llama-3-8b", "--batch", "-1"], "--batch -1"),
        (["llama-3-8b", "--gpu-memory-utilization", "1.5"], "--gpu-memory-utilization 1.5"),
        (["llama-3-8b", "--engine", "exllama"], "does not read"),
        (["--params", "8B", "-w", "Q8_0", "-ngl", "3"], "needs a model's layers"),
        (["no-such-model"], "preset"),
    ],
)
def test_every_mistake_is_one_line_that_names_it(capsys: Any, arguments: list[str], message: str) -> None:
    assert message in fail(capsys, *arguments)


def test_the_flags_are_the_options_and_have_their_defaults() -> None:
    flags = {item.name for item in fields(ServeFlags)}
    assert flags == set(ServeOptions.model_fields) - {"dtype"} | {"gpu_memory", "machine", "here", "catalogue"}
    assert ServeFlags().options() == ServeOptions()
    assert set(get_type_hints(ServeFlags)) == flags


def test_rates_and_parts_are_read_with_their_units() -> None:
    options = ServeFlags(bandwidth="1008GB/s", cpu_bandwidth="80 GB/s", reserve=["cuda-graphs=1GiB", "not-vllm=0"])
    asked = options.options()
    assert (asked.bandwidth, asked.cpu_bandwidth) == (1008 * 10**9, 80 * 10**9)
    assert asked.reserve == {"cuda-graphs": 2**30, "not-vllm": 0}


def test_a_recipes_cache_scheme_is_what_keys_and_values_are_kept_in(tmp_path: Path, capsys: Any) -> None:
    args = {"num_bits": 8, "type": "float", "strategy": "tensor", "dynamic": False, "symmetric": True}
    fields = {"targets": ["Linear"], "scheme": "W4A16", "ignore": ["lm_head"], "kv_cache_scheme": args}
    recipe = tmp_path / "kv.yaml"
    recipe.write_text(json.dumps({"quant_stage": {"quant_modifiers": {"QuantizationModifier": fields}}}))
    said = run(capsys, "llama-3-8b", "-w", str(recipe))
    assert "KV cache in fp8" in said
    assert "64.00 KiB per token" in said
    assert "observers" not in said
    assert "KV cache in bfloat16" in run(capsys, "llama-3-8b", "-w", str(recipe), "--kv-dtype", "bf16")


def test_llama_cpp_keeps_float16_unless_asked_and_says_what_it_does_not_have(capsys: Any) -> None:
    assert "KV cache in float16" in run(capsys, "llama-3-8b", "-w", "Q4_K_M")
    assert "llama.cpp keeps no fp8 cache" in run(capsys, "llama-3-8b", "-w", "Q4_K_M", "--kv-dtype", "fp8")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("-w", "Q4_K_M", "--gpu-memory-utilization", "0.8"), "--gpu-memory-utilization is vLLM's"),
        (("--overhead", "1GiB", "--reserve", "cuda-graphs=0"), "leave --reserve out"),
    ],
)
def test_an_option_that_would_do_nothing_is_refused(arguments: tuple[str, ...], said: str, capsys: Any) -> None:
    assert main(["serve", "llama-3-8b", *arguments]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("weights", "gpu", "support", "line"),
    [
        ("gptq_w4a16", "t4", "yes", "kernels   vLLM has them for integer weights (W4A16, W8A16) on T4"),
        ("gptq_w4a16", "v100-32gb", "no", "kernels   NONE: vLLM has no kernels for integer weights"),
        ("NVFP4", "l40s", "weights alone", "kernels   vLLM runs NVFP4 on L40S with activations in 16 bits"),
        ("MXFP4", "h100", "not known", "kernels   not known for mxfp4-pack-quantized on H100 SXM"),
    ],
)
def test_a_card_is_told_whether_vllm_runs_the_format_on_it(
    weights: str, gpu: str, support: str, line: str, capsys: Any
) -> None:
    job = ("llama-3-8b", "-w", weights, "--gpu", gpu)
    assert line in run(capsys, *job)
    assert json.loads(run(capsys, *job, "--format", "json"))["card_support"]["support"] == support


@pytest.mark.parametrize("job", [("-w", "bf16", "--gpu", "h100"), ("-w", "W4A16", "--gpu", "24GiB"), ("-w", "Q4_K_M")])
def test_nothing_is_said_of_kernels_where_nothing_decides_them(job: tuple[str, ...], capsys: Any) -> None:
    assert "kernels " not in run(capsys, "llama-3-8b", *job)


def test_a_card_without_bfloat16_computes_in_float16(capsys: Any) -> None:
    said = "vLLM computes in float16"
    assert said in run(capsys, "llama-3-8b", "--gpu", "t4")
    assert said not in run(capsys, "llama-3-8b", "--gpu", "l4")
    assert said not in run(capsys, "llama-3-8b", "-w", "Q4_K_M", "--gpu", "t4")
    assert said not in run(capsys, "llama-3-8b", "-w", "fp32", "--gpu", "t4")
    assert "in float32, as it takes no float16 for Gemma3" in run(capsys, "gemma-3-27b", "--gpu", "t4")


def test_a_ceiling_is_not_called_smooth_where_the_model_does_not_fit(capsys: Any) -> None:
    said = run(capsys, "llama-3-8b", "-w", "fp32", "--gpu", "rtx4090")
    assert "DOES NOT FIT" in said
    assert "if it fitted" in said
    assert "smooth" not in said
