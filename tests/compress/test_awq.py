"""AWQModifier: which layers it smooths, what it keeps for each batch, and what its search takes."""

from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest

from planner.compress.binding import make_program
from planner.compress.context import EVERYTHING, Context, Shortcuts
from planner.compress.modifiers.awq import AwqSpec
from planner.compress.oneshot import simulate
from planner.compress.program import StepMemory
from planner.compress.recipes import load_recipe
from planner.errors import RecipeError, UnsupportedError
from planner.models.graph import ModelGraph
from planner.notes import Note
from planner.recipe.awq_mappings import DYNAMIC_REGISTRY, REGISTRY, AwqMapping, inferred_mappings
from planner.recipe.module_sets import common_ancestor
from planner.recipe.specs import ModelTraits, ModuleRef, Recipe
from tests import toys
from tests.built import graph_of

FP32, FP64 = 4, 8


def llama() -> ModelGraph:
    return graph_of("llama-3-8b", toys.job(layers=3, seq_len=128, batch_size=2, samples=6))


SMALL = {"layers": 3, "seq_len": 128, "batch_size": 2}
HIDDEN, WIDE, HEADS = 4096, 14336, 32
BATCH = 2 * 128


def planned(samples: int, shortcuts: Shortcuts | None = None, **changes: Any) -> dict[str, StepMemory]:
    """Layer 1's steps of a Llama, by phase."""
    job = toys.job(**SMALL, samples=samples)
    recipe = load_recipe("awq_w4a16")
    first = recipe.modifiers[0]
    assert isinstance(first, AwqSpec)
    changed = Recipe(name="awq", modifiers=(replace(first, **changes), *recipe.modifiers[1:]))
    program, _ = make_program(llama(), changed, job)
    steps = simulate(program, Context(job, shortcuts=shortcuts)).steps
    return {step.phase: step for step in steps if step.unit == "model.layers.1"}


# ---------------------------------------------------------------------- what it keeps
def kept_on_cpu(samples: int) -> int:
    return planned(samples, offload_device="cpu", n_grid=3)["calibrate"].cpu.by_kind["activation_cache"]


def test_each_batch_more_keeps_the_inputs_of_attention_of_the_mlp_and_of_down_proj() -> None:
    mask, cos_and_sin, positions = 2 * 128 * 128 * 2, 2 * 128 * 128 * 2, 128 * 8
    inputs = BATCH * (HIDDEN + HIDDEN + WIDE) * 2
    hidden_states_in_the_pipelines_cache = BATCH * HIDDEN * 2
    shared = mask + cos_and_sin + positions  # the pipeline's cache has these for each batch too
    more = kept_on_cpu(20) - kept_on_cpu(18)
    assert more == inputs + shared + hidden_states_in_the_pipelines_cache + shared


def test_without_an_offload_device_the_same_waits_on_the_gpu() -> None:
    calibrated = {samples: planned(samples)["calibrate"].gpu for samples in (18, 20)}
    mask, cos_and_sin, positions = 2 * 128 * 128 * 2, 2 * 128 * 128 * 2, 128 * 8
    inputs = BATCH * (HIDDEN + HIDDEN + WIDE) * 2
    assert calibrated[20].end - calibrated[18].end == inputs + mask + cos_and_sin + positions


# ---------------------------------------------------------------------- the search
def test_while_attention_runs_again_its_probabilities_of_all_batches_lie_there() -> None:
    few, many = (planned(samples, offload_device="cpu", n_grid=3)["compress"].gpu for samples in (398, 400))
    outputs, probabilities = BATCH * HIDDEN * 2, 2 * HEADS * 128 * 128 * 2
    assert many.bytes - few.bytes == 2 * outputs + probabilities


def test_the_search_holds_the_heads_weight() -> None:
    steps = planned(2, n_grid=3)
    layer = 2 * (2 * HIDDEN * HIDDEN + 2 * HIDDEN * 1024 + 3 * HIDDEN * WIDE)
    head, norms = 128256 * HIDDEN * 2, 2 * HIDDEN * 2
    held = steps["propagate"].gpu
    assert held.by_kind["weights"] + held.by_kind["awq"] == layer + head + norms


