"""Hooks of transforms on modules that hold sequential targets: nodes of the traced graph, or nothing."""

from typing import Any

import pytest

from planner.compress.binding import make_program
from planner.compress.context import Context
from planner.errors import JobError, RecipeError
from planner.recipe.specs import Recipe
from planner.sizing.saved import saved_tensors
from tests import toys
from tests.built import graph_of
from tests.compress.hooked import (
    HIDDEN,
    SMALL,
    STATIC,
    TOKENS,
    at,
    onloaded_matrices,
    quip,
    recipe,
    stages,
    taken,
    walked,
)


@pytest.mark.parametrize("location", ["input", "output"])
@pytest.mark.parametrize("name", ["layers", "Qwen3ForCausalLM"])
def test_hooks_of_what_is_never_called_do_not_run_and_their_matrix_stays(name: str, location: str) -> None:
    """As on the meter: a list of layers is gone through, and torch.fx traces the model's forward, not its call."""
    target = at(name, location) if name == "layers" else f"{{targets: {name}, location: {location}}}"
    context = walked(recipe(target))
    assert not taken(context, f"rotated {location} rotated")
    assert taken(context, "", device="cpu").count(("a matrix of 64", 64 * 64 * 4)) == 1


PARTS: dict[str, Any] = {"sequential_targets": ("Qwen3Attention", "Qwen3MLP")}
LAYERS = r"layers\.[0-9]+"


@pytest.mark.parametrize("location", ["input", "output"])
def test_hooks_of_layers_that_hold_targets_run_as_nodes_of_the_graph_and_share_their_matrix(location: str) -> None:
    """The next target's part begins behind them: each pass over a part runs what stands in it once."""
    context = walked(recipe(at(LAYERS, location), last=STATIC), **PARTS)
    products = [(name, size) for name, size in taken(context, "mm") if name.endswith(f".a_{location}")]
    assert {name for name, _ in products} == {f"model.layers.{n}.a_{location}" for n in range(2)}
    assert [size for _, size in products] == [TOKENS * HIDDEN * 4] * 2 * 2 * SMALL["samples"]
    onloaded = [size for name, size in taken(context, "") if name == "a matrix of 64"]
    assert onloaded == [64 * 64 * 4] * 2


@pytest.mark.parametrize("other", ["x_output", "x_input", "y"])
def test_the_matrix_of_a_node_is_its_groups_whatever_the_group_is_called(other: str) -> None:
    two = {"x": [at("down_proj", "input")], other: [at(LAYERS, "input")]}
    names = onloaded_matrices(stages(quip(**two)), **PARTS)
    assert sorted(names) == sorted(["x matrix of 64", f"{other} matrix of 64"] * 2)


def test_a_node_and_a_linear_of_one_subgraph_share_their_groups_matrix() -> None:
    """A layer's input is rotated in the part of the MLP before it."""
    groups = {"x_output": [at(LAYERS, "input"), at("down_proj", "input")]}
    assert onloaded_matrices(stages(quip(**groups)), **PARTS) == ["x_output matrix of 64"] * 3
    apart = [quip(x_output=[apply]) for apply in groups["x_output"]]
    assert len(onloaded_matrices(stages(*apart), **PARTS)) == 4, "two modifiers"


def test_what_crosses_a_border_is_rotated_and_as_large_as_before() -> None:
    graph = graph_of("qwen3-0.6b", toys.job(**SMALL, **PARTS))
    with_hooks, _ = make_program(graph, recipe(at(LAYERS, "output"), last=STATIC), toys.job(**SMALL, **PARTS))
    before, after = (sorted(c.bytes for c in trace.crossings.values()) for trace in (graph.trace, with_hooks.trace))
    assert before == after
    onloaded = [
        [event.parameter for segment in trace.segments for event in segment.events if event.kind == "onload"]
        for trace in (graph.trace, with_hooks.trace)
    ]
    assert [names.count("a matrix of 64") for names in onloaded] == [0, 2], "one product for each layer"


