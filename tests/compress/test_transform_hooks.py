"""Hooks of transforms on what is no plain Linear: what of them runs, and where the library fails on them."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from planner.compress.binding import make_program
from planner.compress.called import Called
from planner.compress.context import EVERYTHING, Context
from planner.compress.modifiers.quip import QuIPModel, QuIPSpec
from planner.compress.oneshot import simulate
from planner.compress.recipes import load_recipe
from planner.errors import PlannerError, RecipeError, UnsupportedError
from planner.models.traces import KEY_STATES
from planner.models.tuned import alone
from planner.recipe.specs import ModelTraits, ModuleRef, Recipe
from planner.sizing.saved import saved_tensors
from tests import toys
from tests.built import graph_of

SMALL: dict[str, Any] = {"layers": 2, "seq_len": 32, "samples": 2}
TOKENS, HIDDEN, HEADS, INNER = 32, 1024, 16, 3072
"""Of qwen3-0.6b, whose heads are 128 wide."""
GPTQ = "GPTQModifier: {targets: [Linear], scheme: W4A16, ignore: [lm_head]}"
STATIC = "QuantizationModifier: {targets: [Linear], scheme: FP8, ignore: [lm_head]}"
ROUNDED = "QuantizationModifier: {targets: [Linear], scheme: W4A16, ignore: [lm_head]}"


def recipe(*apply: str, block: int | None = 64, last: str = GPTQ, more: str = "type: random-hadamard") -> Recipe:
    return stages(quip(a=apply, block=block, more=more), last=last)


def quip(*, block: int | None = 64, more: str = "type: random-hadamard", **groups: Sequence[str]) -> str:
    """The modifier, with applications by the names of their groups."""
    head_dim = f"head_dim: {block}, " if block else ""
    listed = (f"{name}: {{{head_dim}{more}, apply: [{', '.join(apply)}]}}" for name, apply in groups.items())
    return f"QuIPModifier: {{transform_config: {{config_groups: {{{', '.join(listed)}}}}}}}"


def stages(*modifiers: str, last: str = STATIC) -> Recipe:
    """Each of the modifiers in a stage of its own, the last one in that of the one before it."""
    parts = (f"s{number}_stage:\n  a_modifiers:\n    {each}\n" for number, each in enumerate(modifiers))
    return load_recipe(f"{''.join(parts)}    {last}\n")


def at(targets: str, location: str, **fields: Any) -> str:
    return f"{{targets: 're:.*{targets}$', location: {location}{''.join(f', {k}: {v}' for k, v in fields.items())}}}"


def walked(which: Recipe, **options: Any) -> Context:
    """The whole job, with its events."""
    job = toys.job(**{**SMALL, **options})
    program, _ = make_program(graph_of("qwen3-0.6b", job), which, job)
    context = Context(job, keep="timeline", shortcuts=EVERYTHING)
    simulate(program, context)
    return context


def taken(context: Context, *roles: str, device: Any = "gpu") -> list[tuple[str, int]]:
    """(module, bytes) of all that is taken in these roles."""
    timeline = context.ledger.timeline(device)
    about = [(timeline.about[handle].owner, size) for handle, size, number in timeline.events if number > 0]
    return [(owner.name, size) for owner, size in about if owner.role in roles]


# ---------------------------------------------------------------------- what runs
@pytest.mark.parametrize(
    ("targets", "location", "numbers"),
    [
        ("mlp", "input", TOKENS * HIDDEN),
        ("mlp", "output", TOKENS * HIDDEN),
        ("input_layernorm", "input", TOKENS * HIDDEN),
        (r"layers\.[0-9]+", "output", TOKENS * HIDDEN),
        ("q_norm", "output", TOKENS * HEADS * 128),
        ("act_fn", "input", TOKENS * INNER),
        ("act_fn", "output", TOKENS * INNER),
    ],
)
def test_a_norm_a_block_a_layer_and_an_activation_function_are_rotated_in_every_pass(
    targets: str, location: str, numbers: int
) -> None:
    rotated = taken(walked(recipe(at(targets, location))), f"rotated {location} rotated")
    assert {size for _, size in rotated} == {numbers * 2}
    assert len(rotated) == 2 * 2 * SMALL["samples"], "layers, passes and samples"


def test_the_embeddings_output_is_rotated_while_the_model_is_traced_too_on_the_cpu() -> None:
    context = walked(recipe(at("embed_tokens", "output")))
    role = "rotated output product"
    assert taken(context, role, device="cpu") == [("model.embed_tokens", TOKENS * HIDDEN * 4)]
    assert taken(context, role) == [("model.embed_tokens", TOKENS * HIDDEN * 4)] * 2 * SMALL["samples"]


def test_a_layer_hands_its_cache_to_its_attention_whose_keys_are_rotated() -> None:
    own, of_layer = (walked(recipe(at(name, "k_cache"))) for name in ("self_attn", r"layers\.[0-9]+"))
    rotated = taken(of_layer, "rotated rotated")
    assert rotated == taken(own, "rotated rotated")
    assert {name for name, _ in rotated} == {f"model.layers.{n}.self_attn.{KEY_STATES}" for n in range(2)}


def test_two_hooks_of_a_group_on_one_input_both_run_and_share_the_matrix() -> None:
    twice = walked(recipe(at("down_proj", "input"), at("(down|up)_proj", "input", inverse="true")))
    rotated = [name.rpartition(".")[2] for name, _ in taken(twice, "rotated input rotated")]
    assert (rotated.count("down_proj"), rotated.count("up_proj")) == (2 * len(rotated) // 3, len(rotated) // 3)
    matrices = [name for name, _ in taken(twice, "", device="cpu") if name == "a matrix of 64"]
    assert len(matrices) == 1


def test_of_two_hooks_on_one_place_the_module_keeps_the_later_ones_matrix() -> None:
    """factory/base.py registers both under one name."""
    modules = [ModuleRef(name, ("Linear", "Module"), 64, 64, 2) for name in ("up", "down")]
    apply = [{"targets": "Linear", "location": "input"}, {"targets": "up", "location": "input", "inverse": True}]
    groups = {"a": {"type": "random-matrix", "apply": apply}}
    spec = QuIPSpec.read({"transform_config": {"config_groups": groups}}, "quip").within(ModelTraits(), modules, ())
    assert [name for name, _, _ in spec.added(modules)] == ["up.a_input.weight", "down.a_input.weight"]
    online = list(spec.online("", modules))
    assert [(rotation.module, rotation.inverse) for rotation in online] == [
        ("up", False),
        ("down", False),
        ("up", True),
    ]
    assert alone(online) == {0}
    model = QuIPModel(context := Context(toys.job()), spec)
    model.on_calibration_start([toys.linear(ref.name, 64, 64) for ref in modules])
    model.on_finalize()
    assert context.ledger.live("cpu") == 2 * 64 * 64 * 4, "the first hook still has the matrix, the second its inverse"


def test_the_matrix_of_a_module_without_tensors_waits_on_the_cpu_while_weights_lie_on_the_gpu() -> None:
    """compressed_tensors offload/dispatch.py set_onload_device; one that a Linear asked for first is copied for it."""
    for first, own, device in (("act_fn", "down_proj", "gpu"), ("down_proj", "act_fn", "cpu")):
        which = recipe(at(first, "input"), at(own, "input"), last=STATIC)
        context = walked(which, weights="gpu")
        matrices = taken(context, "", device="gpu" if device == "cpu" else "cpu")
        assert ("a matrix of 64", 64 * 64 * 4) in matrices
        copies = taken(context, "of a hook's own", device=device)
        assert copies == [("a matrix of 64", 64 * 64 * 4)] * 2, "one for each layer"


def test_an_activation_functions_matrix_is_onloaded_once_in_each_subgraph() -> None:
    sizes = [size for name, size in taken(walked(recipe(at("act_fn", "input")), weights="gpu"), "") if "matrix" in name]
    assert sizes == [64 * 64 * 4] * 2


@pytest.mark.parametrize(
    "apply",
    [
        (at("act_fn", "input"), at("act_fn", "output")),
        (at("act_fn", "input"), at("act_fn", "input", inverse="true")),
        (at("act_fn", "output"), at("act_fn", "output")),
    ],
    ids=["two places", "two inputs", "two outputs"],
)
def test_each_hooks_own_copy_of_a_matrix_is_onloaded(apply: tuple[str, ...]) -> None:
    """offload/cache/base.py OffloadCache.__getitem__ goes by the tensor: one module's two hooks have two."""
    context = walked(recipe(at("down_proj", "input"), *apply, last=STATIC), weights="gpu")
    assert len(taken(context, "of a hook's own", device="cpu")) == 2 * 2
    onloaded = [name for name, _ in taken(context, "") if name.startswith("a matrix of 64 of ")]
    assert len(onloaded) == len(set(onloaded)) == 2 * 2


