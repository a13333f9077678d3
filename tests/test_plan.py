"""Plans of real models through the public API: what they hold, what is refused, and what notes say."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import planner
from planner import Job, Plan, compare, load_model, load_recipe, plan
from planner.errors import JobError, ModelError, PlannerError, RecipeError
from planner.models import load as loading
from planner.models.source import load_source
from planner.notes import texts
from planner.planning import plan_graph
from planner.units import GIB

SMALL: dict[str, Any] = {"layers": 2, "samples": 4, "seq_len": 256}
LAYER = 436_224_000  # bytes of one Llama-3-8B layer
EMBEDDING = 128_256 * 4096 * 2
SMALL_MIXTURE = load_source("qwen3-30b-a3b").config | {"num_experts": 16}
Writer = Callable[..., str]


def job(**options: Any) -> Job:
    return Job(**(SMALL | options))


@pytest.fixture
def recipe(tmp_path: Path) -> Writer:
    """Writes a recipe of one or more modifiers; returns its path."""

    def write(*modifiers: tuple[str, dict[str, Any]]) -> str:
        path = tmp_path / "recipe.yaml"
        stages = {f"{i}_stage": {"a_modifiers": {kind: fields}} for i, (kind, fields) in enumerate(modifiers)}
        path.write_text(json.dumps(stages))  # YAML reads JSON
        return str(path)

    return write


@pytest.fixture
def ctrl(tmp_path: Path) -> str:
    """A model for which transformers names no layer class."""
    path = tmp_path / "config.json"
    path.write_text(
        json.dumps({"model_type": "ctrl", "n_embd": 256, "dff": 512, "n_layer": 2, "n_head": 4, "vocab_size": 64})
    )
    return str(path)


# ---------------------------------------------------------------------- the record
@pytest.fixture(scope="module")
def gptq() -> Plan:
    return plan("llama-3-8b", "gptq_w4a16", job())


def test_a_plan_says_what_was_asked(gptq: Plan) -> None:
    assert (gptq.schema_version, gptq.llmcompressor, gptq.method) == (3, "0.14.0.1", "simulate")
    assert gptq.recipe == "gptq_w4a16"
    assert gptq.job == job()
    assert (gptq.model.name, gptq.model.architecture) == ("llama-3-8b", "LlamaForCausalLM")
    assert gptq.model.bytes == gptq.model.parameters * 2 == 2 * LAYER + 2 * EMBEDDING + 4096 * 2


def test_steps_are_numbered_in_time_order_and_peaks_point_at_them(gptq: Plan) -> None:
    assert [step.index for step in gptq.steps] == list(range(len(gptq.steps)))
    assert gptq.steps[gptq.gpu.peak_step].gpu.peak_bytes == gptq.gpu.peak_bytes
    assert gptq.steps[gptq.cpu.peak_step].cpu.peak_bytes == gptq.cpu.peak_bytes


def test_n_layers_give_n_plus_one_subgraphs_of_three_steps(gptq: Plan) -> None:
    numbered = [(step.subgraph, step.of, step.phase) for step in gptq.steps if step.subgraph]
    assert numbered == [(n, 3, phase) for n in (1, 2, 3) for phase in ("calibrate", "compress", "propagate")]
    assert [step.phase for step in gptq.steps if not step.subgraph] == ["load", "setup", "prepare", "finalize", "save"]


def test_a_plan_survives_json(gptq: Plan) -> None:
    assert Plan.model_validate_json(gptq.model_dump_json()) == gptq


def test_weights_load_to_the_cpu_and_qparams_stay_there(gptq: Plan) -> None:
    load, save = gptq.steps[0], gptq.steps[-1]
    buffers = load.cpu.peak_bytes - gptq.model.bytes
    assert buffers == 2 * 64 * 4  # the rotary embedding's inverse frequencies, and the ones it keeps beside them
    groups = LAYER // 2 - 2 * 4096  # every weight of a layer but its two norms
    assert save.cpu.by_kind["qparams"] == 2 * groups // 128 * (2 + 1)
    assert save.cpu.by_kind["calibration_data"] == 4 * 256 * (8 + 8)


def test_a_layer_is_onloaded_whole_while_it_calibrates(gptq: Plan) -> None:
    weights = {step.unit: step.gpu.by_kind["weights"] for step in gptq.steps if step.phase == "calibrate"}
    assert weights["model.layers.0"] == LAYER
    assert weights["head"] - EMBEDDING < 10_000


def test_peaks_do_not_depend_on_the_number_of_equal_layers() -> None:
    few, many = (plan("llama-3-8b", "gptq_w4a16", job(layers=n)) for n in (3, 6))
    assert few.gpu.peak_bytes == many.gpu.peak_bytes
    assert few.steps[6].gpu == many.steps[6].gpu


def test_a_tied_embedding_that_is_quantized_is_untied_first(recipe: Writer) -> None:
    path = recipe(("QuantizationModifier", {"targets": ["Linear"], "scheme": "W8A8"}))
    found = plan("qwen3-0.6b", path, job())
    table = 151_936 * 1024 * 2
    setup = next(step for step in found.steps if step.phase == "setup")
    assert setup.gpu.peak_bytes == 3 * table
    assert found.steps[-1].cpu.by_kind["model"] - found.steps[0].cpu.by_kind["model"] == table


def test_a_smaller_card_makes_smaller_gptq_batches() -> None:
    large, small = (plan(SMALL_MIXTURE, "gptq_w4a16", job(layers=1, gpu_memory_bytes=n * GIB)) for n in (80, 3))
    assert small.gpu.peak_bytes < large.gpu.peak_bytes


def test_all_names_of_the_public_api_are_there() -> None:
    assert dir(planner) == sorted(planner.__all__)
    assert all(getattr(planner, name) is not None for name in planner.__all__)
    with pytest.raises(AttributeError, match="no attribute 'plann'"):
        _ = planner.plann


# ---------------------------------------------------------------------- compare
@pytest.fixture
def builds(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The model types that transformers was asked to build, in order."""
    from transformers import AutoModelForCausalLM

    types: list[str] = []
    original = AutoModelForCausalLM.from_config

    def counted(config: Any, **fields: Any) -> Any:
        types.append(config.model_type)
        return original(config, **fields)

    monkeypatch.setattr(AutoModelForCausalLM, "from_config", counted)
    return types


