"""Where the model lies: CPU, GPU or disk, and what the job reads and writes there."""

from dataclasses import replace
from typing import Any

import pytest

from planner.compress.binding import make_program
from planner.compress.context import Context
from planner.compress.disk import below, disk_notes
from planner.compress.home import load_order
from planner.compress.oneshot import simulate
from planner.compress.program import Program, StepMemory
from planner.planning import plan_graph
from planner.recipe.specs import ModifierSpec
from tests import toys
from tests.toys import EMBEDDING, HEAD, Toy

ALL = frozenset([""])
TOY = Toy()
WEIGHTS = TOY.layer(0).weight_bytes(TOY.itemsize)


def program(*specs: ModifierSpec, toy: Toy = TOY, **options: Any) -> Program:
    return make_program(toy.graph, toys.recipe(*specs), toys.job(**options))[0]


def steps(*specs: ModifierSpec, toy: Toy = TOY, **options: Any) -> list[StepMemory]:
    job = toys.job(**options)
    return simulate(make_program(toy.graph, toys.recipe(*specs), job)[0], Context(job)).steps


def at(found: list[StepMemory], phase: str, unit: str) -> StepMemory:
    return next(step for step in found if (step.phase, step.unit) == (phase, unit))


# ---------------------------------------------------------------------- on the GPU
def test_weights_are_loaded_in_the_order_of_transformers() -> None:
    """core_model_loading.py `dot_natural_key` sorted these so."""
    names = ["10.b", "2.x1", "2.x2", "2.x11", "2.x11.a", "layers.2.w", "layers.10.w", "layers2.w", "norm"]
    expected = ["2.x1", "2.x2", "2.x11", "2.x11.a", "10.b", "layers.2.w", "layers.10.w", "layers2.w", "norm"]
    assert sorted(names, key=load_order) == expected


def test_weights_on_the_gpu_are_there_from_load_to_save() -> None:
    found = steps(toys.onlooker(), weights="gpu")
    assert found[0].gpu.by_kind == {"model": TOY.weight_bytes}
    assert found[-1].gpu.end == TOY.weight_bytes
    assert all(step.cpu.by_kind.get("model", 0) == 0 for step in found)


def test_nothing_is_onloaded_where_weights_are_on_the_gpu() -> None:
    found = steps(toys.gptq(), toys.sparsegpt(), toys.static_rtn(), weights="gpu")
    assert not any("weights" in step.gpu.by_kind for step in found)


def test_a_layer_on_the_gpu_costs_what_it_does_beside_its_own_weights() -> None:
    onloaded, resident = (at(steps(toys.onlooker(), weights=w), "calibrate", "model.layers.1") for w in ("cpu", "gpu"))
    assert resident.gpu.bytes - onloaded.gpu.bytes == TOY.weight_bytes - WEIGHTS


def test_scales_lie_beside_the_weights() -> None:
    spec = toys.gptq()
    on_cpu, on_gpu = (at(steps(spec, weights=w), "setup", "setup") for w in ("cpu", "gpu"))
    expected = program(spec).qparam_bytes
    assert expected
    assert (on_cpu.cpu.by_kind["qparams"], on_gpu.gpu.by_kind["qparams"]) == (expected, expected)
    assert "qparams" not in on_gpu.cpu.by_kind


def test_the_basic_pipeline_computes_on_the_gpu_where_the_weights_are() -> None:
    on_cpu, on_gpu = (
        at(steps(toys.static_rtn(), weights=w, pipeline="basic"), "calibrate", "model") for w in ("cpu", "gpu")
    )
    assert on_cpu.gpu.bytes == 0
    assert on_gpu.gpu.by_kind["forward"] == on_cpu.cpu.by_kind["forward"]
    assert on_gpu.gpu.by_kind["batch"] == TOY.ids


@pytest.mark.parametrize("tied", [False, True])
def test_untied_embeddings_stay_on_the_gpu(tied: bool) -> None:
    """Each clone is there before the weight that it replaces goes: three at most, and two in the end."""
    toy = replace(TOY, tied=tied)
    spec = replace(toys.static_rtn(), ignore=())
    group = replace(spec.groups[0], targets=("Linear", "Embedding"))
    found = steps(replace(spec, groups=(group,)), toy=toy, weights="gpu")
    rest = toy.weight_bytes - toy.embedding * (1 if tied else 2)
    setup = at(found, "setup", "setup")
    assert setup.gpu.by_kind["model"] == rest + 3 * toy.embedding
    assert found[-1].gpu.by_kind["model"] == rest + 2 * toy.embedding


