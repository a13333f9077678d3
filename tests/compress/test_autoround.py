"""AutoRound on toy layers whose training is written down by hand: round numbers, no torch."""

from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest

from planner.accepted import recipe_of
from planner.compress.context import EVERYTHING, Shortcuts
from planner.compress.modifiers.autoround import COMPILED
from planner.compress.modifiers.autoround_schemes import PRESETS, linear_tuning, rounding
from planner.compress.schema import Plan, Step
from planner.errors import JobError, PlannerError, RecipeError, UnsupportedError
from planner.job import Job
from planner.models.graph import ModelGraph
from planner.models.traces import Call, CallValue, Event
from planner.models.tuned import LinearTuning, Rounding, TunedBlock, TuningRequest
from planner.planning import plan_graph
from planner.recipe.specs import ModuleRef, Scheme
from tests.toys import Layer, Linear, Toy

WEIGHT = 400 * 200 * 2
QPARAMS = 2 * (400 * 2 * 2 + 400 * 2)
"""Scales of 2 bytes and zero points of 1, one for each of 400 and 200 rows ... of both weights in groups of 100."""
VALUE, FORWARD, LOSS, GRADIENT, BATCH = 8_000, 20_000, 600, 9_000, 3_000
OUTPUT, PASSED = 4_000, 5_300
"""A sample's output; what a layer is passed with it: hidden states, a mask, positions."""


def block(rows: tuple[int, ...]) -> TunedBlock:
    """One forward is one tensor; an iteration leaves its loss to the next."""
    passes = tuple((alloc(n, BATCH), Event("free", n)) for n in range(len(rows)))
    collect = tuple((alloc(20 + n, BATCH), Event("free", 20 + n)) for n in range(len(rows)))
    return TunedBlock(
        reference=passes,
        observed=(),
        wrap=(alloc(5, VALUE),),
        iteration=(
            alloc(10, FORWARD),
            alloc(11, LOSS),
            Event("free", 6),
            Event("free", 10),
            alloc(12, GRADIENT),
            Event("free", 12),
        ),
        found=(6,),
        unwrap=(alloc(13, VALUE), Event("free", 13), Event("free", 11)),
        collect=collect,
        weights=(WEIGHT, WEIGHT),
        output=OUTPUT,
        trained=(VALUE,),
        kept=frozenset({5}),
    )


def alloc(number: int, nbytes: int) -> Event:
    return Event("alloc", number, nbytes, ".", "op")


def graph(asked: list[TuningRequest] | None = None, **changes: Any) -> ModelGraph:
    """Three equal layers that are called as modules, in groups of 100 columns."""
    toy = Toy(
        kinds=(
            Layer(linears=(Linear(name=".up", rows=400, columns=200), Linear(name=".down", rows=200, columns=400))),
        ),
        **changes,
    )
    call = Call(
        ".",
        10,
        200,
        2,
        contiguous=True,
        dims=(1, 10, 200),
        arguments=(
            CallValue("hidden_states", toy.hidden, (1, 10, 200)),
            CallValue("attention_mask", toy.mask, (1, 1, 10, 50)),
            CallValue("position_ids", toy.positions, (1, 10)),
        ),
    )
    segments = (replace(s, events=(Event("enter", call=call), *s.events)) if s.index else s for s in toy.trace.segments)

    def tune(request: TuningRequest) -> TunedBlock:
        if asked is not None:
            asked.append(request)
        return block(request.sizes)

    return replace(toy.graph, trace=replace(toy.trace, segments=tuple(segments)), tune=tune)


def recipe(**fields: Any) -> Any:
    group = {
        "targets": ["Linear"],
        "weights": {"num_bits": 4, "type": "int", "symmetric": True, "strategy": "group", "group_size": 100},
    }
    values = {"config_groups": {"all": group}, "ignore": ["lm_head"], "iters": 5, "enable_torch_compile": False}
    return recipe_of({"quant_stage": {"quant_modifiers": {"AutoRoundModifier": {**values, **fields}}}})