def test_a_plan_and_its_result_are_of_one_model_that_is_built_once(builds: list[str]) -> None:
    assert plan("qwen3-30b-a3b", "rtn_w4a16", job(layers=None)).result is not None
    assert builds == ["qwen3_moe"]


def test_comparing_builds_the_model_once(builds: list[str]) -> None:
    plans = compare("llama-3-8b", ["rtn_fp8_dynamic", "gptq_w4a16", "sparsegpt_2of4"], job(layers=None))
    assert builds == ["llama"]
    assert [p.recipe for p in plans] == ["rtn_fp8_dynamic", "gptq_w4a16", "sparsegpt_2of4"]
    assert all(p.result for p in plans)


def test_comparing_plans_each_recipe_as_it_is_planned_alone(gptq: Plan) -> None:
    assert compare("llama-3-8b", ["rtn_w8a8_static", "gptq_w4a16"], job())[1] == gptq


def test_recipes_cost_in_their_known_order() -> None:
    names = ["rtn_fp8_dynamic", "rtn_w8a8_static", "sparsegpt_2of4", "gptq_w4a16"]
    peaks = [p.gpu.peak_bytes for p in compare("llama-3-8b", names, job())]
    assert peaks == sorted(peaks)


def test_a_bad_recipe_is_refused_before_the_model_is_built(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "load_built", lambda *_: pytest.fail("built"))
    with pytest.raises(RecipeError):
        compare("llama-3-8b", ["gptq_w4a16", "no_such_recipe"], job())


def test_progress_is_told_model_and_recipes() -> None:
    said: list[str] = []
    compare("llama-3-8b", ["rtn_fp8_dynamic", "gptq_w4a16"], job(), progress=said.append)
    assert len(said) == 4
    for words, line in zip(("llama-3-8b", "rtn_fp8_dynamic", "gptq_w4a16", "results"), said, strict=True):
        assert words in line


