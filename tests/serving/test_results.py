"""What a compression job leaves behind: its weight on disk, and what serving it takes."""

import json
from pathlib import Path

import pytest

from planner import Job, Plan, plan
from planner.errors import UnsupportedError
from planner.models.built import BuiltModel
from planner.reports import markdown, table
from planner.serving import model as serving_model
from planner.serving.schema import ServeOptions
from planner.serving.serve import serve

JOB = Job(samples=2, seq_len=128)
FP8_CACHE = {"num_bits": 8, "type": "float", "strategy": "tensor", "dynamic": False, "symmetric": True}


def planned(recipe: str, model: str = "llama-3-8b", job: Job = JOB) -> Plan:
    return plan(model, recipe, job)


def test_w4a16_weighs_what_llm_compressor_saves() -> None:
    # vllm-project/llm-compressor issue 1215: model.safetensors of a W4A16 Llama-3-8B
    result = planned("gptq_w4a16").result
    assert result is not None
    assert result.file_bytes == 5_700_595_200
    assert result.weights_bytes < result.serving_bytes


def test_serving_the_result_takes_what_planner_serve_says() -> None:
    result = planned("rtn_fp8_dynamic").result
    assert result is not None
    served = serve("llama-3-8b", "rtn_fp8_dynamic", ServeOptions(engine="vllm"))
    assert (result.serving_bytes, result.context) == (served.per_gpu.total_bytes, served.context)
    assert result.bits_per_weight == served.weights.bits_per_weight


def test_a_cache_scheme_of_the_recipe_is_served_in_its_type(tmp_path: Path) -> None:
    fields = {"targets": ["Linear"], "scheme": "FP8_DYNAMIC", "ignore": ["lm_head"]}
    recipe = tmp_path / "kv.yaml"
    modifiers = {"QuantizationModifier": {**fields, "kv_cache_scheme": FP8_CACHE}}
    recipe.write_text(json.dumps({"quant_stage": {"quant_modifiers": modifiers}}), encoding="utf-8")
    kept, plain = planned(str(recipe)).result, planned("rtn_fp8_dynamic").result
    assert kept is not None
    assert plain is not None
    assert (kept.kv_dtype, plain.kv_dtype) == ("fp8", "bfloat16")
    assert kept.serving_bytes < plain.serving_bytes


def test_pruned_weights_weigh_what_they_weighed_before() -> None:
    result = planned("sparsegpt_2of4").result
    assert result is not None
    assert result.bits_per_weight == 16


def test_a_part_of_a_model_has_no_result_to_serve() -> None:
    part = planned("rtn_fp8_dynamic", job=Job(samples=2, seq_len=128, layers=2))
    assert part.result is None
    assert "result" not in table.render(part)


def test_a_plan_tells_its_result_with_its_answer() -> None:
    made = planned("gptq_w4a16")
    for text in (table.render(made), markdown.render(made)):
        (told,) = (line for line in text.splitlines() if "5.701 GB on disk" in line)
        assert "serving one sequence of 4,096 tokens with vLLM takes" in told
        assert text.index(told) < text.index("load")


def test_a_model_whose_cache_is_not_known_is_planned_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(built: BuiltModel) -> None:
        raise UnsupportedError(f"{built.source.name}: what layer 0 caches is not known")

    monkeypatch.setattr(serving_model, "served_of", refuse)
    made = planned("gptq_w4a16")
    assert made.result is None
    assert made.gpu.peak_bytes > 0
    assert any("what layer 0 caches is not known" in note.text for note in made.notes)
