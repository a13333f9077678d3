"""Hooks of transforms on what is no plain Linear: what of them runs, and where the library fails on them."""

from dataclasses import replace

import pytest

from planner.compress.binding import make_program
from planner.compress.called import Called
from planner.compress.context import Context
from planner.compress.modifiers.quip import QuIPModel, QuIPSpec
from planner.compress.recipes import load_recipe
from planner.errors import PlannerError, RecipeError, UnsupportedError
from planner.models.traces import KEY_STATES
from planner.models.tuned import alone
from planner.recipe.specs import ModelTraits, ModuleRef
from tests import toys
from tests.built import graph_of
from tests.compress.hooked import (
    GPTQ,
    HEADS,
    HIDDEN,
    INNER,
    ROUNDED,
    SMALL,
    STATIC,
    TOKENS,
    at,
    onloaded_matrices,
    program,
    quip,
    recipe,
    stages,
    taken,
    walked,
)


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


@pytest.mark.parametrize(("location", "message"), [("input", "IndexError"), ("output", "AttributeError")])
def test_the_models_own_hooks_run_in_the_basic_pipeline_and_fail(location: str, message: str) -> None:
    target = f"{{targets: Qwen3ForCausalLM, location: {location}}}"
    with pytest.raises(RecipeError, match=rf"takes the model itself, .* \({message}\)"):
        walked(recipe(target, last=STATIC), pipeline="basic")


def test_a_transform_becomes_one_of_the_modules_that_a_sequence_goes_through() -> None:
    graph = graph_of("qwen3-0.6b", toys.job(**SMALL))
    called = Called(graph, toys.job(), samples=True)
    assert not called.is_iterated("model.layers"), "transformers takes a slice of it"
    through = Called(
        replace(graph, trace=replace(graph.trace, iterated=frozenset({"a.0.mlp"}))), toys.job(), samples=True
    )
    assert through.is_iterated("a.7.mlp")
    assert not Called(through.graph, toys.job(), samples=False).is_iterated("a.7.mlp")


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