def onloaded_matrices(which: Recipe, **options: Any) -> list[str]:
    return [name for name, size in taken(walked(which, **options), "") if size == 64 * 64 * 4 and "matrix" in name]


def test_modifiers_make_matrices_of_their_own_whatever_the_names_of_their_groups() -> None:
    """transform/apply.py `apply_transform_config` makes a factory for each group of each modifier."""
    which = [quip(a=[at("down_proj", "input")]), quip(a=[at("down_proj", "output")])]
    assert sorted(onloaded_matrices(stages(*which))) == ["2.a matrix of 64"] * 2 + ["a matrix of 64"] * 2
    assert (
        onloaded_matrices(stages(quip(a=[at("down_proj", "input"), at("down_proj", "output")])))
        == ["a matrix of 64"] * 2
    ), "one for each subgraph"


@pytest.mark.parametrize("own", ["down_proj", "act_fn"])
def test_of_two_modifiers_hooks_of_one_name_on_one_place_both_run(own: str) -> None:
    both = stages(quip(a=[at(own, "input")]), quip(a=[at(own, "input")]))
    once = stages(quip(a=[at(own, "input")]))
    runs, run = (len(taken(walked(which), "rotated input rotated")) for which in (both, once))
    assert (runs, len(onloaded_matrices(both))) == (2 * run, 2 * 2)


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