def planned(job: Job | None = None, shortcuts: Shortcuts | None = None, **fields: Any) -> Plan:
    return plan_graph(graph(), recipe(**fields), job or Job(samples=10), shortcuts=shortcuts)


def step(plan: Plan, subgraph: int, phase: str) -> Step:
    return next(s for s in plan.steps if s.subgraph == subgraph and s.phase == phase)


# ---------------------------------------------------------------------- the GPU
def test_a_layers_weights_lie_on_the_gpu_twice_while_it_is_trained() -> None:
    assert step(planned(), 2, "compress").gpu.by_kind["weights"] == 2 * 2 * WEIGHT


def test_from_the_second_iteration_on_the_loss_of_the_one_before_lies_beside_the_new_one() -> None:
    assert step(planned(), 2, "compress").gpu.by_kind["autoround"] == VALUE + LOSS + FORWARD + LOSS
    assert step(planned(iters=1), 2, "compress").gpu.by_kind["autoround"] == VALUE + FORWARD + LOSS


def test_what_the_first_layer_trained_waits_for_pythons_collector_until_the_second_batch_of_the_next() -> None:
    plan = planned()
    assert step(plan, 3, "calibrate").gpu.by_kind["autoround"] == VALUE
    assert "autoround" not in step(plan, 4, "calibrate").gpu.by_kind, "layers after the first clear memory"


def test_nothing_is_left_at_the_end() -> None:
    finalize = next(s for s in planned().steps if s.phase == "finalize")
    assert "autoround" not in finalize.gpu.by_kind
    assert finalize.gpu.end_bytes == 0


def test_errors_are_not_propagated() -> None:
    assert {s.phase for s in planned().steps if s.subgraph} == {"calibrate", "compress"}


# ---------------------------------------------------------------------- the CPU
def test_a_sample_keeps_its_inputs_and_its_outputs_of_this_layer_and_the_last() -> None:
    held = step(planned(Job(samples=10), iters=1), 3, "compress").cpu
    # the second layer's weights come back: its outputs before and after lie beside the first layer's
    assert held.by_kind["autoround"] == 10 * (PASSED + 3 * OUTPUT)
    before = step(planned(Job(samples=10), iters=1), 3, "calibrate").cpu
    assert held.by_kind["model"] == before.by_kind["model"] + 2 * WEIGHT


def test_better_parameters_are_copied_before_the_best_so_far_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(f"{__name__}.VALUE", large := 1_000_000)
    held = {n: step(planned(Job(samples=1), iters=n), 2, "compress").cpu.by_kind["autoround"] for n in (1, 2, 3)}
    assert held[1] == PASSED + OUTPUT + large, "beside the reference"
    assert held[2] == held[3] == held[1] + large


# ---------------------------------------------------------------------- what is asked for
def test_equal_layers_are_traced_once() -> None:
    asked: list[TuningRequest] = []
    plan_graph(graph(asked), recipe(), Job(samples=10))
    assert [request.layer for request in asked] == ["model.layers.0"]


@pytest.mark.parametrize(
    ("samples", "batch", "tuned", "expected"),
    [
        (10, 1, 8, (8, 2, (8,))),
        (16, 1, 4, (8, 0, (4,))),
        (3, 1, 8, (3, 0, (3,))),
        (40, 4, 20, (8, 0, (8, 8, 4))),
        (40, 4, 1, (32, 8, (4,))),
    ],
)
def test_batches_are_made_of_samples_but_for_a_batch_size_of_one(
    samples: int, batch: int, tuned: int, expected: tuple[int, int, tuple[int, ...]]
) -> None:
    spec = recipe(batch_size=tuned).modifiers[0]
    request = spec.tuning("model.layers.0", (), {}, samples, batch)
    assert (request.rows, request.last_rows, request.trained) == expected


def test_every_linear_of_a_layer_is_trained_but_those_that_are_targeted_and_ignored() -> None:
    spec = recipe(ignore=["re:.*up"]).modifiers[0]
    scheme = spec.groups[0]
    modules = [
        ModuleRef(f"layers.0.{name}", (kind,)) for name, kind in (("up", "Linear"), ("down", "Linear"), ("n", "Norm"))
    ]
    asked = spec.tuning("layers.0", modules, {"layers.0.down": scheme}, 8, 1).linears
    assert asked == ((".down", LinearTuning(weights="int_sym", bits=4, group=100)),)


