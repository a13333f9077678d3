"""The type of a transform's matrices, and matrices that are permuted in each product (`randomize`)."""

from typing import Any

import pytest

from planner.compress.context import Context
from planner.compress.disk import below
from planner.compress.modifiers.matrices import Matrices
from planner.compress.modifiers.quip import QuIPModel, QuIPSpec
from planner.compress.modifiers.spinquant import SpinQuantSpec
from planner.errors import RecipeError, UnsupportedError
from planner.recipe.specs import ModelTraits, ModuleRef
from planner.units import human_bytes
from tests import toys

ROWS, COLUMNS, TOKENS = 32, 64, 10
VALUES, MATRIX, ORDER = TOKENS * COLUMNS, COLUMNS * COLUMNS * 4, COLUMNS * 8
"""Numbers of an input; bytes of its matrix in float32, and of a permutation."""
UP = toys.linear("up", ROWS, COLUMNS)
CALL = toys.linear_call("up", TOKENS, ROWS, COLUMNS, 2)
INPUT = {"targets": "Linear", "location": "input"}
WEIGHT = {"targets": "Linear", "location": "weight_input", "inverse": True}


def refs(*names: str) -> list[ModuleRef]:
    return [ModuleRef(name, ("Linear", "Module"), ROWS, COLUMNS, 2) for name in names or ("up",)]


def group(*apply: dict[str, Any], **fields: Any) -> QuIPSpec:
    """One group of one's own, `a`."""
    groups = {"a": {"type": "hadamard", "apply": list(apply), **fields}}
    spec = QuIPSpec.read({"transform_config": {"config_groups": groups}}, "quip")
    return spec.within(ModelTraits(), refs(), ())


def started(spec: QuIPSpec, **job: Any) -> tuple[QuIPModel, Context]:
    context = Context(toys.job(**job))
    model = QuIPModel(context, spec)
    model.on_calibration_start([UP])
    return model, context


def forward(spec: QuIPSpec, **job: Any) -> tuple[int, int]:
    """Bytes on the GPU while a hook runs, and once it has returned."""
    model, context = started(spec, **job)
    context.ledger.close_step()
    model.before_forward(UP, CALL)
    step = context.ledger.close_step()["gpu"]
    return step.bytes, step.end


def test_the_matrix_of_a_module_that_lies_on_the_disk_by_itself_comes_through_pinned_memory() -> None:
    """Its transform is offloaded as it is (offload/__init__.py register_offload_module)."""
    peaks = []
    for roots in (frozenset({"up"}), frozenset[str]()):
        context = Context(toys.job())
        context.is_on_disk = below(roots)
        Matrices(context, "a", "random-hadamard").rotate(UP, COLUMNS)
        peaks.append(context.ledger.close_step()["cpu"])
    assert peaks[0].bytes - peaks[0].end >= COLUMNS * COLUMNS * 8
    assert peaks[1].bytes == peaks[1].end


# ---------------------------------------------------------------------- permutations
def test_each_product_gathers_the_matrix_by_rows_and_then_by_columns() -> None:
    assert forward(group(INPUT)) == (MATRIX + VALUES * (4 + 4), MATRIX + VALUES * 2)
    peak, end = forward(group(INPUT, randomize=True))
    assert peak == MATRIX + ORDER + 2 * MATRIX, "kept, beside what is gathered twice"
    assert end == MATRIX + ORDER + VALUES * 2


def test_a_weight_is_multiplied_beside_the_matrix_and_what_is_gathered_of_it() -> None:
    _, context = started(group(WEIGHT, randomize=True))
    wide, weight = COLUMNS * COLUMNS * 8, ROWS * COLUMNS
    assert context.ledger.close_step()["gpu"].bytes == weight * 2 + wide + ORDER + max(2 * wide, wide + weight * 16)


def test_a_matrix_has_one_permutation_on_the_cpu_and_it_is_saved_with_it() -> None:
    spec = group(INPUT, WEIGHT, randomize=True)
    _, context = started(spec)
    assert context.ledger.live("cpu") == MATRIX + ORDER + 8
    saved = [("up.a_input.weight", "F32", (COLUMNS, COLUMNS)), ("up.a_input.perm", "I64", (COLUMNS,))]
    assert list(spec.added(refs("up", "gate"))) == saved


