"""SmoothQuant: extremes of a norm's output, then weight by weight in fp32; every figure worked out by hand."""

from typing import Any

import pytest

from planner.compress.context import Context
from planner.compress.modifiers.smoothquant import (
    LogarithmicEqualizationSpec,
    Smoothing,
    SmoothQuantModel,
    SmoothQuantSpec,
)
from planner.cuda.build import CudaBuild
from planner.errors import PlannerError, RecipeError
from planner.recipe.specs import ModelTraits, ModuleRef
from planner.recipe.targets import LinearModule
from tests import toys

TOKENS, CHANNELS = 10, 200
VECTOR, POSITIONS, WIDE_VECTOR = CHANNELS * 2, CHANNELS * 8, CHANNELS * 4
"""A bf16 value for each channel, its int64 position, and the same in fp32."""
NORM = LinearModule(name="norm", rows=0, columns=0, itemsize=0)
A, B = toys.linear("a", 400, CHANNELS), toys.linear("b", 100, CHANNELS)
SMOOTHINGS = (Smoothing("norm", ("a", "b")),)
LLAMA = ModelTraits(architecture="LlamaForCausalLM")


def calibrated(
    batches: int = 1, modules: tuple[LinearModule, ...] = (NORM, A, B), **changes: Any
) -> tuple[SmoothQuantModel, Context]:
    context = Context(toys.job(), cuda=changes.pop("cuda", None))
    kind = changes.pop("kind", SmoothQuantSpec)
    model = SmoothQuantModel(context, kind(**({"where": "toy.yaml: smooth", "smoothings": SMOOTHINGS} | changes)))
    model.on_calibration_start(modules)
    for _ in range(batches):
        model.after_forward(modules[0], toys.linear_call("norm", TOKENS, CHANNELS, CHANNELS, modules[1].itemsize))
    return model, context


def peaks(model: SmoothQuantModel, context: Context) -> dict[str, int]:
    """Peak bytes of compressing, by device."""
    context.ledger.close_step()
    model.on_sequential_epoch_end([])
    return {device: peak.bytes for device, peak in context.ledger.close_step().items()}


def refs(*names: str, **shapes: tuple[int, int]) -> list[ModuleRef]:
    linears = {name: shapes.get(name.rpartition(".")[2], (CHANNELS, CHANNELS)) for name in names if "norm" not in name}
    root = ModuleRef("", ("LlamaForCausalLM",))
    return [
        root,
        *(ModuleRef(n, ("Norm",)) if "norm" in n else ModuleRef(n, ("Linear",), *linears[n], 2) for n in names),
    ]


# ---------------------------------------------------------------------- while calibrating
def test_a_first_batch_leaves_two_vectors_and_takes_positions_beside_them() -> None:
    _, context = calibrated()
    assert context.ledger.live("gpu") == 2 * VECTOR
    assert context.ledger.close_step()["gpu"].bytes == 2 * VECTOR + POSITIONS


def test_a_later_batch_has_its_own_extremes_beside_those_that_are_kept() -> None:
    model, context = calibrated()
    context.ledger.close_step()
    model.after_forward(NORM, toys.linear_call("norm", TOKENS, CHANNELS, CHANNELS))
    assert context.ledger.live("gpu") == 2 * VECTOR
    assert context.ledger.close_step()["gpu"].bytes == 4 * VECTOR + POSITIONS


def test_extremes_do_not_grow_with_the_batches() -> None:
    assert calibrated(1)[1].ledger.live("gpu") == calibrated(100)[1].ledger.live("gpu")


def test_a_module_that_no_mapping_smooths_costs_nothing() -> None:
    model, context = calibrated()
    context.ledger.close_step()
    model.after_forward(A, toys.linear_call("a", TOKENS, 400, CHANNELS))
    assert context.ledger.close_step()["gpu"].bytes == 2 * VECTOR


def test_a_norm_of_two_mappings_is_hooked_twice() -> None:
    twice = (Smoothing("norm", ("a",)), Smoothing("norm", ("b",)))
    _, context = calibrated(smoothings=twice)
    assert context.ledger.live("gpu") == 2 * VECTOR
    assert context.ledger.close_step()["gpu"].bytes == 4 * VECTOR + POSITIONS


