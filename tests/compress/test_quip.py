"""QuIP: weights rotated before anything runs, then inputs and outputs in every forward; figures worked out by hand."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from planner.compress.context import Context, Shortcuts
from planner.compress.forward import Hooked, SubgraphForward
from planner.compress.modifiers.awq import AwqSpec
from planner.compress.modifiers.matrices import Matrices
from planner.compress.modifiers.quip import QuIPModel, QuIPSpec
from planner.compress.modifiers.rotations import known_divisor
from planner.compress.modifiers.rtn import QuantizationSpec
from planner.compress.oneshot import simulate
from planner.compress.program import Program, cut
from planner.cuda.build import CudaBuild
from planner.errors import PlannerError, RecipeError
from planner.models.traces import CallValue, Event, ModelTrace, Segment
from planner.recipe.specs import ModelTraits, ModuleRef
from planner.recipe.targets import LinearModule
from planner.units import human_bytes
from tests import toys
from tests.toys import Toy

ROWS, COLUMNS, TOKENS = 32, 64, 10
BLOCKS = {"transform_type": "hadamard", "transform_block_size": 16}
TRAITS = ModelTraits(architecture="LlamaForCausalLM")


def spec(**fields: Any) -> QuIPSpec:
    return QuIPSpec.read(fields, "quip")


def started(*modules: LinearModule, **fields: Any) -> tuple[QuIPModel, Context]:
    context = Context(toys.job())
    model = QuIPModel(context, bound([of(module) for module in modules], **fields))
    model.on_calibration_start(modules)
    return model, context


def of(module: LinearModule) -> ModuleRef:
    """The module in a recipe's eyes."""
    return ModuleRef(module.name, ("Linear", "Module"), module.rows, module.columns, module.itemsize)


def bound(modules: Sequence[ModuleRef], **fields: Any) -> QuIPSpec:
    return spec(**fields).within(TRAITS, modules, ())


def refs(rows: int = ROWS, columns: int = COLUMNS, classes: tuple[str, ...] = ("Linear", "Module")) -> list[ModuleRef]:
    return [ModuleRef("up", classes, rows, columns, 2), ModuleRef("lm_head", ("Linear",), 99, columns, 2)]


# ---------------------------------------------------------------------- weights
def test_a_weight_lies_in_fp64_twice_beside_its_matrix() -> None:
    _, context = started(toys.linear("m", ROWS, COLUMNS), **BLOCKS)
    assert context.ledger.close_step()["gpu"].bytes == ROWS * COLUMNS * (2 + 8 + 8) + 16 * 16 * 8


def test_a_matrix_in_fp32_turns_inputs_and_weights_in_fp32() -> None:
    _, context = started(toys.linear("m", ROWS, COLUMNS), precision="float32", **BLOCKS)
    assert context.ledger.close_step()["gpu"].bytes == ROWS * COLUMNS * (2 + 4 + 4) + 16 * 16 * 4
    assert [kind for _, kind, _ in bound(refs(), precision="torch.float32").added(refs())] == ["F32"]


def test_outputs_are_turned_by_the_weights_own_matrix_in_fp64() -> None:
    fields = {"rotations": ["u"], "precision": "float32", **BLOCKS}
    _, context = started(toys.linear("m", ROWS, COLUMNS), **fields)
    assert context.ledger.close_step()["gpu"].bytes == ROWS * COLUMNS * (2 + 8 + 8) + 16 * 16 * 8


# ---------------------------------------------------------------------- random matrices
MATRIX = {"transform_type": "random-matrix"}


def on_cpu(**fields: Any) -> int:
    """Bytes on the CPU once one module has been attached to."""
    _, context = started(toys.linear("m", ROWS, COLUMNS), **fields)
    return context.ledger.live_by_kind("cpu")["transform"]