# ---------------------------------------------------------------------- laws
@pytest.mark.parametrize("samples", [1, 8, 9, 40, 41])
def test_folding_changes_no_figure(samples: int) -> None:
    job = Job(samples=samples)
    folded, whole = planned(job, iters=9), planned(job, EVERYTHING, iters=9)
    assert [(s.gpu.by_kind, s.cpu.by_kind, s.gpu.end_bytes) for s in folded.steps] == [
        (s.gpu.by_kind, s.cpu.by_kind, s.gpu.end_bytes) for s in whole.steps
    ]


def test_more_samples_never_lower_a_peak_and_more_iterations_do_not_move_it() -> None:
    plans = [planned(Job(samples=n)) for n in (1, 2, 8, 9, 16, 64)]
    for few, many in pairwise(plans):
        assert all(a.gpu.peak_bytes <= b.gpu.peak_bytes for a, b in zip(few.steps, many.steps, strict=True))
        assert all(a.cpu.peak_bytes <= b.cpu.peak_bytes for a, b in zip(few.steps, many.steps, strict=True))
    assert planned(iters=2).gpu.peak_bytes == planned(iters=200).gpu.peak_bytes


def test_the_parts_of_every_peak_sum_to_it() -> None:
    for each in planned().steps:
        assert sum(each.gpu.by_kind.values()) == each.gpu.peak_bytes
        assert sum(each.cpu.by_kind.values()) == each.cpu.peak_bytes


# ---------------------------------------------------------------------- what is refused, and what is said
@pytest.mark.parametrize(
    ("fields", "error", "says"),
    [
        ({"scheme": "W4A16", "device_ids": "1,0"}, RecipeError, "stops at the first layer: .* samples on GPU 1"),
        ({"scheme": "W4A16", "device_ids": "1"}, RecipeError, "name 0 first"),
        ({"scheme": "W4A16", "device_ids": "0,first"}, RecipeError, "numbers of GPUs"),
        ({"scheme": "FP8_BLOCK"}, RecipeError, "stops at the first layer: .* not block"),
        ({"scheme": "NVFP4A16"}, RecipeError, "scheme: NVFP4"),
        ({}, RecipeError, "needs a scheme"),
        ({"scheme": "W4A16", "iterations": 3}, RecipeError, "iters"),
    ],
)
def test_what_cannot_be_planned_is_refused_by_its_field(
    fields: dict[str, Any], error: type[PlannerError], says: str
) -> None:
    with pytest.raises(error, match=says):
        recipe_of({"quant_stage": {"quant_modifiers": {"AutoRoundModifier": {"targets": ["Linear"], **fields}}}})


# ---------------------------------------------------------------------- without iterations
SQUARES = 1_600


def rounded(observed: bool) -> TunedBlock:
    """The pass leaves sums, which each batch after the first changes in place; rounding takes one tensor."""
    first = (alloc(0, BATCH), alloc(1, SQUARES), Event("free", 0))
    again = tuple((alloc(n, BATCH), Event("free", n)) for n in (2, 3))
    empty: dict[str, Any] = {"reference": (), "wrap": (), "iteration": (), "found": (), "collect": (), "trained": ()}
    return replace(
        block((8, 2)),
        observed=(first, *again) if observed else (),
        unwrap=(alloc(4, VALUE), Event("free", 4)),
        kept=frozenset({1} if observed else ()),
        stays=frozenset({1} if observed else ()),
        **empty,
    )


def without_iterations(**fields: Any) -> tuple[Plan, list[TuningRequest]]:
    asked: list[TuningRequest] = []
    found = graph(asked)

    def tune(request: TuningRequest) -> TunedBlock:
        assert found.tune is not None and request.rounding is not None
        found.tune(request)
        return rounded(request.rounding.sees_data)

    return plan_graph(replace(found, tune=tune), recipe(iters=0, **fields), Job(samples=10)), asked


