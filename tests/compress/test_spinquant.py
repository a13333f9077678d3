"""SpinQuant: weights in fp64, one at a time, before anything runs; every figure worked out by hand."""

from dataclasses import replace
from typing import Any

import pytest

from planner.compress.context import Context
from planner.compress.modifiers.matrices import Matrices
from planner.compress.modifiers.spinquant import SpinQuantModel, SpinQuantSpec
from planner.cuda.build import CudaBuild
from planner.errors import PlannerError, RecipeError
from planner.recipe.specs import ModelTraits, ModuleRef
from planner.recipe.targets import LinearModule
from planner.units import human_bytes
from tests import toys

HIDDEN, VOCABULARY, MLP, HEAD = 64, 1_000, 192, 16
SHAPES = {
    "model.embed_tokens": (VOCABULARY, HIDDEN),
    "model.layers.0.self_attn.q_proj": (HIDDEN, HIDDEN),
    "model.layers.0.self_attn.k_proj": (16, HIDDEN),
    "model.layers.0.self_attn.v_proj": (16, HIDDEN),
    "model.layers.0.self_attn.o_proj": (HIDDEN, HIDDEN),
    "model.layers.0.mlp.gate_proj": (MLP, HIDDEN),
    "model.layers.0.mlp.up_proj": (MLP, HIDDEN),
    "model.layers.0.mlp.down_proj": (HIDDEN, MLP),
    "lm_head": (VOCABULARY, HIDDEN),
}
NORMS = ("model.layers.0.input_layernorm", "model.layers.0.post_attention_layernorm", "model.norm")
ELEMENTS = VOCABULARY * HIDDEN
MATRIX, OF_A_HEAD = HIDDEN * HIDDEN * 8, HEAD * HEAD * 8
LLAMA = ModelTraits(architecture="LlamaForCausalLM", head_dim=HEAD)


MAPPINGS = {
    **dict.fromkeys(("attn", "attn_q", "attn_k", "attn_v", "attn_o", "mlp_in", "mlp_out", "lm_head"), "x"),
    "embedding": "re:.*embed_tokens$",
}


def refs(**shapes: tuple[int, int]) -> list[ModuleRef]:
    linears = [
        ModuleRef(name, ("Embedding" if "embed" in name else "Linear",), *shapes.get(name.rpartition(".")[2], shape), 2)
        for name, shape in SHAPES.items()
    ]
    *layer, head = linears
    return [ModuleRef("", ("LlamaForCausalLM",)), *layer, *(ModuleRef(n, ("Norm",)) for n in NORMS), head]


def spec(**fields: Any) -> SpinQuantSpec:
    return SpinQuantSpec.read(fields, "spin").within(LLAMA, refs(), ())


def modules() -> list[LinearModule]:
    return [toys.linear(name, *shape, embedding="embed" in name) for name, shape in SHAPES.items()]


def run(cuda: CudaBuild | None = None, **fields: Any) -> tuple[SpinQuantModel, Context]:
    context = Context(toys.job(), cuda=cuda)
    model = SpinQuantModel(context, spec(**fields))
    model.on_calibration_start(modules())
    return model, context


def apart() -> tuple[SpinQuantModel, Context]:
    """A model whose functions are called one by one; what is onloaded does not stay."""
    context = alone()
    return SpinQuantModel(context, spec()), context


def alone() -> Context:
    context = Context(toys.job())
    context.keep_onloaded = False
    return context


# ---------------------------------------------------------------------- memory
def test_centering_the_embedding_sets_the_peak() -> None:
    _, context = run()
    # the weight, itself in fp64, the centered one in fp64 and in bf16
    assert context.ledger.close_step()["gpu"].bytes == ELEMENTS * (2 + 8 + 8 + 2)


def test_nothing_stays_on_the_gpu_and_two_matrices_on_the_cpu_until_the_end() -> None:
    model, context = run()
    assert context.ledger.live("gpu") == 0
    assert context.ledger.live_by_kind("cpu") == {"transform": MATRIX + OF_A_HEAD}
    model.on_finalize()
    assert context.ledger.live("cpu") == 0


def test_a_rotation_holds_the_weight_twice_in_fp64_and_the_matrix() -> None:
    context = alone()
    matrices = Matrices(context, "R1", "hadamard")
    matrices.make(HIDDEN)
    context.ledger.close_step()
    matrices.rotate(toys.linear("m", MLP, HIDDEN), HIDDEN)
    assert context.ledger.close_step()["gpu"].bytes == MLP * HIDDEN * (2 + 8 + 8) + MATRIX


