"""Groups of transforms that a recipe has of its own: taken as they are, in the library's order."""

from typing import Any

import pytest

from planner.compress.context import Context
from planner.compress.modifiers.quip import QuIPModel, QuIPSpec
from planner.compress.modifiers.spinquant import SpinQuantSpec
from planner.errors import PlannerError, RecipeError, UnsupportedError
from planner.models.traces import KEY_STATES
from planner.recipe.specs import ModelTraits, ModuleRef
from planner.recipe.targets import LinearModule
from planner.units import human_bytes
from tests import toys

ROWS, COLUMNS, TOKENS, VOCABULARY, HEAD = 32, 64, 10, 500, 16
TRAITS = ModelTraits(architecture="LlamaForCausalLM", heads=4, kv_heads=2, head_dim=HEAD)
MODULES = (
    ModuleRef("embed", ("Embedding", "Module"), VOCABULARY, COLUMNS, 2),
    ModuleRef("attn", ("LlamaAttention", "Module"), takes_cache=True),
    ModuleRef("up", ("Linear", "Module"), ROWS, COLUMNS, 2),
    ModuleRef("norm", ("LlamaRMSNorm", "Module"), 1, COLUMNS, 2),
    ModuleRef("router", ("Router", "Linear", "Module"), 8, COLUMNS, 2),
    ModuleRef("cached", ("Mixer", "Module"), takes_cache=True),
)
UP, EMBEDDING = toys.linear("up", ROWS, COLUMNS), toys.linear("embed", VOCABULARY, COLUMNS, embedding=True)
CALL = toys.linear_call("up", TOKENS, ROWS, COLUMNS, 2)
MAPPINGS = {
    **dict.fromkeys(("attn", "attn_q", "attn_k", "attn_v", "attn_o", "mlp_in", "mlp_out", "lm_head"), "x"),
    "embedding": "embed",
}
NORMS = [{"norm": "norm", "linears": "up"}]


def at(location: str, *, targets: Any = "up", **fields: Any) -> dict[str, Any]:
    return {"targets": targets, "location": location, **fields}