@pytest.mark.parametrize(
    ("which", "more"),
    [
        (recipe(at(LAYERS, "input"), last=STATIC), {"pipeline": "basic"}),
        (recipe(at(LAYERS, "k_cache"), last=STATIC), {}),
    ],
    ids=["basic", "keys"],
)
def test_what_is_no_node_of_the_graph_is_not_followed(which: Recipe, more: dict[str, Any]) -> None:
    with pytest.raises(UnsupportedError, match="planner does not follow"):
        walked(which, **PARTS, **more)


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


@pytest.mark.parametrize(("location", "message"), [("input", "IndexError"), ("output", "AttributeError")])
def test_the_models_own_hooks_run_in_the_basic_pipeline_and_fail(location: str, message: str) -> None:
    target = f"{{targets: Qwen3ForCausalLM, location: {location}}}"
    with pytest.raises(RecipeError, match=rf"takes the model itself, .* \({message}\)"):
        walked(recipe(target, last=STATIC), pipeline="basic")


def test_a_transform_becomes_one_of_the_modules_that_a_sequence_goes_through() -> None:
    graph = graph_of("qwen3-0.6b", toys.job(**SMALL))
    called = Called(graph, toys.job(), samples=True)
    assert not called("model.layers"), "transformers takes a slice of it"
    through = Called(
        replace(graph, trace=replace(graph.trace, iterated=frozenset({"a.0.mlp"}))), toys.job(), samples=True
    )
    with pytest.raises(UnsupportedError, match=r"a\.7\.mlp goes through as one of its modules"):
        through("a.7.mlp")


# ---------------------------------------------------------------------- what fails
@pytest.mark.parametrize(
    ("where", "error", "message"),
    [
        (
            at("self_attn", "input"),
            RecipeError,
            "self_attn, which is called with keyword .* reads args.0.* .IndexError",
        ),
        (at("self_attn", "output"), RecipeError, "self_attn, which returns no single tensor: .* .AttributeError"),
        (at("q_proj", "k_cache"), RecipeError, "q_proj, whose forward takes no past keys: .* .TypeError"),
        (at("mlp", "q_attn"), RecipeError, "mlp, whose forward takes no past keys"),
        (at("embed_tokens", "input"), RecipeError, "embed_tokens, whose input are token ids"),
        (at("rotary_emb", "input"), RecipeError, "rotary_emb, which is passed position_ids by position too: .*TypeErr"),
        (at("^model", "output"), RecipeError, "model, which returns no single tensor: .* .AttributeError"),
        (at("^model", "input"), RecipeError, "model, which is called with keyword arguments: .* .IndexError"),
    ],
)
def test_a_hook_that_fails_once_samples_pass_is_refused_where_they_do(
    where: str, error: type[PlannerError], message: str
) -> None:
    """As the library failed on each of them, but on token ids, whose values nobody computed."""
    block = 32 if "embed" in where else 64
    with pytest.raises(error, match=message):
        program(recipe(where, block=block))
    assert program(recipe(where, block=block, last=ROUNDED)), "no sample passes"