def test_fused_experts_on_the_gpu_are_there_twice_while_they_are_linearized() -> None:
    job = toys.job(weights="gpu")
    fused = replace(program(toys.onlooker()), fused_expert_bytes=6_000, fused_linears=(((1_000, 2),),) * 3)
    setup = at(simulate(fused, Context(job)).steps, "setup", "setup")
    assert setup.gpu.bytes >= TOY.weight_bytes + 6_000
    assert setup.cpu.by_kind["model"] == 2_000
    assert setup.gpu.end == TOY.weight_bytes


# ---------------------------------------------------------------------- on the disk
def test_a_name_is_below_itself_and_below_what_is_around_it() -> None:
    on_disk = below(frozenset(["model.layers.1"]))
    assert on_disk("model.layers.1.mlp.up.weight")
    assert on_disk("model.layers.1")
    assert not on_disk("model.layers.10.mlp.up.weight")
    assert not on_disk("model")
    assert below(ALL)("lm_head")


def test_weights_on_the_disk_take_no_cpu_memory_while_they_wait() -> None:
    found = steps(toys.onlooker(), toy=replace(TOY, on_disk=ALL), weights="disk")
    assert found[0].cpu.bytes == 0
    part = steps(toys.onlooker(), toy=replace(TOY, on_disk=frozenset(["model.layers.1", HEAD])), weights="disk")
    assert part[0].cpu.bytes == TOY.weight_bytes - WEIGHTS - TOY.head


def test_a_weight_from_the_disk_goes_through_pinned_memory_of_its_size() -> None:
    found = steps(toys.onlooker(), toy=replace(TOY, on_disk=ALL), weights="disk")
    assert at(found, "setup", "setup").cpu.by_kind["weights"] == TOY.head
    plain = at(steps(toys.onlooker()), "calibrate", "model.layers.1").cpu.bytes
    largest = max(linear.bytes(TOY.itemsize) for linear in TOY.layer(1).linears)
    assert at(found, "calibrate", "model.layers.1").cpu.bytes == plain - TOY.weight_bytes + largest


def test_equal_layers_on_the_disk_and_off_it_are_not_one_for_the_other() -> None:
    toy = replace(TOY, order=(0,) * 6, on_disk=frozenset(["model.layers.3"]))
    found = steps(toys.onlooker(), toy=toy, weights="disk")
    pinned = [s.unit for s in found if s.phase == "calibrate" and s.cpu.by_kind.get("weights", 0)]
    assert pinned == ["model.layers.3"]


def test_what_changes_is_written_and_what_is_observed_is_not() -> None:
    toy = replace(TOY, on_disk=ALL)
    for spec, rewritten in ((toys.gptq(), 3 * WEIGHTS), (toys.sparsegpt(), 3 * WEIGHTS), (toys.static_rtn(), 0)):
        resolved = program(spec, toy=toy)
        assert resolved.disk_written_bytes == resolved.qparam_bytes + rewritten


def test_a_plan_says_what_lies_on_the_disk() -> None:
    toy = replace(TOY, on_disk=frozenset(["model.layers.0"]))
    plan = plan_graph(toy.graph, toys.recipe(toys.gptq()), toys.job(weights="disk"))
    assert plan.weights_on_disk is not None
    assert plan.weights_on_disk.weights_bytes == WEIGHTS
    assert plan.weights_on_disk.written_bytes > WEIGHTS
    assert plan_graph(TOY.graph, toys.recipe(toys.gptq()), toys.job()).weights_on_disk is None


def test_tied_embeddings_on_the_disk_that_are_to_be_untied_end_the_job() -> None:
    spec = replace(toys.static_rtn(), ignore=())
    for tied, on_disk in ((True, frozenset([EMBEDDING])), (True, frozenset[str]()), (False, frozenset([EMBEDDING]))):
        resolved = program(spec, toy=replace(TOY, tied=tied, on_disk=on_disk))
        assert any(note.kind == "fails" for note in disk_notes(resolved)) == (tied and bool(on_disk))