def test_duo_scaling_makes_a_weight_fp64_instead_of_fp32_while_it_is_scaled_back() -> None:
    without, duo = (planned(2, duo_scaling=duo, n_grid=3)["compress"].gpu for duo in (False, True))
    means, scales = HIDDEN * FP64, 2 * HIDDEN * (FP64 - FP32)  # w_mean; the scales and the best ones
    in_fp64, rounded, while_rounding = 4, 1, 4  # weights in bf16
    assert duo.bytes - without.bytes == (in_fp64 + rounded - while_rounding) * HIDDEN * WIDE * 2 + means + scales


@pytest.mark.parametrize("samples", [3, 20])
@pytest.mark.parametrize("changes", [{}, {"offload_device": "cpu", "duo_scaling": "both", "n_grid": 6}], ids=str)
def test_all_shortcuts_and_none_give_the_same_figures(samples: int, changes: dict[str, Any]) -> None:
    def figures(shortcuts: Shortcuts) -> list[Any]:
        steps = planned(samples, shortcuts, **({"n_grid": 4} | changes)).values()
        return [(s.phase, *((p.bytes, p.end, p.by_kind) for p in (s.gpu, s.cpu))) for s in steps]

    assert figures(Shortcuts()) == figures(EVERYTHING)


def test_more_samples_never_lower_a_peak() -> None:
    peaks = [planned(samples, n_grid=3) for samples in (2, 4, 10, 64)]
    for fewer, more in pairwise(peaks):
        for phase, step in fewer.items():
            assert step.gpu.bytes <= more[phase].gpu.bytes
            assert step.cpu.bytes <= more[phase].cpu.bytes


def test_parts_of_every_step_sum_to_it() -> None:
    for step in planned(6, n_grid=4).values():
        assert sum(step.gpu.by_kind.values()) == step.gpu.bytes
        assert sum(step.cpu.by_kind.values()) == step.cpu.bytes


# ---------------------------------------------------------------------- mappings
def refs(*names: str, classes: tuple[str, ...] = ("Linear", "Module")) -> list[ModuleRef]:
    return [ModuleRef(name, classes, 8, 8, 2) for name in names]


def names(sets: Any) -> list[list[list[str]]]:
    return [[[ref.name for ref in group] for group in one] for one in sets]


@pytest.mark.parametrize(
    ("given", "ancestor"),
    [(["a.b.c", "a.b.d"], "a.b"), (["a.b"], "a.b"), (["a.bc", "a.b"], "a"), (["ab", "ab.a"], "ab"), (["a", "b"], "")],
)
def test_the_common_ancestor_is_the_lowest_module_around_all(given: list[str], ancestor: str) -> None:
    assert common_ancestor(given) == ancestor


def resolved(model: str, layers: int, **changes: Any) -> AwqSpec:
    graph = graph_of(model, toys.job(layers=layers, seq_len=128))
    recipe = load_recipe("awq_w4a16").modifiers
    first = recipe[0]
    assert isinstance(first, AwqSpec)
    facts = ModelTraits(architecture=graph.architecture, is_moe=graph.names_experts)
    return replace(first.within(facts, graph.module_refs(), recipe), **changes)


def test_grouped_query_attention_leaves_v_proj_and_o_proj_out() -> None:
    spec = resolved("llama-3-8b", 1)
    assert [(one.smooth.name.rpartition(".")[2], one.parent) for one in spec.smoothings] == [
        ("input_layernorm", "model.layers.0.self_attn"),
        ("post_attention_layernorm", "model.layers.0.mlp"),
        ("up_proj", "model.layers.0.mlp.down_proj"),
    ]
    assert spec.offload_device is None


def test_without_groups_of_queries_v_proj_smooths_o_proj() -> None:
    parents = [one.parent for one in resolved("llama-2-7b", 1).smoothings]
    assert "model.layers.0.self_attn.o_proj" in parents