@pytest.mark.parametrize("pipeline", ["independent", "sequential"])
def test_a_hook_that_comes_after_the_samples_meets_none_where_each_modifier_has_its_own_pipeline(pipeline: str) -> None:
    group = f"{{type: hadamard, head_dim: 64, apply: [{at('self_attn', 'input')}]}}"
    quip = f"QuIPModifier: {{transform_config: {{config_groups: {{a: {group}}}}}}}"
    which, job = (
        load_recipe(f"a_stage:\n  a_modifiers:\n    {GPTQ}\n    {quip}\n"),
        toys.job(**SMALL, pipeline=pipeline),
    )
    graph = graph_of("qwen3-0.6b", job)
    if pipeline == "independent":
        assert make_program(graph, which, job)
    else:
        with pytest.raises(RecipeError, match="called with keyword arguments"):
            make_program(graph, which, job)


def test_the_matrix_of_a_module_on_the_disk_is_made_nowhere() -> None:
    """As the library stopped on the meter; an activation function lies on the CPU, and its matrix was made."""
    with pytest.raises(RecipeError, match=r"down_proj, which lies on the disk: .* \(RuntimeError\)"):
        walked(recipe(at("down_proj", "input"), last=STATIC), weights="disk")
    assert walked(recipe(at("act_fn", "input"), last=STATIC), weights="disk")


@pytest.mark.parametrize("location", ["input", "output"])
@pytest.mark.parametrize("name", ["input_layernorm", "q_norm"])
def test_the_matrix_of_a_norm_on_the_disk_is_made_nowhere_and_that_of_a_block_on_the_cpu(
    name: str, location: str
) -> None:
    """A norm has weights of its own, whose place `get_offloaded_device` gives; a block has those of its parts alone."""
    with pytest.raises(RecipeError, match=rf"{name}, which lies on the disk: .* \(RuntimeError\)"):
        walked(recipe(at(name, location), last=STATIC), weights="disk")
    assert walked(recipe(at("mlp", location), last=STATIC), weights="disk")


@pytest.mark.parametrize("own", ["down_proj", "input_layernorm"])
def test_a_hook_on_the_disk_whose_matrix_was_made_elsewhere_is_not_followed(own: str) -> None:
    """offload/cache/disk.py DiskCache.offload writes each hook's matrix to a file of its own."""
    which = recipe(at("act_fn", "input"), at(own, "input"), last=STATIC)
    with pytest.raises(UnsupportedError, match=f"{own}, which lies on the disk, while the matrix was made elsewhere"):
        walked(which, weights="disk")


@pytest.mark.parametrize(
    ("location", "block", "message"),
    [
        ("weight_input", 64, "takes the model itself, which is no plain Linear"),
        ("input", None, "takes the model itself: LLM Compressor wants a head_dim"),
    ],
)
def test_a_message_about_the_model_itself_says_so(location: str, block: int | None, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        program(recipe(f"{{targets: Qwen3ForCausalLM, location: {location}}}", block=block))


def test_a_model_that_passes_a_cache_on_to_no_attention_is_named_too() -> None:
    apply = [{"targets": "Model", "location": "k_cache"}]
    groups = {"a": {"type": "hadamard", "head_dim": 64, "apply": apply}}
    spec = QuIPSpec.read({"transform_config": {"config_groups": groups}}, "quip")
    with pytest.raises(UnsupportedError, match="takes the model itself: planner knows the keys of attentions alone"):
        spec.within(ModelTraits(), [ModuleRef("", ("Model", "Module"), takes_cache=True)], ())


def test_a_matrix_wider_than_what_it_multiplies_is_refused() -> None:
    with pytest.raises(RecipeError, match="q_norm: 256 must divide 128, what it multiplies there"):
        program(recipe(at("q_norm", "input"), block=256))


def program(which: Recipe) -> Any:
    job = toys.job(**SMALL)
    return make_program(graph_of("qwen3-0.6b", job), which, job)[0]