def test_a_graph_and_a_recipe_may_be_kept_and_planned_again(gptq: Plan) -> None:
    again = plan_graph(load_model("llama-3-8b", job()), load_recipe("gptq_w4a16"), job(), on_card=True)
    beside = {"machine", "demands", "fits", "host", "disk", "result"}
    assert again.model_dump(exclude=beside) == gptq.model_dump(exclude=beside)


# ---------------------------------------------------------------------- refused
def test_a_target_that_matches_nothing_is_refused_with_its_place_in_the_file(recipe: Writer) -> None:
    path = recipe(("GPTQModifier", {"targets": ["Liner"], "scheme": "W4A16"}))
    with pytest.raises(
        RecipeError, match=r"recipe\.yaml: 0_stage\.a_modifiers\.GPTQModifier.*targets: .*Liner.* matches no module"
    ):
        plan("llama-3-8b", path, job())


def test_a_group_size_that_divides_no_columns_is_refused_with_both_numbers(recipe: Writer) -> None:
    weights = {"num_bits": 4, "strategy": "group", "group_size": 100}
    path = recipe(
        ("GPTQModifier", {"config_groups": {"g": {"targets": ["Linear"], "weights": weights}}, "ignore": ["lm_head"]})
    )
    with pytest.raises(RecipeError, match=r"config_groups\.g\.weights\.group_size: 100 does not divide.*4096"):
        plan("llama-3-8b", path, job())


TOWER = {"targets": ["Linear"], "scheme": "W8A8", "ignore": ["re:.*lm_head"]}
IMAGES: dict[str, Any] = {"vision_layers": 2, "images": 1, "image_size": (224, 224)}


def test_gptq_over_a_vision_tower_that_runs_is_refused(recipe: Writer) -> None:
    with pytest.raises(RecipeError, match=r"wrapped function.*No statistics available.*re:\.\*visual") as caught:
        plan("qwen2.5-vl-7b", recipe(("GPTQModifier", TOWER)), job(**IMAGES))
    assert "GPTQModifier" in caught.value.where


def test_gptq_over_a_vision_tower_that_never_runs_is_only_told(recipe: Writer) -> None:
    found = plan("qwen2.5-vl-7b", recipe(("GPTQModifier", TOWER)), job(vision_layers=2))
    told = "which no sample of this job runs: their scales, or those of their activations, are never computed"
    assert any("visual" in note and told in note for note in texts(found.notes))
    assert not any("visual" in holding.owner for step in found.steps for holding in step.gpu.largest)


def test_gptq_over_a_tower_inside_one_target_that_no_sample_runs_is_told(recipe: Writer) -> None:
    whole = job(vision_layers=2, sequential_targets=("Qwen2_5_VLModel",))
    told = "which no sample of this job runs: their scales, or those of their activations, are never computed"
    for gptq, is_told in ((TOWER, True), ({**TOWER, "ignore": ["re:.*lm_head", "re:.*visual.*"]}, False)):
        found = texts(plan("qwen2.5-vl-7b", recipe(("GPTQModifier", gptq)), whole).notes)
        assert any("visual" in note and told in note for note in found) is is_told


def test_rounding_a_vision_tower_that_runs_is_told_to_leave_its_scales_alone(recipe: Writer) -> None:
    static = {"num_bits": 8, "strategy": "tensor", "dynamic": False}
    groups = {
        "g": {"targets": ["Linear"], "weights": {"num_bits": 8, "strategy": "channel"}, "input_activations": static}
    }
    path = recipe(("QuantizationModifier", {"config_groups": groups, "ignore": ["re:.*lm_head"]}))
    found = plan("qwen2.5-vl-7b", path, job(**IMAGES))
    assert any("visual" in note and "weight scales are never computed" in note for note in texts(found.notes))