def test_fusing_a_norm_keeps_the_weight_before_until_the_next_product_is_there() -> None:
    model, context = apart()
    up, gate = (toys.linear(name, MLP, HIDDEN) for name in ("up", "gate"))
    model._fuse("norm", [up])
    one = context.ledger.close_step()["gpu"].bytes
    # the weight, its norm, both in fp64, and the product
    assert one == MLP * HIDDEN * (2 + 8 + 8) + HIDDEN * (2 + 8)
    model._fuse("norm", [up, gate])
    assert context.ledger.close_step()["gpu"].bytes == one + MLP * HIDDEN * 2


def test_a_matrix_doubles_from_one_element_on() -> None:
    context = alone()
    Matrices(context, "R1", "hadamard").make(HIDDEN)
    # the quarter before, two halves, and the whole
    assert context.ledger.close_step()["gpu"].bytes == MATRIX // 4 + 2 * (MATRIX // 2) + MATRIX


def test_blocks_have_smaller_matrices() -> None:
    _, context = run(transform_block_size=16)
    assert context.ledger.live("cpu") == 16 * 16 * 8 + OF_A_HEAD


def test_the_first_product_takes_the_workspace_of_cublas() -> None:
    _, context = run(cuda=CudaBuild())
    assert context.ledger.live_by_kind("gpu") == {"cuda_workspace": CudaBuild().cublas_workspace}


# ---------------------------------------------------------------------- what is rotated
def test_rotations_reach_both_sides_of_each_weight() -> None:
    outputs, inputs, values, merged = ([name.rpartition(".")[2] for name in each.names] for each in spec().applied)
    assert outputs == ["embed_tokens", "o_proj", "down_proj"]
    assert inputs == ["q_proj", "k_proj", "v_proj", "gate_proj", "up_proj", "lm_head"]
    assert (values, merged) == (["v_proj"], ["o_proj"])
    assert [transform.name for transform in spec(rotations=["r2"]).transforms] == ["R2"]
    selection = spec().select(refs())
    assert selection.weights.keys() == SHAPES.keys()
    assert selection.watched == set(NORMS)


def test_a_mixture_of_cohere_fuses_its_last_norm_alone_and_wants_a_preparation() -> None:
    routed = SpinQuantSpec.read({}, "spin").within(replace(LLAMA, architecture="Cohere2MoeForCausalLM"), refs(), ())
    assert routed.fused == (("model.norm", ("lm_head",)),)
    assert routed.applied == spec().applied
    (note,) = (note for note in routed.check(refs(), routed.select(refs())) if note.kind == "result")
    assert "prepare_cohere2_moe_for_spinquant" in note.text
    assert not [note for note in spec().check(refs(), spec().select(refs())) if note.kind == "result"]


@pytest.mark.parametrize(
    ("fields", "garbage"),
    [
        ({"rotations": ["R1"]}, MATRIX),
        ({"rotations": ["R1"], "transform_block_size": 16}, 16 * 16 * 8),
        ({"rotations": ["R1"], "transform_type": "random-matrix"}, 2 * MATRIX),
        ({"rotations": ["R4"], "transform_type": "random-hadamard"}, 0),
        ({"rotations": ["R4"], "transform_type": "random-matrix"}, MLP * MLP * 8),
        ({"rotations": ["R2"]}, OF_A_HEAD),
        ({"rotations": ["R3"]}, 0),
    ],
    ids=str,
)
def test_how_much_waits_for_pythons_collector_is_said(fields: dict[str, Any], garbage: int) -> None:
    found = spec(**fields)
    notes = [note for note in found.check(refs(), found.select(refs())) if "collector" in note.text]
    assert [note.kind for note in notes] == ["estimate"] * bool(garbage)
    assert all(human_bytes(garbage) in note.text for note in notes)


def test_what_no_weight_needs_any_more_goes_at_the_end() -> None:
    model, context = run(transform_type="random-matrix", rotations=["R1"])
    assert context.ledger.live_by_kind("cpu") == {"transform": 2 * MATRIX}
    model.on_finalize()
    assert context.ledger.live("cpu") == 0


def test_matrices_that_stay_are_as_wide_as_the_precision() -> None:
    fields = {"rotations": ["R4"], "precision": "torch.float32", "transform_block_size": 16}
    _, context = run(**fields)
    kept = context.ledger.live_by_kind("cpu")["transform"]
    assert kept == 16 * 16 * 4 + 8
    assert [kind for _, kind, _ in spec(**fields).added(refs())] == ["F32"]