def test_every_expert_is_smoothed_and_waits_on_the_cpu() -> None:
    spec = resolved("qwen3-30b-a3b", 1)
    gates = [one for one in spec.smoothings if one.parent == "model.layers.0.mlp"]
    assert [len(one.balance) for one in gates] == [1 + 2 * 128]
    assert len([one for one in spec.smoothings if one.parent.endswith("down_proj")]) == 128
    assert spec.offload_device == "cpu"


def test_a_family_that_the_library_does_not_map_gets_its_default() -> None:
    assert inferred_mappings("ToyModel", [], False) == REGISTRY["LlamaForCausalLM"]


def test_layers_with_linear_attention_are_told_apart_by_number() -> None:
    modules = refs("model.layers.0.linear_attn", "model.layers.0.linear_attn.in_proj_ba", "model.layers.1.self_attn")
    full, linear, mlp, down = inferred_mappings("Qwen3NextForCausalLM", modules, False)
    assert full.smooth_layer == r"re:.*layers\.(1)\.input_layernorm$"
    assert linear == AwqMapping(r"re:.*layers\.(0)\.input_layernorm$", ("re:.*linear_attn.in_proj_ba$",))
    assert mlp.balance_layers == ("re:.*gate_proj$", "re:.*up_proj$")
    assert down == AwqMapping("re:.*up_proj$", ("re:.*down_proj$",))
    assert set(DYNAMIC_REGISTRY).isdisjoint(REGISTRY)


# ---------------------------------------------------------------------- what a recipe may say
QUANTIZER = "    QuantizationModifier: {targets: [Linear], scheme: W4A16, ignore: [lm_head]}"


def recipe(fields: str, after: str = QUANTIZER) -> Recipe:
    return load_recipe(f"stage_stage:\n  a_modifiers:\n    AWQModifier: {fields}\n{after}\n")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ("{scheme: W4A16}", "no field of AWQModifier since LLM Compressor 0.14"),
        ("{duo_scaling: maybe}", "must be true, false or both"),
        ("{duo_scaling: both, n_grid: 3}", "at least 4"),
        ("{duo_scaling: false, n_grid: 1}", "at least 2"),
        ("{n_grid: 2}", "divides by zero"),
        ("{offload_device: tpu}", "must be cpu, cuda or null"),
        ("{n_gird: 5}", "did you mean n_grid"),
        ("{mappings: [{smooth_layer: 're:(', balance_layers: [a]}]}", "not a regular expression"),
    ],
)
def test_what_the_library_refuses_is_refused(fields: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        recipe(fields)


def test_a_second_gpu_for_the_arguments_is_not_modelled() -> None:
    with pytest.raises(UnsupportedError, match="not cuda:1"):
        recipe("{offload_device: 'cuda:1'}")


def bound(text: Recipe) -> tuple[Note, ...]:
    return make_program(llama(), text, toys.job(**SMALL))[1]


def test_nothing_that_quantizes_after_it_is_an_error() -> None:
    with pytest.raises(RecipeError, match="needs a quantizing modifier after it"):
        bound(recipe("{}", after=""))


def test_duo_scaling_is_refused_for_weights_with_one_scale() -> None:
    fp8 = "    QuantizationModifier: {targets: [Linear], scheme: FP8, ignore: [lm_head]}"
    with pytest.raises(RecipeError, match="not for weights with one scale"):
        bound(recipe("{}", after=fp8))


def test_mappings_that_match_nothing_are_noted() -> None:
    (note,) = bound(recipe("{mappings: [{smooth_layer: 're:.*nothing$', balance_layers: ['re:.*none$']}]}"))
    assert "its mappings match no layers" in note.text


def test_two_mappings_with_one_parent_fail_and_the_plan_says_so() -> None:
    one = "{smooth_layer: 're:.*post_attention_layernorm$', balance_layers: ['re:.*gate_proj$', 're:.*up_proj$']}"
    (note,) = (note for note in bound(recipe(f"{{mappings: [{one}, {one}]}}")) if note.kind == "fails")
    assert "whose inputs are gone after the first" in note.text
