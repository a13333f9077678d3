"""The data-free and the basic pipeline, several modifiers, and what a job leaves."""

from dataclasses import replace
from typing import Any

import pytest

from planner.compress.context import Context, Shortcuts
from planner.compress.oneshot import simulate
from planner.compress.pipelines.sequential import SequentialPipeline
from planner.compress.program import Subgraph
from planner.job import Job
from planner.units import GIB
from tests import toys
from tests.compress.walked import FORWARD, LAYERS, MANY, TOY, cpu, gpu, steps


# ---------------------------------------------------------------------- datafree
def test_the_datafree_pipeline_compresses_everything_in_one_step() -> None:
    found = steps(toys.rtn())
    assert [(s.phase, s.unit) for s in found] == [
        ("load", "load"),
        ("setup", "setup"),
        ("compress", "all modules"),
        ("finalize", "finalize"),
        ("save", "save"),
    ]


@pytest.mark.parametrize("layers", [1, 2, 3, 7])
@pytest.mark.parametrize("shortcuts", [Shortcuts(), toys.UNFOLDED], ids=["folded", "whole"])
def test_statistics_of_all_modules_add_up_beside_one_weight(layers: int, shortcuts: Shortcuts) -> None:
    toy = replace(TOY, order=(0,) * layers)
    statistics = sum(x.rows * x.columns // 100 * 2 * toy.itemsize for x in toy.layer(0).linears)
    largest = max(x.bytes(toy.itemsize) for x in toy.layer(0).linears)
    found = gpu(steps(toys.rtn(), toy=toy, shortcuts=shortcuts))
    assert found["compress", "all modules"] == layers * statistics + largest


def test_the_datafree_pipeline_caches_nothing() -> None:
    found = steps(toys.rtn())
    assert {s.cpu.end for s in found[1:]} == {TOY.weight_bytes + MANY * TOY.ids}


def test_a_pipeline_that_is_asked_for_is_taken_whatever_the_modifier_needs() -> None:
    assert "calibrate" not in {s.phase for s in steps(toys.gptq(), pipeline="datafree")}
    assert "calibrate" in {s.phase for s in steps(toys.rtn(), pipeline="sequential")}


# ---------------------------------------------------------------------- basic
def test_the_basic_pipeline_computes_on_the_cpu() -> None:
    found = steps(toys.onlooker(), pipeline="basic")
    assert {s.gpu.bytes for s in found} == {0}
    samples = TOY.weight_bytes + MANY * TOY.ids
    # one batch, all that the head makes, which the model's forward has names for, and what a later layer reads
    expected = samples + TOY.ids + TOY.mask + TOY.positions + TOY.hidden + TOY.hidden + FORWARD
    assert cpu(found)["calibrate", "model"] == expected


def test_the_basic_pipeline_keeps_all_hessians_at_once() -> None:
    found = {s.phase: s.cpu for s in steps(toys.gptq(), pipeline="basic")}
    hessians = sum(4 * x.columns**2 for x in TOY.layer(0).linears)
    assert found["calibrate"].by_kind["hessian"] == 3 * hessians
    assert found["finalize"].end == TOY.weight_bytes + MANY * TOY.ids


# ---------------------------------------------------------------------- several modifiers
def test_independent_modifiers_each_run_over_the_data_in_the_pipeline_they_need() -> None:
    found = steps(toys.sparsegpt(), toys.rtn(), toys.gptq())
    order = [s.modifier for i, s in enumerate(found) if s.modifier and s.modifier != found[i - 1].modifier]
    assert order == ["SparseGPTModifier", "QuantizationModifier", "GPTQModifier"]
    phases = {m: {s.phase for s in found if s.modifier == m} for m in order}
    assert "calibrate" not in phases["QuantizationModifier"]
    assert phases["SparseGPTModifier"] == phases["GPTQModifier"]


def test_an_independent_pass_costs_what_it_costs_alone_once_it_is_set_up() -> None:
    together, alone = (
        [s for s in found if s.modifier == "GPTQModifier"]
        for found in (steps(toys.sparsegpt(), toys.gptq()), steps(toys.gptq()))
    )
    assert together[1:] == alone[1:]
    assert together[0].phase == "setup"
    left = together[0].cpu.by_kind["activation_cache"]  # of the pipeline before: it goes when that returns
    assert left == together[0].cpu.bytes - sum(alone[0].cpu.by_kind[kind] for kind in ("model", "calibration_data"))
    assert "activation_cache" not in alone[0].cpu.by_kind


def test_sequential_modifiers_share_one_pass() -> None:
    found = steps(toys.sparsegpt(), toys.gptq(), pipeline="sequential")
    assert {s.modifier for s in found} == {None, "SparseGPTModifier+GPTQModifier"}
    one = len(steps(toys.gptq()))
    assert len(found) == one
    both = {(s.phase, s.unit): s.gpu for s in found}["calibrate", LAYERS[1]]
    assert both.by_kind["hessian"] == 2 * sum(4 * x.columns**2 for x in TOY.layer(0).linears)


# ---------------------------------------------------------------------- what is left
JOBS: list[dict[str, Any]] = [
    {},
    {"pipeline": "sequential"},
    {"pipeline": "basic"},
    {"propagate_error": False},
    {"prefetch": True},
    {"progress_bars": False},
    {"offload_device": "gpu"},
    {"offload_device": "gpu", "prefetch": True},
    {"targets_per_subgraph": 2},
    {"samples": 7, "batch_size": 4},
    {"samples": 23, "batch_size": 4, "offload_device": "gpu"},
    {"samples": 1},
    {"gpu_memory_bytes": 1},
    {"gpu_memory_bytes": 80 * GIB},
]


@pytest.mark.parametrize("options", JOBS, ids=str)
@pytest.mark.parametrize("shortcuts", [Shortcuts(), toys.UNFOLDED], ids=["folded", "whole"])
def test_at_the_end_only_weights_samples_and_qparams_are_left(options: dict[str, Any], shortcuts: Shortcuts) -> None:
    job = Job(**({"samples": MANY, "seq_len": 10} | options))
    toy = replace(TOY, batch_size=job.batch_size, order=(0,) * 5)
    context = Context(job, shortcuts=shortcuts)
    specs = (toys.sparsegpt(), toys.rtn(), toys.static_rtn(), toys.gptq())
    outcome = simulate(toy.program(*specs, qparam_bytes=1234), context)
    assert context.ledger.live("gpu") == outcome.steps[-1].gpu.end == 0
    assert context.ledger.live_by_kind("cpu") == {
        "model": toy.weight_bytes,
        "calibration_data": job.samples * toy.ids,
        "qparams": 1234,
    }


def test_only_distinct_layers_are_simulated(monkeypatch: pytest.MonkeyPatch) -> None:
    walked: list[str] = []
    walk = SequentialPipeline._subgraph

    def noted(self: SequentialPipeline, subgraph: Subgraph) -> None:
        walked.append(subgraph.unit)
        walk(self, subgraph)

    monkeypatch.setattr(SequentialPipeline, "_subgraph", noted)
    steps(toys.gptq(), toy=replace(TOY, order=(0,) * 50))
    # the first layer finds the head's outputs, the second a layer's; the last adds the norm
    assert walked == ["head", "model.layers.0", "model.layers.1", "model.layers.49"]