@pytest.mark.parametrize("targets", [("LlamaDecodrLayer",), ("LlamaAttention", "NoSuchThing")])
def test_sequential_targets_that_match_nothing_are_refused_with_what_there_is(targets: tuple[str, ...]) -> None:
    with pytest.raises(JobError, match=rf"{targets[-1]} matches nothing.*LlamaDecoderLayer"):
        plan("llama-3-8b", "gptq_w4a16", job(sequential_targets=targets))


def test_a_model_without_layer_classes_cannot_run_a_recipe_that_needs_data(ctrl: str) -> None:
    with pytest.raises(
        JobError, match=r"cannot infer sequential targets; name one with --sequential-targets.*EncoderLayer"
    ):
        plan(ctrl, "gptq_w4a16", Job(samples=2, seq_len=64))


def test_a_model_without_layer_classes_can_run_a_recipe_that_needs_none(ctrl: str) -> None:
    found = plan(ctrl, "rtn_w4a16", Job(samples=2, seq_len=64))
    assert [step.phase for step in found.steps] == ["load", "setup", "compress", "finalize", "save"]
    assert all(step.exact for step in found.steps)
    assert found.notes == ()


def test_a_model_without_layer_classes_runs_once_its_layers_are_named(ctrl: str) -> None:
    found = plan(ctrl, "gptq_w4a16", Job(samples=2, seq_len=64, sequential_targets=("EncoderLayer",)))
    assert [step.of for step in found.steps if step.phase == "compress"] == [3, 3, 3]


def test_an_unknown_model_and_an_unknown_recipe_are_their_own_errors() -> None:
    with pytest.raises(ModelError):
        plan("llama-3-8c", "gptq_w4a16", job())
    with pytest.raises(RecipeError):
        plan("llama-3-8b", "gptq_w4a17", job())


def test_images_for_a_model_without_a_tower_are_refused() -> None:
    with pytest.raises(PlannerError, match="no vision tower"):
        plan("llama-3-8b", "gptq_w4a16", job(images=1))


# ---------------------------------------------------------------------- rule of thumb
@pytest.mark.parametrize(("name", "layers"), [("rtn_fp8_dynamic", 1), ("gptq_w4a16", 2), ("sparsegpt_2of4", 2)])
def test_the_rule_of_thumb_is_one_or_two_layers_beside_the_whole_model(name: str, layers: int) -> None:
    found = plan("llama-3-8b", name, job(), method="rule-of-thumb")
    assert found.method == "rule-of-thumb"
    assert found.gpu.peak_bytes == found.rule_of_thumb.gpu_bytes == layers * LAYER
    assert found.cpu.peak_bytes == found.rule_of_thumb.cpu_bytes == found.model.bytes


def test_the_rule_of_thumb_is_a_plan_of_one_inexact_step_that_says_what_it_leaves_out(gptq: Plan) -> None:
    found = plan("llama-3-8b", "gptq_w4a16", job(), method="rule-of-thumb")
    (step,) = found.steps
    assert not step.exact
    assert sum(step.gpu.by_kind.values()) == step.gpu.peak_bytes
    assert sum(step.cpu.by_kind.values()) == step.cpu.peak_bytes
    assert "no activations" in found.notes[0].text
    assert found.rule_of_thumb == gptq.rule_of_thumb


def test_a_large_vision_tower_sets_the_rule_of_thumb() -> None:
    found = plan("qwen2.5-vl-7b", "gptq_w4a16", Job(seq_len=64, samples=1), method="rule-of-thumb")
    assert found.gpu.peak_bytes == 2 * 676_550_144 * 2


def test_the_rule_of_thumb_refuses_what_the_library_refuses(recipe: Writer) -> None:
    with pytest.raises(RecipeError, match="matches no module"):
        plan(
            "llama-3-8b",
            recipe(("GPTQModifier", {"targets": ["Liner"], "scheme": "W4A16"})),
            job(),
            method="rule-of-thumb",
        )


# ---------------------------------------------------------------------- notes
def noted(text: str, found: Plan) -> bool:
    return any(text in note for note in texts(found.notes))


def test_an_ordinary_plan_has_no_notes(gptq: Plan) -> None:
    assert gptq.notes == ()