def group(*apply: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {"type": "hadamard", "apply": list(apply), **fields}


def entry(**groups: Any) -> dict[str, Any]:
    return {"transform_config": {"config_groups": groups}}


def quip(**groups: Any) -> QuIPSpec:
    return QuIPSpec.read(entry(**groups), "quip").within(TRAITS, MODULES, ())


def started(*modules: LinearModule, **groups: Any) -> tuple[QuIPModel, Context]:
    context = Context(toys.job())
    model = QuIPModel(context, quip(**groups))
    model.on_calibration_start(modules)
    return model, context


# ---------------------------------------------------------------------- matrices
def test_quips_own_groups_written_out_are_quips_own() -> None:
    apply = ({"targets": ["Linear"], "ignore": "lm_head"},) * 2
    v = group({**apply[0], "location": "input"}, {**apply[1], "location": "weight_input", "inverse": True})
    u = group({**apply[0], "location": "weight_output"}, {**apply[1], "location": "output", "inverse": True})
    shared = {"precision": "torch.float64", "head_dim": 16}
    own = {"rotations": ["v", "u"], "transform_type": "hadamard", "transform_block_size": 16}
    written = QuIPSpec.read(entry(v={**v, **shared}, u={**u, **shared}), "quip")
    assert written.transforms == QuIPSpec.read(own, "quip").transforms


def test_a_hook_that_comes_first_gets_float32_unless_the_group_says_more() -> None:
    """compressed-tensors' default, where the modifier's own groups have float64."""
    _, context = started(UP, a=group(at("input"), at("weight_input", inverse=True)))
    assert context.ledger.live_by_kind("cpu") == {"transform": COLUMNS * COLUMNS * 4 + 8}
    assert context.ledger.close_step()["gpu"].bytes == ROWS * COLUMNS * (2 + 4 + 4) + COLUMNS * COLUMNS * 4


def test_a_weight_that_comes_first_gets_float64_and_the_hook_the_same_matrix() -> None:
    groups = {"a": group(at("weight_input", inverse=True), at("input"))}
    model, context = started(UP, **groups)
    assert context.ledger.live_by_kind("cpu") == {"transform": COLUMNS * COLUMNS * 8 + 8}
    assert list(quip(**groups).added(MODULES)) == [("up.a_input.weight", "F64", (COLUMNS, COLUMNS))]
    context.ledger.close_step()
    model.before_forward(UP, CALL)
    assert context.ledger.close_step()["gpu"].bytes == COLUMNS * COLUMNS * 8 + TOKENS * COLUMNS * (8 + 8)


def test_groups_share_no_matrix() -> None:
    _, context = started(UP, a=group(at("input")), b=group(at("input")))
    assert context.ledger.live("cpu") == 2 * (COLUMNS * COLUMNS * 4 + 8)


def test_what_is_fused_alone_leaves_nothing_at_the_end_and_no_hook() -> None:
    groups = {"a": group(at("weight_output"), at("weight_output", targets="embed"))}
    model, context = started(UP, EMBEDDING, **groups)
    matrices = (ROWS * ROWS + COLUMNS * COLUMNS) * 8
    assert context.ledger.live("cpu") == matrices
    spec = quip(**groups)
    notes = [note for note in spec.check(MODULES, spec.select(MODULES)) if note.kind in ("estimate", "result")]
    assert [human_bytes(matrices) in note.text for note in notes] == [True]
    model.on_finalize()
    assert context.ledger.live("cpu") == 0
    assert not model.stays_in_forward
    assert not list(spec.added(MODULES))


def test_hooks_alone_rewrite_no_weight() -> None:
    assert not quip(a=group(at("input"))).rewrites_weights
    assert quip(a=group(at("weight_input"))).rewrites_weights


def test_a_random_matrix_and_its_inverse_are_two_where_hooks_have_both() -> None:
    square = toys.linear("up", COLUMNS, COLUMNS)
    modules = [ModuleRef("up", ("Linear", "Module"), COLUMNS, COLUMNS, 2)]
    both = group(at("input"), at("output", inverse=True), type="random_matrix")
    spec = QuIPSpec.read(entry(a=both), "quip").within(TRAITS, modules, ())
    model = QuIPModel(context := Context(toys.job()), spec)
    model.on_calibration_start([square])
    model.on_finalize()
    assert context.ledger.live("cpu") == 2 * COLUMNS * COLUMNS * 4
    assert [name for name, _, _ in spec.added(modules)] == ["up.a_input.weight", "up.a_output.weight"]


# ---------------------------------------------------------------------- the forward
def test_of_two_hooks_on_an_input_the_second_rotates_what_the_last_one_returned() -> None:
    model, context = started(UP, a=group(at("input"), head_dim=16), b=group(at("input"), head_dim=8))
    context.ledger.close_step()
    model.before_forward(UP, CALL)
    matrices, values = (16 * 16 + 8 * 8) * 4, TOKENS * COLUMNS
    step = context.ledger.close_step()["gpu"]
    assert step.bytes == matrices + values * (2 + 4 + 4), "b's result in bf16, itself in fp32, and the product"
    assert step.end == matrices + values * 2
    model.returned(UP, CALL)
    assert context.ledger.live("gpu") == matrices


def test_keys_are_rotated_and_queries_are_not() -> None:
    states = group(at("q_attn", targets="attn"), at("k_cache", targets="attn"), head_dim=8)
    spec = quip(a=states)
    assert spec.select(MODULES).keys == {"attn"}
    assert not spec.select(MODULES).weights
    model, context = started(a=states)
    assert context.ledger.live("cpu") == 8 * 8 * 4 + 2 * 8
    assert {key for key, _ in model.groups._hooks} == {f"attn.{KEY_STATES}"}
    assert [rotation.place for rotation in spec.online("", MODULES)] == ["query", "key"]
    assert "keys alone" in " ".join(note.text for note in spec.check(MODULES, spec.select(MODULES)))


# ---------------------------------------------------------------------- what is refused, and what is said
@pytest.mark.parametrize(
    ("groups", "error", "message"),
    [
        ({"a.b": group(at("input"))}, RecipeError, "whose name cannot have a dot"),
        ({"a": group(at("input"), type="dct")}, RecipeError, r"a\.type: dct is not one of hadamard"),
        ({"a": group(at("inputs"))}, RecipeError, r"config_groups\.a\.apply\[0\]\.location: Input should be 'input'"),
        ({"a": group(at("input"), head_dims=2)}, RecipeError, r"config_groups\.a"),
        ({"a": group(at("weight_input"), requires_grad=True)}, RecipeError, r"a\.requires_grad: LLM Compressor stops"),
        ({"a": group(at("input"), precision="float7")}, RecipeError, r"config_groups\.a\.precision: .*no type float7"),
        ({"a": group(at("input"), precision=16)}, RecipeError, r"config_groups\.a\.precision: .*no type 16"),
        (
            {"a": group(at("input"), precision="cdouble", type="random-hadamard")},
            RecipeError,
            r"a\.precision: PyTorch makes no random-hadamard matrix of complex128",
        ),
        ({"a": group(at("input"), precision="float8_e4m3fn")}, RecipeError, r"a\.precision: PyTorch makes no hadamard"),
        (
            {"a": group(at("input"), precision="int", type="random-matrix")},
            RecipeError,
            "no random-matrix matrix of int32",
        ),
        ({"a": group(at("input"), precision="cfloat", type="random-hadamard")}, RecipeError, "matrix of complex64"),
        ({"a": group(at("input"), head_dim=48)}, RecipeError, r"a\.head_dim: 48 must divide 64 of up"),
        ({"a": group(at("input", targets="re:("))}, RecipeError, r"a\.apply\[0\]\.targets: .* is not a regular"),
        (
            {"a": group(at("weight_input", targets="norm"))},
            RecipeError,
            "norm, which is no plain Linear",
        ),
        ({"a": group(at("weight_input", targets="router"))}, RecipeError, "takes router, which is no plain Linear"),
        ({"a": group(at("output", targets="norm"))}, RecipeError, "takes norm: LLM Compressor wants a head_dim"),
        ({"a": group(at("output", targets="embed"), head_dim=48)}, RecipeError, "48 must divide 64 of embed"),
        ({"a": group(at("k_cache", targets="cached"), head_dim=8)}, UnsupportedError, "knows the keys of attentions"),
        ({"a": group(at("k_cache", targets="attn"))}, RecipeError, "takes attn: LLM Compressor wants a head_dim"),
        (
            {"a": group(at("k_cache", targets="attn"), head_dim=32)},
            RecipeError,
            "32 must divide 16 of the heads of attn",
        ),
    ],
    ids=str,
)
def test_what_cannot_be_planned_is_refused_by_its_path(
    groups: dict[str, Any], error: type[PlannerError], message: str
) -> None:
    with pytest.raises(error, match=message):
        quip(**groups)


def test_targets_that_match_nothing_are_told_and_refused_where_none_matches() -> None:
    one = quip(a=group(at("input"), at("weight_input", targets="gate")))
    texts = [note.text for note in one.check(MODULES, one.select(MODULES)) if note.kind == "recipe"]
    assert [text.startswith("quip.transform_config.config_groups.a.apply[1].targets: gate") for text in texts] == [True]
    none = quip(a=group(at("input", targets="gate")))
    with pytest.raises(RecipeError, match="gate matches no module"):
        list(none.check(MODULES, none.select(MODULES)))


def test_fields_that_the_groups_replace_are_told() -> None:
    spec = QuIPSpec.read({**entry(a=group(at("input"))), "targets": "down", "rotations": ["v"]}, "quip")
    fields = [note.text.partition(" ")[0] for note in spec.notes]
    assert fields == ["quip.rotations", "quip.targets"]


# ---------------------------------------------------------------------- SpinQuant
def test_spinquant_takes_groups_with_mappings_beside_them() -> None:
    fields = {**entry(a=group(at("weight_output"))), "mappings": MAPPINGS, "norm_mappings": NORMS}
    spec = SpinQuantSpec.read(fields, "spin").within(ModelTraits(), MODULES, ())
    assert (spec.embeddings, spec.fused) == (("embed",), (("norm", ("up",)),))
    assert [(each.transform.name, each.names) for each in spec.applied] == [("a", ("up",))]
    assert spec.select(MODULES).weights.keys() == {"embed", "up"}


@pytest.mark.parametrize(
    ("fields", "missing"), [({}, "mappings"), ({"mappings": MAPPINGS}, "norm_mappings")], ids=["neither", "one"]
)
def test_spinquant_infers_none_of_them_and_fails(fields: dict[str, Any], missing: str) -> None:
    with pytest.raises(RecipeError, match=rf"spin\.transform_config: LLM Compressor infers no {missing} beside it"):
        SpinQuantSpec.read({**entry(a=group(at("weight_output"))), **fields}, "spin")


def test_mappings_that_take_what_has_no_weight_are_refused() -> None:
    fields = {**entry(a=group()), "mappings": {**MAPPINGS, "embedding": "attn"}, "norm_mappings": []}
    with pytest.raises(RecipeError, match="the mappings take attn, which has no weight"):
        SpinQuantSpec.read(fields, "spin").within(ModelTraits(), MODULES, ())


def test_a_hook_with_gradients_takes_what_one_without_takes() -> None:
    """factory/base.py `_apply_to_module`: only weights are parametrized, and samples run without gradients."""
    held = [started(UP, a=group(at("input"), **more))[1].ledger.live("cpu") for more in ({}, {"requires_grad": True})]
    assert held[0] == held[1] > 0