@pytest.mark.parametrize("location", ["input", "output", "k_cache", "q_attn"])
def test_hooks_of_what_holds_targets_come_after_the_trace_where_the_pipeline_is_sequential(location: str) -> None:
    """pipelines/sequential/pipeline.py: `trace_subgraphs`, then `calibration_start`. The matrix is made."""
    which = recipe(at(LAYERS, location), last=STATIC)
    context = walked(which, **PARTS, pipeline="sequential")
    assert not [name for name, _ in taken(context, "mm") if ".a_" in name]
    assert not taken(context, "rotated rotated", f"rotated {location} rotated")
    assert taken(context, "", device="cpu").count(("a matrix of 64", 64 * 64 * 4)) == 1
    job = toys.job(**SMALL, **PARTS, pipeline="sequential")
    graph = graph_of("qwen3-0.6b", job)
    program, _ = make_program(graph, which, job)
    assert program.trace == graph.trace
    names = [tensor.name for tensor in saved_tensors(graph, program, job)]
    assert [name for name in names if ".a_" in name] == [f"model.layers.0.a_{location}.weight"]


@pytest.mark.parametrize("location", ["input", "output"])
def test_the_decoders_own_hooks_fail_nowhere_where_the_pipeline_is_sequential(location: str) -> None:
    which = recipe(at("^model", location), last=STATIC)
    assert not taken(walked(which, pipeline="sequential"), f"rotated {location} rotated")


def test_keys_of_an_attention_that_holds_targets_are_not_rotated_in_the_sequential_pipeline() -> None:
    """Its own hook hands the cache on (modeling/kvcache.py `_kv_cache_attention_hook`), and nothing calls it."""
    which = recipe(at("self_attn", "k_cache"), last=STATIC)
    linears = {"sequential_targets": ("Linear",), "pipeline": "sequential"}
    assert taken(walked(which, pipeline="sequential"), "rotated rotated")
    assert not taken(walked(which, **linears), "rotated rotated")


@pytest.mark.parametrize("location", ["input", "output"])
def test_in_the_basic_pipeline_hooks_of_what_holds_targets_run_as_those_of_any_module(location: str) -> None:
    """It has no graph: the model's own forward calls the layer."""
    which, basic = recipe(at(LAYERS, location), last=STATIC), {"pipeline": "basic", "weights": "gpu"}
    held = [size for name, size in taken(walked(which, **PARTS, **basic), "mm") if name.endswith(f".a_{location}")]
    called = taken(walked(which, **basic), f"rotated {location} product")
    assert held == [size for _, size in called] == [TOKENS * HIDDEN * 4] * 2 * SMALL["samples"]


@pytest.mark.parametrize("more", [{}, {"pipeline": "basic", "weights": "gpu"}], ids=["independent", "basic"])
def test_keys_of_a_layer_that_holds_targets_are_rotated_in_its_attention(more: dict[str, Any]) -> None:
    """Its hook hands the cache on while the layer's forward is traced, and the attention has it from then on."""
    held = walked(recipe(at(LAYERS, "k_cache"), last=STATIC), **PARTS, **more)
    own = walked(recipe(at("self_attn", "k_cache"), last=STATIC), **PARTS, **more)
    products = [size for name, size in taken(held, "mm", "bmm") if name.endswith(".a_k_cache")]
    assert products
    assert products == [size for _, size in taken(own, "rotated product")]
    assert onloaded(held) == onloaded(own)


def test_where_what_holds_the_models_config_waits_between_targets_the_library_stops() -> None:
    """A hook before the first layer makes its norm wait, and with it all that takes masks out of what made them; as on
    the meter, behind the layer nothing is moved."""
    linears = {"sequential_targets": ("Linear",)}
    with pytest.raises(JobError, match=r"activation cache \(StrictDataclassFieldValidationError\)"):
        walked(recipe(at(LAYERS, "input"), last=STATIC), **linears)
    assert taken(walked(recipe(at(LAYERS, "output"), last=STATIC), **linears), "mm")


def onloaded(context: Context) -> list[tuple[str, int]]:
    return [(name, size) for name, size in taken(context, "") if name == "a matrix of 64"]


@pytest.mark.parametrize(
    "which",
    [
        recipe(at(LAYERS, "output"), at(LAYERS, "output"), last=STATIC),
        stages(quip(a=[at(LAYERS, "output")]), quip(a=[at(LAYERS, "output")])),
    ],
    ids=["one group", "two modifiers"],
)
def test_a_node_whose_module_has_another_transform_by_its_name_is_traced_nowhere(which: Recipe) -> None:
    """As the library stopped: the first hook's transform is not installed as a submodule."""
    with pytest.raises(RecipeError, match=r"called model\.layers\.0\.a_output: .* \(NameError\)"):
        walked(which, **PARTS)