def test_many_rows_are_reduced_by_several_blocks_on_a_cuda_build() -> None:
    rows, build = 100_000, CudaBuild()
    model, context = calibrated(cuda=build)
    context.ledger.close_step()
    model.after_forward(NORM, toys.linear_call("norm", rows, CHANNELS, CHANNELS))
    assert context.ledger.close_step()["gpu"].by_kind["cuda_workspace"] > 16 * CHANNELS


# ---------------------------------------------------------------------- compressing
def test_the_largest_linear_is_there_in_fp32_on_both_sides() -> None:
    both = peaks(*calibrated())
    weights = A.weight_bytes + B.weight_bytes
    # the extremes, activation_scales, the scales in fp32, and the product
    assert both["gpu"] == weights + 2 * VECTOR + VECTOR + WIDE_VECTOR + 2 * A.weight_bytes
    assert both["cpu"] == 2 * A.weight_bytes


def test_scales_from_the_activations_alone_onload_each_linear_when_it_is_its_turn() -> None:
    model, context = calibrated(algorithm="log_equalization", smoothings=(Smoothing("norm", ("b", "a")),))
    both = peaks(model, context)
    assert both["gpu"] == A.weight_bytes + B.weight_bytes + 3 * VECTOR + WIDE_VECTOR + 2 * A.weight_bytes
    first = calibrated(algorithm="log_equalization", smoothings=(Smoothing("norm", ("b",)),))
    assert peaks(*first)["gpu"] == B.weight_bytes + 3 * VECTOR + WIDE_VECTOR + 2 * B.weight_bytes


def test_fp32_weights_are_written_without_a_cast() -> None:
    a = toys.linear("a", 400, CHANNELS, 4)
    both = peaks(*calibrated(modules=(NORM, a), smoothings=(Smoothing("norm", ("a",)),)))
    # its absolute values, while the largest of each column is looked for: extremes, activation_scales, two results
    assert both["gpu"] == a.weight_bytes + 4 * WIDE_VECTOR + POSITIONS + a.weight_bytes
    assert both["cpu"] == 0


def test_a_linear_that_is_smoothed_itself_is_rescaled_too() -> None:
    smooth = toys.linear("norm", CHANNELS, 4_000)
    both = peaks(*calibrated(modules=(smooth, B), smoothings=(Smoothing("norm", ("b",)),)))
    assert both["cpu"] == 2 * smooth.weight_bytes
    assert both["gpu"] == B.weight_bytes + smooth.weight_bytes + 3 * VECTOR + WIDE_VECTOR + 2 * smooth.weight_bytes


def test_after_compressing_only_weights_are_left() -> None:
    model, context = calibrated()
    peaks(model, context)
    assert context.ledger.live_by_kind("gpu") == {"weights": A.weight_bytes + B.weight_bytes + VECTOR}  # the norm's
    assert context.ledger.live("cpu") == 0
    assert not model.scales


def test_a_norm_that_no_batch_ran_through_is_left_alone() -> None:
    model, context = calibrated(batches=0)
    assert peaks(model, context) == {"gpu": 0, "cpu": 0}


# ---------------------------------------------------------------------- which modules
LAYER = ("input_layernorm", "q_proj", "k_proj", "v_proj", "post_attention_layernorm", "gate_proj", "up_proj")


def layers(count: int = 2) -> list[ModuleRef]:
    return refs(*(f"model.layers.{i}.{name}" for i in range(count) for name in LAYER))


def test_mappings_of_the_family_are_found_layer_by_layer() -> None:
    spec = SmoothQuantSpec(where="smooth").within(LLAMA, layers(), ())
    assert [(each.smooth[13:], len(each.balance)) for each in spec.smoothings] == [
        ("0.input_layernorm", 3),
        ("1.input_layernorm", 3),
        ("0.post_attention_layernorm", 2),
        ("1.post_attention_layernorm", 2),
    ]
    selection = spec.select(layers())
    assert len(selection.weights) == 10
    assert selection.watched == {f"model.layers.{i}.{n}" for i in (0, 1) for n in LAYER if "norm" in n}


