"""Wanda: a number for each column while calibrating, then module by module; every figure worked out by hand."""

from typing import Any

import pytest

from planner.compress.context import Context
from planner.compress.modifiers.wanda import WandaModel, WandaSpec
from planner.cuda.build import CudaBuild
from planner.errors import RecipeError, UnsupportedError
from planner.recipe.specs import ModuleRef
from planner.recipe.targets import LinearModule
from tests import toys

TOKENS = 10
PATTERN: dict[str, Any] = {"prune_n": 2, "prune_m": 4}


def spec(**changes: Any) -> WandaSpec:
    return WandaSpec(**({"where": "toy.yaml: wanda", "sparsity": 0.5} | changes))


def calibrated(
    pruned: WandaSpec, *modules: LinearModule, cuda: CudaBuild | None = None, contiguous: bool = True
) -> tuple[WandaModel, Context]:
    context = Context(toys.job(), cuda=cuda)
    model = WandaModel(context, pruned)
    for module in modules:
        call = toys.linear_call(
            module.name, TOKENS, module.rows, module.columns, module.itemsize, contiguous=contiguous
        )
        model.after_forward(module, call)
    return model, context


def compressed(pruned: WandaSpec, *modules: LinearModule, cuda: CudaBuild | None = None) -> int:
    """Peak GPU bytes of compressing."""
    model, context = calibrated(pruned, *modules, cuda=cuda)
    context.ledger.close_step()
    model.on_sequential_epoch_end(modules)
    return context.ledger.close_step()["gpu"].bytes


# ---------------------------------------------------------------------- while calibrating
def test_a_module_keeps_an_fp32_number_for_each_column() -> None:
    module = toys.linear("m", 400, 200)
    _, context = calibrated(spec(), module)
    assert context.ledger.live_by_kind("gpu") == {"weights": module.weight_bytes, "observer": 200 * 4}


def test_each_batch_is_cast_to_fp32_beside_two_vectors() -> None:
    module = toys.linear("m", 400, 200)
    _, context = calibrated(spec(), module)
    peak = context.ledger.close_step()["gpu"]
    assert peak.bytes == module.weight_bytes + 3 * 200 * 4 + TOKENS * 200 * 4


def test_an_fp32_input_is_not_cast_and_one_with_gaps_is_packed_first() -> None:
    wide, gaps = toys.linear("m", 400, 200, 4), toys.linear("m", 400, 200)
    _, context = calibrated(spec(), wide)
    assert context.ledger.close_step()["gpu"].bytes == wide.weight_bytes + 3 * 200 * 4
    _, context = calibrated(spec(), gaps, contiguous=False)
    assert context.ledger.close_step()["gpu"].bytes == gaps.weight_bytes + 200 * 4 + TOKENS * 200 * (2 + 4)


# ---------------------------------------------------------------------- compressing
def test_a_pattern_peaks_while_its_mask_is_made() -> None:
    rows, columns = 400, 200
    # the weight; W and its metric in fp32; fp32 zeros and the mask that is made of them; the scalars
    expected = rows * columns * (2 + 4 + 4 + 4 + 1) + columns * 4
    assert compressed(spec(**PATTERN), toys.linear("m", rows, columns)) == expected


def test_without_a_pattern_the_whole_weight_is_sorted() -> None:
    rows, columns = 400, 200
    # the weight, W and its metric, the mask, values and int64 positions; then W as bf16
    expected = rows * columns * (2 + 4 + 4 + 1 + 4 + 8 + 2) + columns * 4
    assert compressed(spec(), toys.linear("m", rows, columns)) == expected


def test_a_cuda_build_sorts_long_rows_in_second_buffers() -> None:
    rows, columns = 200, 5_000
    counted = compressed(spec(), toys.linear("m", rows, columns))
    built = compressed(spec(), toys.linear("m", rows, columns), cuda=CudaBuild())
    elements = rows * columns
    # positions before they are gathered, and CUB's second keys and values, less W as bf16, which comes later
    assert built - counted == pytest.approx(elements * (8 + 4 + 8 - 2), rel=0.001)


def test_what_sorting_takes_where_nobody_measured_it_is_no_zero() -> None:
    with pytest.raises(UnsupportedError, match=r"m: what sorting 64 x 5000 takes on sm_70 was not measured"):
        compressed(spec(), toys.linear("m", 64, 5_000), cuda=CudaBuild(sm=70))


def test_the_result_before_lives_until_the_next_one_is_there() -> None:
    a, b = toys.linear("a", 400, 200), toys.linear("b", 400, 200)
    alone = compressed(spec(), a)
    # the other weight, and the first module's result
    assert compressed(spec(), a, b) == alone + a.weight_bytes + a.weight_bytes


@pytest.mark.parametrize("changes", [{}, PATTERN])
def test_after_compressing_only_weights_are_left(changes: dict[str, Any]) -> None:
    modules = toys.linear("a", 300, 200), toys.linear("b", 200, 300, 4)
    model, context = calibrated(spec(**changes), *modules)
    model.on_sequential_epoch_end(modules)
    assert context.ledger.live_by_kind("gpu") == {"weights": sum(m.weight_bytes for m in modules)}
    assert context.ledger.live("cpu") == 0


# ---------------------------------------------------------------------- what a recipe may say
def test_the_fields_are_those_of_every_pruning_modifier() -> None:
    read = WandaSpec.read({"sparsity": 0.5, "mask_structure": "2:4", "ignore": ["re:.*lm_head"]}, "wanda")
    assert (read.prune_n, read.prune_m, read.ignore) == (2, 4, ("re:.*lm_head",))
    with pytest.raises(RecipeError, match=r"wanda\.block_size: unknown field"):
        WandaSpec.read({"sparsity": 0.5, "block_size": 128}, "wanda")


def test_outlier_weighed_sparsity_is_refused_as_the_library_fails_on_it() -> None:
    fields = {"sparsity": 0.5, "sparsity_profile": "owl", "owl_m": 5, "owl_lmbda": 0.08}
    with pytest.raises(RecipeError, match=r"sparsity_profile: .*Cannot invoke event before initializing"):
        WandaSpec.read(fields, "wanda")


def test_a_list_has_a_share_for_each_targeted_module() -> None:
    layers = [ModuleRef(f"layers.{i}", ("Layer",)) for i in (0, 1)]
    modules = [each for layer in layers for each in (layer, ModuleRef(f"{layer.name}.a", ("Linear",), 4, 4, 2))]
    read = WandaSpec.read({"sparsity": [0.5, 0.4], "targets": ["Layer"]}, "wanda")
    assert not list(read.check(modules, read.select(modules)))
    with pytest.raises(RecipeError, match=r"wanda\.sparsity: has 2 shares, but the targets match 1 modules"):
        list(read.check(modules[:2], read.select(modules[:2])))
    with pytest.raises(RecipeError, match="must be a share of the weights"):
        WandaSpec.read({"sparsity": [0.5, 4]}, "wanda")


def test_an_input_of_four_dimensions_fails_late_and_is_said() -> None:
    (note,) = spec().failures([("a", 3), ("b", 4)])
    assert note.kind == "fails"
    assert "Wanda cannot take the input of b" in note.text