def test_on_the_gpu_what_was_made_elsewhere_is_saved_for_each_hook() -> None:
    """As a tiny Qwen3 was saved by the real library from PyTorch's CUDA build."""
    act = {"targets": "re:.*act", "location": "input"}
    modules = [*refs("up", "down"), *(ModuleRef(f"{n}.act", ("SiLU", "Module"), is_bare=True) for n in range(2))]
    fields: dict[str, Any] = {"head_dim": 16, "randomize": True}

    def saved(*apply: dict[str, Any]) -> list[str]:
        spec = group(*apply, **fields).within(ModelTraits(), modules, ())
        assert {size for _, _, shape in spec.added(modules, on_gpu=True) for size in shape} == {16}
        return [name.replace("a_input.", "") for name, _, _ in spec.added(modules, on_gpu=True)]

    assert saved(INPUT, act) == ["up.weight", "up.perm", "down.perm", "0.act.weight", "0.act.perm", "1.act.weight"]
    assert saved(act, INPUT) == ["up.weight", "up.perm", "down.weight", "down.perm", "0.act.weight", "0.act.perm"]
    on_cpu = group(INPUT, act, **fields).within(ModelTraits(), modules, ())
    assert [name for name, _, _ in on_cpu.added(modules)] == ["up.a_input.weight", "up.a_input.perm"]


def test_hooks_in_trained_layers_have_their_own_and_each_is_saved() -> None:
    """autoround/base.py `suspend_offloading`: as a tiny Qwen3 was saved after AutoRound, weights on the CPU or not."""
    modules = refs("0.up", "0.down", "1.up", "1.down", "up")
    spec = group(INPUT, randomize=True).within(ModelTraits(), modules, ())
    names = [name.replace(".a_input.", " ") for name, _, _ in spec.added(modules, trained=("0", "1"))]
    layers = [f"{n}.{module} {what}" for n in range(2) for module in ("up", "down") for what in ("weight", "perm")]
    assert names == [*layers, "up weight", "up perm"]
    assert len(list(spec.added(modules))) == 2, "else all share"


def test_permutations_of_matrices_that_are_in_weights_go_with_them() -> None:
    spec = group(WEIGHT, randomize=True)
    model, context = started(spec)
    nbytes = COLUMNS * COLUMNS * 8 + ORDER
    assert context.ledger.live("cpu") == nbytes
    assert any(human_bytes(nbytes) in note.text for note in spec.check(refs(), spec.select(refs())))
    model.on_finalize()
    assert context.ledger.live("cpu") == 0


def test_on_the_gpu_each_hook_has_a_permutation_of_its_own_and_the_first_one_goes() -> None:
    model, context = started(group(INPUT, randomize=True), weights="gpu")
    assert (context.ledger.live("gpu"), context.ledger.live("cpu")) == (MATRIX + ORDER, ORDER + 8)
    model.on_finalize()
    assert (context.ledger.live("gpu"), context.ledger.live("cpu")) == (MATRIX + ORDER, 8)


def test_in_the_basic_pipeline_the_permutation_stays_on_the_cpu_and_each_index_copies_it() -> None:
    spec, job = group(INPUT, randomize=True), {"weights": "gpu", "pipeline": "basic"}
    model, context = started(spec, **job)
    assert (context.ledger.live("gpu"), context.ledger.live("cpu")) == (MATRIX, ORDER + 8)
    model.on_finalize()
    assert context.ledger.live("cpu") == ORDER + 8, "the hook has it"
    assert forward(spec, **job) == (3 * MATRIX + ORDER, MATRIX + VALUES * 2)


def test_nobody_looks_at_randomize_where_matrices_are_random() -> None:
    fields = {"type": "random-matrix", "precision": "float32"}
    assert forward(group(INPUT, randomize=True, **fields)) == forward(group(INPUT, **fields))
    assert [name for name, _, _ in group(INPUT, randomize=True, **fields).added(refs())] == ["up.a_input.weight"]


def test_a_transform_under_training_says_that_it_permutes_and_of_what_type_it_is() -> None:
    (rotation,) = group(INPUT, randomize=True, precision="half").online("", refs())
    assert (rotation.permutes, rotation.dtype) == (True, "float16")


# ---------------------------------------------------------------------- types
@pytest.mark.parametrize(
    ("precision", "job", "width", "is_cast"),
    [("bfloat16", "bfloat16", 2, False), ("float16", "bfloat16", 2, True), ("torch.half", "float16", 2, False)],
)
def test_a_value_of_the_matrixs_own_type_is_not_cast(precision: str, job: str, width: int, is_cast: bool) -> None:
    """A random matrix's product is what the hook returns."""
    spec = group(INPUT, type="random-matrix", precision=precision)
    matrix, cast = COLUMNS * COLUMNS * width, VALUES * 2 if is_cast else 0
    assert forward(spec, dtype=job) == (matrix + VALUES * 2 + cast, matrix + VALUES * 2)


@pytest.mark.parametrize(
    ("precision", "width", "saved"),
    [
        ("bfloat16", 2, "BF16"),
        ("half", 2, "F16"),
        ("float", 4, "F32"),
        ("double", 8, "F64"),
        ("cfloat", 8, "C64"),
    ],
)
def test_a_hook_that_comes_first_has_a_matrix_of_the_precision_by_any_of_its_names(
    precision: str, width: int, saved: str
) -> None:
    spec = group(INPUT, WEIGHT, precision=precision)
    _, context = started(spec)
    assert context.ledger.live("cpu") == COLUMNS * COLUMNS * width + 8
    assert [kind for _, kind, _ in spec.added(refs())] == [saved]


