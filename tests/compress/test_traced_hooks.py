"""Hooks of transforms that change more of the forward than a value: the forward is traced with them."""

import json
from pathlib import Path

import pytest

from planner.compress.context import Context
from planner.compress.oneshot import simulate
from planner.errors import RecipeError
from planner.models.traces import ModelTrace
from tests import toys
from tests.compress.hooked import SMALL, STATIC, TOKENS, at, program, recipe, taken, walked
from tests.measured.cases import CONFIGS

PHI, FALCON, BAMBA = (str(CONFIGS / f"{name}.json") for name in ("phi", "falcon", "bamba"))
PHI_HIDDEN = 2048


# ---------------------------------------------------------------------- a module that returns what it is passed
@pytest.mark.parametrize("location", ["input", "output"])
def test_hooks_of_a_dropout_that_drops_nothing_run_in_every_call(location: str) -> None:
    context = walked(recipe(at("resid_dropout", location), last=STATIC), model=PHI)
    products = [size for name, size in taken(context, "mm") if name.endswith(f"resid_dropout.a_{location}")]
    calls = 2 * 2 * 2 * SMALL["samples"]  # of attention and MLP, in each layer, in both passes
    assert products == [TOKENS * PHI_HIDDEN * 4] * calls
    assert not taken(context, f"rotated {location} product"), "the trace alone has them"


def test_the_matrix_of_a_dropout_is_onloaded_from_the_cpu_beside_weights_on_the_gpu() -> None:
    which = recipe(at("resid_dropout", "output"), last=STATIC)
    for weights in ("cpu", "gpu"):
        onloaded = [
            name for name, _ in taken(walked(which, model=PHI, weights=weights), "") if name == "a matrix of 64"
        ]
        assert len(onloaded) == SMALL["layers"], "once in each subgraph"


def test_layers_with_other_hooks_are_traced_apart() -> None:
    trace = program(recipe(at(r"layers\.1\.resid_dropout", "output"), last=STATIC), model=PHI).trace
    products = [sum(event.operator == "mm" for event in segment.events) for segment in trace.segments if segment.target]
    assert products == [0, 2]


# ---------------------------------------------------------------------- a list of modules
@pytest.mark.parametrize("pipeline", ["independent", "basic"])
@pytest.mark.parametrize("location", ["input", "output"])
def test_a_list_that_is_gone_through_calls_the_transform_as_a_layer_and_the_library_stops(
    location: str, pipeline: str
) -> None:
    """As on the meter: HadamardTransform.forward() got an unexpected keyword argument 'layer_past'."""
    message = r"on transformer\.h .* LLM Compressor \(TypeError: the transform's forward\(\) got .* 'layer_past'\)"
    with pytest.raises(RecipeError, match=message):
        program(recipe(at(r"\.h", location), last=STATIC), model=FALCON, pipeline=pipeline)


def test_a_list_of_layers_was_gone_through_before_where_the_pipeline_is_sequential() -> None:
    context = walked(recipe(at(r"\.h", "output"), last=STATIC), model=FALCON, pipeline="sequential")
    assert not [name for name, _ in taken(context, "mm") if ".a_" in name]
    assert taken(context, "", device="cpu").count(("a matrix of 64", 64 * 64 * 4)) == 1


# ---------------------------------------------------------------------- an argument that is left out
def test_a_norm_whose_gate_a_hook_leaves_out_runs_without() -> None:
    gated, alone = (program(which, model=BAMBA).trace for which in (recipe(last=STATIC), recipe(GATED, last=STATIC)))

    def of_norm(trace: ModelTrace, operator: str) -> int:
        events = (event for segment in trace.segments for event in segment.events)
        return sum(event.operator == operator and event.module.endswith("mamba.norm") for event in events)

    assert of_norm(gated, "silu") > 0
    assert of_norm(alone, "silu") == 0
    assert of_norm(alone, "rsqrt") == of_norm(gated, "rsqrt")


GATED = at("mamba.norm", "input")


# ---------------------------------------------------------------------- layers that are trained
def test_a_traced_hook_finds_its_matrix_on_the_cpu_once_a_layer_was_trained_as_one_that_is_not_traced(
    tmp_path: Path,
) -> None:
    """Weights on the GPU: `module.to` took the matrix of all hooks to the CPU with the first layer."""
    config = tmp_path / "bamba.json"  # AutoRound trains no attention of this model
    config.write_text(json.dumps({**json.loads(Path(BAMBA).read_text()), "attn_layer_indices": [3]}))
    fields = "targets: [Linear], scheme: W4A16, ignore: [lm_head], iters: 2, enable_torch_compile: false"
    found = []
    for location in ("input", "output"):  # on the input, the hook leaves the gate out
        which = recipe(at("mamba.norm", location), last=f"AutoRoundModifier: {{{fields}}}")
        job = {"model": str(config), "weights": "gpu", "layers": 3}
        matrices = [size for name, size in taken(walked(which, **job), "") if name == "a matrix of 64"]
        steps = simulate(program(which, **job), Context(toys.job(**{**SMALL, "weights": "gpu", "layers": 3}))).steps
        last = next(step for step in steps if (step.unit, step.phase) == ("model.layers.2", "compress"))
        found.append((matrices, last.gpu.by_kind["transform"]))
    traced, untraced = found
    assert traced == untraced == ([64 * 64 * 4] * 3, 3 * 64 * 64 * 4), "made, and onloaded with layers 1 and 2"