def test_a_mapping_is_left_out_only_if_all_of_it_is_ignored() -> None:
    some = SmoothQuantSpec(where="smooth", ignore=("re:.*input_layernorm", "re:.*q_proj")).within(LLAMA, layers(), ())
    assert len(some.smoothings) == 4
    attention = ("re:.*input_layernorm", "re:.*[qkv]_proj")
    assert len(SmoothQuantSpec(where="smooth", ignore=attention).within(LLAMA, layers(), ()).smoothings) == 2


def test_a_model_without_these_norms_is_refused_as_the_library_refuses_it() -> None:
    modules = refs("h.0.input_layernorm", "h.0.query_key_value")
    with pytest.raises(
        RecipeError, match=r"smooth \(LlamaForCausalLM\): the last set .* has no match for re:.\*k_proj"
    ):
        SmoothQuantSpec(where="smooth").within(LLAMA, modules, ())


def test_two_norms_in_one_set_are_refused() -> None:
    modules = refs("tower.q_proj", "tower.k_proj", "tower.v_proj", "a.0.input_layernorm", "b.0.input_layernorm")
    with pytest.raises(RecipeError, match=r"must match one module to smooth, not a\.0\.input_layernorm, b\.0"):
        SmoothQuantSpec(where="smooth").within(LLAMA, modules, ())


def test_channels_that_do_not_fit_the_columns_fail_late_and_are_said() -> None:
    recipe = {"mappings": [[["re:.*o_proj"], "re:.*v_proj"]]}
    grouped = refs("model.layers.0.v_proj", "model.layers.0.o_proj", v_proj=(50, CHANNELS))
    spec = SmoothQuantSpec.read(recipe, "smooth").within(LLAMA, grouped, ())
    (note,) = spec.failures([])
    assert note.kind == "fails"
    assert "model.layers.0.v_proj has not as many outputs" in note.text
    assert not list(spec.within(LLAMA, refs("model.layers.0.v_proj", "model.layers.0.o_proj"), ()).failures([]))


def test_nothing_to_smooth_is_a_note_and_no_error() -> None:
    spec = SmoothQuantSpec(where="smooth").within(LLAMA, refs("a", "b"), ())
    assert [note.text for note in spec.check([], spec.select([]))] == [
        "smooth leaves this model as it is: all that it targets is ignored"
    ]


# ---------------------------------------------------------------------- what a recipe may say
@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"start": 3}, r"smooth\.start: must be left out or -1"),
        ({"end": 1.0}, r"smooth\.end: must be left out or -1"),
        ({"mappings": [[["re:("], "norm"]]}, r"smooth\.mappings\[0\]: .* is not a regular expression"),
        ({"mappings": [[[1], "norm"]]}, r"smooth\.mappings\[0\]: must be \[\[patterns"),
        ({"mappings": [[]]}, r"smooth\.mappings\[0\]: must be \[\[patterns"),
        ({"mappings": ["norm"]}, r"smooth\.mappings"),
        ({"algorithm": "log"}, r"smooth\.algorithm"),
        ({"strength": 0.5}, r"smooth\.strength: unknown field"),
        ({"requires_calibration_data": False}, "with calibration data only"),
    ],
)
def test_a_bad_field_is_refused_by_its_path(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(PlannerError, match=message):
        SmoothQuantSpec.read(fields, "smooth")


def test_fields_that_the_library_does_not_read_are_said() -> None:
    spec = SmoothQuantSpec.read({"num_calibration_steps": 8, "end": -1}, "smooth")
    assert [note.text for note in spec.notes] == [
        "smooth.num_calibration_steps is not heeded: LLM Compressor does not read it"
    ]


def test_the_deprecated_alias_takes_scales_from_activations() -> None:
    assert LogarithmicEqualizationSpec.read({}, "alias").algorithm == "log_equalization"
    assert LogarithmicEqualizationSpec.read({"algorithm": "smoothquant"}, "alias").algorithm == "smoothquant"
    assert SmoothQuantSpec.read({}, "smooth").algorithm == "smoothquant"