def test_the_basic_pipeline_says_that_it_tells_nothing_about_a_gpu() -> None:
    found = plan("llama-3-8b", "rtn_w8a8_static", job(pipeline="basic"))
    assert noted("its figures say nothing about a GPU", found)
    assert found.gpu.peak_bytes == 0


def test_the_datafree_pipeline_says_what_a_recipe_that_needs_data_misses() -> None:
    assert noted("runs no forward", plan("llama-3-8b", "rtn_w8a8_static", job(pipeline="datafree")))
    assert not noted("runs no forward", plan("llama-3-8b", "rtn_w4a16", job(pipeline="datafree")))


@pytest.mark.parametrize(
    ("recipe", "fails"),
    [
        ("gptq_w4a16", True),
        ("rtn_w8a8_static", True),
        ("rtn_nvfp4", True),
        ("rtn_fp8_kv_cache", True),
        ("sparsegpt_2of4", True),
        ("wanda_50", True),
        ("awq_w4a16", False),
        ("rtn_w4a16_imatrix", False),
    ],
)
def test_a_datafree_job_that_saves_scales_nobody_set_or_prunes_nothing_is_a_no(recipe: str, fails: bool) -> None:
    """Each was run with the real library: all end without an error (AWQ and iMatrix as plain rounding)."""
    planned = plan("qwen3-0.6b", recipe, Job(pipeline="datafree", layers=1, samples=1, seq_len=64))
    assert (planned.fits == "no") is fails
    assert any(note.kind == "fails" for note in planned.notes) is fails
    assert noted("runs no forward", planned)


def test_two_modifiers_are_told_to_take_two_passes(recipe: Writer) -> None:
    modifiers = [
        (
            "SparseGPTModifier",
            {"sparsity": 0.5, "mask_structure": "2:4", "targets": ["Linear"], "ignore": ["re:.*lm_head"]},
        ),
        ("GPTQModifier", {"targets": ["Linear"], "scheme": "W4A16", "ignore": ["re:.*lm_head"]}),
    ]
    path = recipe(*modifiers)
    assert noted("in its own pass", plan("llama-3-8b", path, job()))
    assert not noted("in its own pass", plan("llama-3-8b", path, job(pipeline="sequential")))


def test_a_lost_mask_is_told_where_a_forward_runs() -> None:
    with_data, without = compare(SMALL_MIXTURE, ["gptq_w4a16", "rtn_w4a16"], job(layers=1))
    assert noted("gets no mask while calibrating", with_data)
    assert not noted("gets no mask", without)


def test_offloaded_hessians_are_told_to_fail(recipe: Writer) -> None:
    fields = {"sparsity": 0.5, "mask_structure": "2:4", "targets": ["Linear"], "ignore": ["re:.*lm_head"]}
    assert not noted("fails", plan("llama-3-8b", recipe(("SparseGPTModifier", fields)), job()))
    offloaded = recipe(("SparseGPTModifier", {**fields, "offload_hessians": True}))
    assert noted("This job fails in LLM Compressor: with offload_hessians", plan("llama-3-8b", offloaded, job()))


def test_what_a_checkpoint_holds_and_transformers_does_not_load_is_told_of_whole_models_only() -> None:
    whole = plan("deepseek-r1", "rtn_fp8_dynamic", Job(samples=1, seq_len=64))
    assert noted("multi-token-prediction", whole)
    router_biases = 58 * 256  # in the checkpoint too, loaded as buffers
    assert whole.model.not_loaded_parameters == 684_489_845_504 - 671_026_404_352 - router_biases
    assert plan("deepseek-r1", "rtn_fp8_dynamic", job(layers=1)).model.not_loaded_parameters == 0


def test_notes_are_said_once(recipe: Writer) -> None:
    twice = [("GPTQModifier", {**TOWER}), ("GPTQModifier", {**TOWER})]
    found = plan("qwen2.5-vl-7b", recipe(*twice), job(vision_layers=2))
    assert len(found.notes) == len(set(found.notes))