def test_without_iterations_squares_of_inputs_stay_on_the_modules_and_nothing_is_trained() -> None:
    plan, asked = without_iterations()
    assert asked[0].rounding == Rounding(sees_data=True, searches=True)
    assert step(plan, 2, "compress").gpu.by_kind["autoround"] == SQUARES + VALUE
    assert step(plan, 4, "compress").gpu.by_kind["autoround"] == 3 * SQUARES + VALUE
    assert plan.steps[-1].gpu.by_kind["autoround"] == 3 * SQUARES, "to the end of the job"


def test_plain_rounding_sees_no_sample() -> None:
    plan, asked = without_iterations(disable_opt_rtn=True)
    assert asked[0].rounding == Rounding(sees_data=False, searches=False)
    assert step(plan, 2, "compress").gpu.by_kind["autoround"] == VALUE
    assert "outputs of all samples" not in str(step(plan, 2, "compress").cpu)


def test_only_the_packages_own_w8a16_is_searched_with_data() -> None:
    int8 = LinearTuning(weights="int_sym", bits=8, group=128)
    assert rounding("W8A16", int8, searches=True).sees_data
    assert not rounding(None, int8, searches=True).sees_data
    assert not rounding("MXFP4", linear_tuning("MXFP4", Scheme.__new__(Scheme)), searches=True).sees_data
    assert rounding(None, replace(int8, inputs="int_sym", static=True), searches=False).sees_data


def test_two_layers_at_once_are_refused_as_the_library_refuses_them() -> None:
    with pytest.raises(JobError, match="one layer at a time"):
        planned(Job(samples=2, targets_per_subgraph=2))


@pytest.mark.parametrize("pipeline", ["basic", "datafree"])
def test_a_pipeline_without_layers_is_refused_as_the_library_refuses_it(pipeline: Any) -> None:
    with pytest.raises(JobError, match=f"--pipeline {pipeline}: AutoRoundModifier takes one layer .*; leave out"):
        planned(Job(samples=2, pipeline=pipeline))


def test_a_second_one_in_the_recipe_is_refused_and_does_not_replace_the_first() -> None:
    (spec,) = recipe().modifiers
    both = replace(recipe(), modifiers=(spec, replace(spec, where="my.yaml: second")))
    with pytest.raises(UnsupportedError, match=r"my\.yaml: second: a second AutoRoundModifier in one recipe"):
        plan_graph(graph(), both, Job(samples=2))


def test_ranks_train_together_each_on_its_own_samples() -> None:
    asked: list[TuningRequest] = []
    plan = plan_graph(graph(asked), recipe(), Job(samples=12, ranks=2))
    assert asked[0].has_ranks and asked[0].trained == (6,)
    assert any("DistributedDataParallel" in note.text for note in plan.notes)
    assert not any("DistributedDataParallel" in note.text for note in planned(Job(samples=4, ranks=2), iters=0).notes)


def test_weights_that_were_there_before_the_training_are_shared_memory_too() -> None:
    plan = planned(Job(samples=4, ranks=2))
    assert plan.ranks is not None
    assert plan.ranks.shared_bytes >= plan.steps[0].cpu.by_kind["model"] + 2 * WEIGHT


def test_a_card_by_its_number_stops_the_second_rank() -> None:
    with pytest.raises(RecipeError, match="rank 1: its norms are on GPU 1"):
        planned(Job(samples=4, ranks=2), device_ids="0")


def test_a_graph_without_its_model_cannot_be_trained() -> None:
    with pytest.raises(UnsupportedError, match="name its model"):
        plan_graph(replace(graph(), tune=None), recipe(), Job(samples=2))


def test_a_compiled_training_is_an_estimate_and_says_so() -> None:
    assert COMPILED in planned(enable_torch_compile=True).notes
    assert COMPILED not in planned().notes


def test_a_preset_that_both_libraries_have_is_auto_rounds_own() -> None:
    spec = recipe_of({"quant_stage": {"quant_modifiers": {"AutoRoundModifier": {"scheme": "nvfp4"}}}}).modifiers[0]
    assert spec.preset == "NVFP4"
    assert PRESETS["NVFP4"]["static"]