def test_without_the_width_of_a_head_matrices_of_r2_are_as_wide_as_its_linears() -> None:
    """compressed_tensors transform/utils/matrix.py get_transform_size, with the head_dim None of Mixtral's config."""
    wanted = SpinQuantSpec.read({"rotations": ["R2"], "transform_block_size": 8}, "spin")
    found = wanted.within(replace(LLAMA, head_dim=None), refs(), ())
    context = alone()
    SpinQuantModel(context, found).on_calibration_start(modules())
    both = MATRIX + 16 * 16 * 8
    assert context.ledger.live_by_kind("cpu") == {"transform": both}
    (note,) = found.check(refs(), found.select(refs()))
    assert human_bytes(both) in note.text


@pytest.mark.parametrize(
    ("head_dim", "message"),
    [(None, r"a hadamard matrix of 24 \(.*v_proj\)"), (12, r"a hadamard matrix of 12"), (16, "16 must divide 24")],
)
def test_values_without_a_matrix_of_their_size_are_refused(head_dim: int | None, message: str) -> None:
    traits = replace(LLAMA, head_dim=head_dim)
    with pytest.raises(RecipeError, match=message):
        SpinQuantSpec.read({"rotations": ["R2"]}, "spin").within(traits, refs(v_proj=(24, HIDDEN)), ())


def test_a_size_without_a_hadamard_matrix_is_refused() -> None:
    odd = refs(embed_tokens=(VOCABULARY, 96))
    with pytest.raises(RecipeError, match=r"a hadamard matrix of 96 \(model\.embed_tokens\) does not exist"):
        SpinQuantSpec.read({}, "spin").within(LLAMA, odd, ())
    with pytest.raises(RecipeError, match=r"transform_block_size: 48 must divide 64"):
        spec(transform_block_size=48)


def test_norms_that_cannot_be_grouped_are_refused() -> None:
    without = [ref for ref in refs() if ref.name != "model.norm"]
    with pytest.raises(RecipeError, match=r"spin \(LlamaForCausalLM\): the last set .* has no match for model\.norm"):
        SpinQuantSpec.read({}, "spin").within(LLAMA, without, ())


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"randomize": True}, r"spin\.randomize: is not supported"),
        ({"rotations": ["R5"]}, r"spin\.rotations: R5 is not one of"),
        ({"precision": "bf16"}, r"spin\.precision: .*PyTorch has no type bf16"),
        ({"transform_config": {"config_groups": {}}}, r"spin\.transform_config: LLM Compressor infers no mappings"),
        ({"transform_type": "dct"}, r"spin\.transform_type"),
    ],
)
def test_what_cannot_be_planned_is_refused_by_its_path(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(PlannerError, match=message):
        SpinQuantSpec.read(fields, "spin")


def test_mappings_of_ones_own_are_not_heeded_and_that_is_said() -> None:
    (note,) = SpinQuantSpec.read({"mappings": MAPPINGS}, "spin").notes
    assert note.text == "spin.mappings is not heeded: LLM Compressor infers them anew"


# ---------------------------------------------------------------------- what stays in the forward
def test_only_r4_rotates_inputs_in_the_forward_and_its_matrix_stays() -> None:
    model, context = run(rotations=["R2", "R4"], transform_type="random-hadamard")
    matrix, before = MLP * MLP * 8, context.ledger.live("gpu")
    up, down = (
        toys.linear(f"model.layers.0.mlp.{n}", *SHAPES[f"model.layers.0.mlp.{n}"]) for n in ("up_proj", "down_proj")
    )
    for module in (up, down):
        model.before_forward(module, toys.linear_call(module.name, 10, module.rows, module.columns, 2))
    assert context.ledger.live("gpu") - before == matrix + 10 * MLP * 2
    model.returned(down, toys.linear_call(down.name, 10, down.rows, down.columns, 2))
    assert context.ledger.live("gpu") - before == matrix
    model.on_finalize()
    assert context.ledger.live("cpu") == matrix + 8
    assert model.stays_in_forward
    assert not run()[0].stays_in_forward


def test_r4_hooks_the_inputs_of_down_projections_alone() -> None:
    fields = {"rotations": ["R1", "R4"], "transform_block_size": 16}
    hooked = SpinQuantSpec.read(fields, "spin").hooked_inputs(LLAMA, refs(), ())
    assert hooked
    assert all(name.endswith("down_proj") for name in hooked)


def test_r4s_matrix_is_saved() -> None:
    (saved,) = spec(rotations=["R1", "R4"], transform_block_size=16).added(refs())
    assert saved == ("model.layers.0.mlp.down_proj.R4_input.weight", "F64", (16, 16))
    assert not list(spec().added(refs()))