def test_a_random_matrix_and_its_inverse_are_made_where_the_module_lies() -> None:
    whole = COLUMNS * COLUMNS * 8
    _, context = started(toys.linear("m", ROWS, COLUMNS), **MATRIX)
    peak = context.ledger.close_step()
    # the matrix, the result by columns, and LU with its pivots; then the copy by rows
    assert peak["cpu"].bytes == 3 * whole + COLUMNS * 4
    assert peak["gpu"].bytes == ROWS * COLUMNS * (2 + 8 + 8) + whole, "a product is divided by nothing"
    assert on_cpu(**MATRIX) == 2 * whole


def test_both_sides_have_a_matrix_and_an_inverse_each() -> None:
    assert on_cpu(rotations=["v", "u"], **MATRIX) == 2 * 8 * (COLUMNS**2 + ROWS**2)


def test_an_inverse_in_fp32_is_computed_in_fp64() -> None:
    _, context = started(toys.linear("m", ROWS, COLUMNS), precision="float32", **MATRIX)
    in_fp64, in_fp32 = COLUMNS * COLUMNS * 8, COLUMNS * COLUMNS * 4
    assert context.ledger.close_step()["cpu"].bytes == in_fp32 + 3 * in_fp64 + COLUMNS * 4


def test_what_no_hook_needs_goes_at_the_end() -> None:
    model, context = started(toys.linear("m", ROWS, COLUMNS), rotations=["v", "u"], **MATRIX)
    model.on_finalize()
    assert context.ledger.live_by_kind("cpu")["transform"] == 8 * (COLUMNS**2 + ROWS**2)


def test_when_pythons_collector_comes_is_not_known_and_that_is_said() -> None:
    random = bound(refs(), rotations=["v", "u"], **MATRIX)
    texts = [note.text for note in random.check(refs(), random.select(refs())) if note.kind == "estimate"]
    assert [human_bytes((ROWS**2 + COLUMNS**2) * 8) in text for text in texts] == [True, False]
    assert not [note for note in bound(refs()).check(refs(), spec().select(refs())) if note.kind == "estimate"]


def test_a_card_takes_more_to_invert_a_matrix_and_cublas_its_workspace() -> None:
    """Read off PyTorch's CUDA build: torch.linalg.inv of 3072 x 3072 in fp64 peaks 226,578,436 B above the matrix."""
    context = Context(toys.job(weights="gpu"), cuda=CudaBuild(sm=90))
    matrices = Matrices(context, "v", "random-matrix")
    matrices.make(3072)
    before = context.ledger.close_step()["gpu"].end
    matrices.invert(3072)
    step, workspace = context.ledger.close_step()["gpu"], CudaBuild(sm=90).cublas_workspace
    assert step.bytes - before - workspace == 226_578_436
    assert step.end - before - workspace == 3072 * 3072 * 8


def test_a_random_matrix_has_any_size() -> None:
    assert spec(**MATRIX).within(TRAITS, refs(columns=1187), ()).select(refs()).weights.keys() == {"up"}


