"""Parts of a peak, and which steps make one line."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.compress.parts import cpu_parts, gpu_parts
from planner.compress.schema import CpuStep, Plan
from planner.reports.folding import fold, label, nearly_folded, unfolded
from planner.reports.rows import rows
from tests.reports.records import planned, step, subgraph

# parts


KINDS = st.dictionaries(
    st.sampled_from(["weights", "forward", "hessian", "batch", "brand_new"]), st.integers(0, 10**12)
)


@given(KINDS)
def test_parts_sum_to_the_peak_whatever_the_kinds(by_kind: dict[str, int]) -> None:
    assert sum(gpu_parts(by_kind).values()) == sum(cpu_parts(by_kind).values()) == sum(by_kind.values())


def test_a_kind_that_nobody_knows_is_other_and_not_lost() -> None:
    assert gpu_parts({"brand_new": 7})["other"] == 7


# folding


def test_equal_layers_fold_into_one_with_their_count(gptq: Plan) -> None:
    folds = [(each.label, each.count) for each in fold(gptq.steps)]
    assert folds == [
        ("load", 1),
        ("setup", 1),
        ("activation cache", 1),
        ("head", 1),
        ("model.layers.0", 1),
        ("model.layers.1-30", 30),
        ("model.layers.31", 1),
        ("finalize", 1),
        ("save", 1),
    ]


def test_unfolded_shows_every_step_once_and_in_order(gptq: Plan) -> None:
    shown = [each.index for fold in unfolded(gptq.steps) for block in fold.blocks for each in block.steps]
    assert shown == list(range(len(gptq.steps)))


def test_folding_loses_no_step(gptq: Plan) -> None:
    shown = [each.index for fold in fold(gptq.steps) for block in fold.blocks for each in block.steps]
    assert sorted(shown) == list(range(len(gptq.steps)))


def test_folded_rows_have_the_same_peaks_as_all_rows(gptq: Plan) -> None:
    folded, every = rows(gptq, "distinct"), rows(gptq, "all")
    assert max(row.gpu for row in folded) == max(row.gpu for row in every) == gptq.gpu.peak_bytes
    assert max(row.cpu for row in folded) == max(row.cpu for row in every) == gptq.cpu.peak_bytes
    assert {row.gpu for row in folded} == {row.gpu for row in every}


def test_a_kind_of_step_has_one_line_with_its_highest_peaks(gptq: Plan) -> None:
    kinds, every = rows(gptq), rows(gptq, "all")
    assert [row.label for row in kinds if row.count > 1] == ["model.layers.0-31", "  (highest of 32)", ""]
    for kind in (row for row in kinds if row.count > 1):
        of_it = [row for row in every if row.phase == kind.phase and row.modifier and row.gpu_parts["hessians"] >= 0]
        layers = [row for row in of_it if abs(row.gpu - kind.gpu) < kind.gpu / 10]
        assert kind.gpu == max(row.gpu for row in layers) == sum(kind.gpu_parts.values())
    assert max(row.gpu for row in kinds) == gptq.gpu.peak_bytes
    assert max(row.cpu for row in kinds) == gptq.cpu.peak_bytes


def test_layers_of_one_name_that_differ_by_more_than_a_twentieth_keep_lines_of_their_own() -> None:
    dense, nearly, sparse = {"weights": 100}, {"weights": 96}, {"weights": 90}
    steps = [
        each
        for layer, parts in enumerate((dense, nearly, sparse))
        for each in subgraph(layer + 2, f"model.layers.{layer}", parts)
    ]
    folds = [(each.label, each.count, each.is_alike) for each in nearly_folded(steps)]
    assert folds == [("model.layers.0-1", 2, False), ("model.layers.2", 1, True)]


def test_alternating_layers_make_two_folds() -> None:
    dense, sparse = {"weights": 3}, {"weights": 5}
    steps = [
        each
        for layer in range(6)
        for each in subgraph(layer + 2, f"model.layers.{layer}", sparse if layer % 2 else dense)
    ]
    assert [(each.label, each.count) for each in fold(steps)] == [
        ("model.layers.0, 2, 4", 3),
        ("model.layers.1, 3, 5", 3),
    ]


def test_a_growing_cpu_peak_does_not_stop_folding_and_its_highest_is_shown(gptq: Plan) -> None:
    steps = [
        step(
            f"model.layers.{n}",
            subgraph=n + 2,
            cpu=CpuStep(peak_bytes=n, end_bytes=0, by_kind={"model": n}, largest=()),
        )
        for n in range(5)
    ]
    (row,) = rows(planned(gptq, *steps))
    assert (row.count, row.cpu, row.cpu_parts["weights"]) == (5, 4, 4)


def test_the_head_never_folds_with_a_layer() -> None:
    steps = [*subgraph(1, "head", {"weights": 3}), *subgraph(2, "model.layers.0", {"weights": 3})]
    assert [each.label for each in fold(steps)] == ["head", "model.layers.0"]


def test_each_pipeline_run_keeps_its_own_steps() -> None:
    first = subgraph(1, "head", {"weights": 3}) + subgraph(2, "model.layers.0", {"weights": 4})
    second = [each.model_copy(update={"modifier": "SparseGPTModifier"}) for each in first]
    folds = fold([*first, *second, *second])
    assert [(each.run, each.label) for each in folds] == [
        (run, name) for run in (0, 1, 2) for name in ("head", "model.layers.0")
    ]


@pytest.mark.parametrize(
    ("units", "text"),
    [
        (["head"], "head"),
        (["model.layers.1", "model.layers.2", "model.layers.3"], "model.layers.1-3"),
        (["a.0.b", "a.1.b", "a.5.b"], "a.0-1, 5.b"),
        (["model.layers.1", "model.visual.blocks.2"], "model.layers.1 … model.visual.blocks.2"),
        ([f"l.{n}" for n in range(0, 20, 2)], "l.0, 2, … 18"),
        (["l.0.m.0", "l.0.m.1", "l.1.m.0"], "l.0.m.0 … l.1.m.0"),
    ],
)
def test_units_are_named_as_ranges_where_they_are_numbered(units: list[str], text: str) -> None:
    assert label(units) == text


@given(st.lists(st.integers(0, 60), min_size=1, max_size=61, unique=True).map(sorted))
def test_a_range_names_its_first_and_last_unit(numbers: list[int]) -> None:
    text = label([f"model.layers.{number}" for number in numbers])
    assert text.startswith(f"model.layers.{numbers[0]}")
    assert text.endswith(str(numbers[-1]))