def test_matrices_in_complex128_are_planned_and_said_to_end_the_job_when_it_saves() -> None:
    spec = group(INPUT, precision="cdouble")
    wide = VALUES * 16
    assert forward(spec) == (COLUMNS * COLUMNS * 16 + 2 * wide, COLUMNS * COLUMNS * 16 + VALUES * 2)
    fails = [note.text for note in spec.check(refs(), spec.select(refs())) if note.kind == "fails"]
    assert fails == [
        "quip.transform_config.config_groups.a.precision: the job ends in save_pretrained (KeyError): "
        "safetensors saves no complex128"
    ]
    with pytest.raises(UnsupportedError, match="safetensors saves no complex128, and the result is not sized"):
        list(spec.added(refs()))


# ---------------------------------------------------------------------- whole numbers
def test_whole_numbers_are_multiplied_on_a_cpu_alone() -> None:
    """ATen's "addmm_cuda" is not implemented for them."""
    spec = group(INPUT, precision="int16")
    with pytest.raises(RecipeError, match=r"a\.precision: PyTorch multiplies no int16 on a GPU: .*NotImplemented"):
        forward(spec)
    context = Context(toys.job(), device="cpu")
    model = QuIPModel(context, spec)
    model.on_calibration_start([UP])
    matrix = context.ledger.close_step()["cpu"].end
    model.before_forward(UP, CALL)
    step = context.ledger.close_step()["cpu"]
    assert matrix == COLUMNS * COLUMNS * 2 + 8
    assert step.bytes - matrix == VALUES * (2 + 8), "the product, and what is divided by a number in float64"
    assert step.end - matrix == VALUES * 2


@pytest.mark.parametrize(
    ("precision", "width", "saved"),
    [("uint8", 1, "U8"), ("int8", 1, "I8"), ("short", 2, "I16"), ("int", 4, "I32"), ("long", 8, "I64")],
)
def test_a_hook_that_no_sample_passes_has_a_matrix_of_whole_numbers(precision: str, width: int, saved: str) -> None:
    spec = group(INPUT, precision=precision)
    _, context = started(spec)
    assert context.ledger.live("cpu") == COLUMNS * COLUMNS * width + 8
    assert [kind for _, kind, _ in spec.added(refs())] == [saved]


def test_a_random_hadamard_matrix_of_whole_numbers_is_not_made_on_a_gpu() -> None:
    """utils/hadamard.py `_matmul_hadU` multiplies where modules compute: "baddbmm_cuda" is not implemented either."""
    spec = group(INPUT, precision="int32", type="random-hadamard")
    with pytest.raises(RecipeError, match="multiplies no int32 on a GPU"):
        started(spec)
    QuIPModel(Context(toys.job(), device="cpu"), spec).on_calibration_start([UP])


def test_a_trained_layer_multiplies_no_whole_numbers() -> None:
    with pytest.raises(RecipeError, match="multiplies no int8 on a GPU"):
        list(group(INPUT, precision="int8").online("", refs()))


@pytest.mark.parametrize("precision", ["float8_e4m3fn", "int8", "bool", "complex128"])
def test_nobody_reads_the_precision_of_matrices_that_weights_ask_for_first(precision: str) -> None:
    _, context = started(group(WEIGHT, INPUT, precision=precision))
    assert context.ledger.live("cpu") == COLUMNS * COLUMNS * 8 + 8


@pytest.mark.parametrize("dtype", ["bfloat16", "complex64"])
def test_an_inverse_is_computed_in_fp64_whatever_its_type(dtype: str) -> None:
    context = Context(toys.job())
    matrices = Matrices(context, "a", "random-matrix", dtype)
    matrices.make(COLUMNS)
    before = context.ledger.close_step()["cpu"].end
    matrices.invert(COLUMNS)
    assert context.ledger.close_step()["cpu"].bytes - before == 3 * COLUMNS * COLUMNS * 8 + COLUMNS * 4


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_spinquants_own_hooks_take_16_bit(precision: str) -> None:
    spec = SpinQuantSpec.read({"rotations": ["R4"], "precision": precision}, "spin")
    down = [ModuleRef("layers.0.mlp.down_proj", ("Linear", "Module"), ROWS, COLUMNS, 2)]
    facts = ModelTraits(architecture="Cohere2MoeForCausalLM", heads=4, kv_heads=4, head_dim=16)
    norm = [ModuleRef("model.norm", ("Norm",), 1, COLUMNS, 2), ModuleRef("lm_head", ("Linear",), 99, COLUMNS, 2)]
    (group,) = spec.within(facts, [*down, *norm], ()).transforms
    assert group.dtypes == ((COLUMNS, precision),)