def test_a_random_hadamard_matrix_is_made_of_three_and_a_half() -> None:
    whole = COLUMNS * COLUMNS * 8
    _, known = started(toys.linear("m", 1, COLUMNS))
    # the diagonal, a copy of it and the product, beside the known matrix
    assert (known_divisor(COLUMNS), known.ledger.close_step()["gpu"].bytes) == (COLUMNS, 4 * whole)
    wide, core = 4 * 148, 148 * 148 * 8
    _, made = started(toys.linear("m", 1, wide))
    # halves are added until the known matrix is reached
    assert (known_divisor(wide), made.ledger.close_step()["gpu"].bytes) == (148, wide * wide * 8 * 7 // 2 + core)


def test_modules_of_one_size_share_a_matrix_that_stays() -> None:
    linears = [*(toys.linear(name, ROWS, COLUMNS) for name in ("q", "k")), toys.linear("down", COLUMNS, ROWS)]
    model, context = started(*linears, transform_type="hadamard")
    assert context.ledger.live_by_kind("cpu") == {"transform": (COLUMNS * COLUMNS + ROWS * ROWS + len(linears)) * 8}
    model.on_finalize()
    assert context.ledger.live("cpu") == (COLUMNS * COLUMNS + ROWS * ROWS + len(linears)) * 8
    assert context.ledger.live("gpu") == 0


def test_outputs_have_a_matrix_of_their_own() -> None:
    _, context = started(toys.linear("m", ROWS, COLUMNS), rotations=["V", "u"], transform_type="hadamard")
    assert context.ledger.live("cpu") == (COLUMNS * COLUMNS + ROWS * ROWS + 2) * 8


# ---------------------------------------------------------------------- the forward
def test_a_rotated_input_lives_until_its_linear_returns() -> None:
    module, call = toys.linear("m", ROWS, COLUMNS), toys.linear_call("m", TOKENS, ROWS, COLUMNS, 2)
    model, context = started(module, **BLOCKS)
    context.ledger.close_step()
    model.before_forward(module, call)
    values = TOKENS * COLUMNS
    assert context.ledger.close_step()["gpu"].bytes == 16 * 16 * 8 + values * (8 + 8)
    model.after_forward(module, call)
    assert context.ledger.live_by_kind("gpu") == {"transform": 16 * 16 * 8, "forward": values * 2}
    model.returned(module, call)
    assert context.ledger.live_by_kind("gpu") == {"transform": 16 * 16 * 8}


def test_a_rotated_output_takes_the_place_of_the_output() -> None:
    """A forward of one Linear whose output the caller frees: nothing of it is left but weights and the matrix."""
    module, context = toys.linear("m", ROWS, COLUMNS), Context(toys.job())
    model = QuIPModel(context, bound([of(module)], rotations=["u"], **BLOCKS))
    model.on_calibration_start([module])
    context.ledger.close_step()
    nbytes = TOKENS * ROWS * 2
    entered = toys.linear_call("m", TOKENS, ROWS, COLUMNS, 2)
    left = replace(entered, outputs=(CallValue("output", nbytes, (TOKENS, ROWS), storage=0),))
    around = (Event("enter", call=entered), Event("exit", call=left))
    events = (around[0], Event("alloc", 0, nbytes, "m", "mm"), around[1], Event("free", 0))
    trace = ModelTrace((Segment(0, "", 0, events, (), ()),), {}, 0, 0)
    context.forward = forward = SubgraphForward(context, trace)
    forward.run(cut(trace, 1)[0], (Hooked(model, {"m": module}),))
    end = context.ledger.close_step()["gpu"]
    # the output, itself in fp64 and the product; then the matrix is left
    assert (end.bytes, end.end) == (nbytes + TOKENS * ROWS * 16 + 16 * 16 * 8, 16 * 16 * 8)


def test_nothing_is_left_of_an_output_that_has_no_tensor() -> None:
    """No token goes to this expert: nothing was taken that could be replaced."""
    context = Context(toys.job())
    empty = CallValue("output", 0, (0, ROWS))
    SubgraphForward(context, Toy().trace).replace(empty, context.take(8, "forward", "rotated"))
    assert context.ledger.close_step()["gpu"].end == 0


@pytest.mark.parametrize("pipeline", ["independent", "sequential"])
def test_rotations_run_in_both_passes_of_whatever_comes_behind_them(pipeline: str) -> None:
    toy = Toy()
    alone, both = (phases(toy.program(*specs, toys.gptq()), pipeline) for specs in ((), (everywhere(toy),)))
    # the matrix, and beside the last Linear its input again; while that is made, in fp64
    assert both["calibrate"] - alone["calibrate"] == 200 * 200 * 8 + toy.tokens * 400 * 2
    assert both["propagate"] - alone["propagate"] >= 200 * 200 * 8 + toy.tokens * 400 * 2


def everywhere(toy: Toy) -> QuIPSpec:
    """Rotates all of the toy's Linears."""
    targeted = [of(module) for unit in toy.run(toys.gptq()).units for module in unit.named()]
    return bound(targeted, transform_block_size=200)


def phases(program: Program, pipeline: str) -> dict[str, int]:
    context = Context(toys.job(pipeline=pipeline), shortcuts=Shortcuts())
    return {step.phase: step.gpu.bytes for step in simulate(program, context).steps if step.subgraph == 3}


# ---------------------------------------------------------------------- what is refused
@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"randomize": True}, r"quip\.randomize: is not supported"),
        ({"learnable": True}, r"quip\.learnable: is not supported"),
        ({"rotations": ["w"]}, r"quip\.rotations"),
        ({"transform_config": {}}, r"quip\.transform_config\.config_groups: Field required"),
        ({"precision": "torch.float17"}, r"quip\.precision: .*PyTorch has no type float17"),
        ({"targets": ["re:("]}, r"quip\.targets"),
    ],
)
def test_what_cannot_be_planned_is_refused_by_its_path(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(PlannerError, match=message):
        spec(**fields)


def test_a_size_without_a_matrix_is_refused() -> None:
    with pytest.raises(RecipeError, match=r"a hadamard matrix of 48 \(up\) does not exist"):
        spec(transform_type="hadamard").within(TRAITS, refs(columns=48), ())
    with pytest.raises(RecipeError, match=r"cannot make a random hadamard matrix of 1187 \(up\)"):
        spec(rotations=["u"]).within(TRAITS, refs(rows=1187), ())
    with pytest.raises(RecipeError, match=r"transform_block_size: 48 must divide 64 of up"):
        spec(transform_block_size=48).within(TRAITS, refs(), ())
    assert spec().within(TRAITS, refs(columns=18_944), ()).select(refs()).weights.keys() == {"up"}


def test_what_is_no_plain_linear_is_refused() -> None:
    with pytest.raises(RecipeError, match=r"quip\.targets: takes up, which is no plain Linear"):
        spec().within(TRAITS, refs(classes=("Router", "Linear")), ())


@pytest.mark.parametrize(("rotations", "fails"), [(["v"], True), (["u"], False), (["v", "u"], True)])
def test_awq_cannot_run_a_linear_again_whose_input_is_rotated(rotations: list[str], fails: bool) -> None:
    quantizing = QuantizationSpec.read({"targets": ["Linear"], "scheme": "W4A16"}, "rtn")
    mappings = [{"smooth_layer": "up", "balance_layers": ["down"]}]
    awq = AwqSpec.read({"mappings": mappings}, "awq")
    modules = [ModuleRef("up", ("Linear",), 128, 256, 2), ModuleRef("down", ("Linear",), 256, 128, 2)]
    bound = awq.within(TRAITS, modules, (spec(rotations=rotations, **BLOCKS), awq, quantizing))
    assert [note.kind for note in bound.failures(())] == ["fails"] * fails


def test_a_matrix_is_saved_in_fp64_under_the_first_module_that_has_it() -> None:
    """As a tiny Llama was saved by the real library."""
    shapes = {"q": (64, 64), "k": (32, 64), "down": (64, 128)}
    modules = [ModuleRef(name, ("Linear",), *shape, 2) for name, shape in shapes.items()]
    saved = [("q.v_input.weight", "F64", (64, 64)), ("down.v_input.weight", "F64", (128, 128))]
    assert list(bound(modules).added(modules)) == saved
    outputs = [("q.u_output.weight", "F64", (64, 64)), ("k.u_output.weight", "F64", (32, 32))]
    assert list(bound(modules, rotations=["v", "u"]).added(modules)) == [*saved, *outputs]
    assert list(bound(modules, transform_block_size=16).added(modules)) == [("q.v_input.weight", "F64", (16, 16))]
