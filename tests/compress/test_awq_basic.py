"""AWQ in the basic pipeline, where blocks that run again quantize, and where many layers keep the same tensors."""

from collections.abc import Iterator
from dataclasses import replace
from math import prod
from typing import Any

import pytest

from planner.compress.binding import make_program
from planner.compress.context import EVERYTHING, Context
from planner.compress.oneshot import simulate
from planner.compress.quantized_forward import QuantizedForwards
from planner.compress.recipes import load_recipe
from planner.cuda.build import CudaBuild
from planner.cuda.reductions import dense_buffers
from planner.models.traces import Call
from planner.recipe.specs import QuantArgs, Recipe, Scheme
from tests import toys
from tests.built import graph_of
from tests.compress.walked import births, with_events

SMALL: dict[str, Any] = {"layers": 3, "seq_len": 64, "batch_size": 2, "samples": 6}
GPU: dict[str, Any] = {"pipeline": "basic", "weights": "gpu"}
HIDDEN, WIDE = 4096, 14336
ROWS = 2 * 64


def recipe(scheme: str, awq: str = "{n_grid: 3}") -> Recipe:
    after = f"QuantizationModifier: {{targets: [Linear], scheme: {scheme}, ignore: [lm_head]}}"
    return load_recipe(f"a_stage:\n  a_modifiers:\n    AWQModifier: {awq}\n    {after}\n")


def context_of(which: Recipe, **options: Any) -> Context:
    job = toys.job(**{**SMALL, **options})
    return with_events(graph_of("llama-3-8b", job), which, job)


def sizes(context: Context, role: str) -> Iterator[tuple[str, int]]:
    """(module, bytes) of all that was taken in this role."""
    return ((owner.name, size) for owner, size in births(context) if owner.role.startswith(role))


def test_its_linears_round_their_weights_in_every_call() -> None:
    taken = list(sizes(context_of(recipe("W4A16"), **GPU), "rounded weight output"))
    name = "model.layers.1.self_attn.o_proj"
    runs = 3 * (1 + 3)  # batches, by the run as it is and the points of the grid
    assert [size for module, size in taken if module == name] == [HIDDEN * HIDDEN * 2] * runs
    assert {module for module, _ in taken} >= {name, "model.layers.0.mlp.down_proj"}


def test_they_round_their_inputs_where_the_scheme_has_these() -> None:
    context = context_of(recipe("W8A8"), **GPU)
    inputs = {
        size for module, size in sizes(context, "rounded input output") if module.endswith("layers.1.mlp.down_proj")
    }
    assert inputs == {ROWS * WIDE * 2}
    assert not list(sizes(context_of(recipe("W8A16"), **GPU), "rounded input"))


@pytest.mark.parametrize(
    ("strategy", "dims", "scales"),
    [("token", (2, 5, 64), 10), ("token", (10, 64), 1), ("token", (2, 5, 4, 64), 10), ("tensor", (2, 5, 64), 1)],
)
def test_an_input_of_two_sides_gets_one_scale_where_each_token_should(
    strategy: Any, dims: tuple[int, ...], scales: int
) -> None:
    """compressed_tensors utils/helpers.py compute_dynamic_scales_and_zp keeps the sides 0 and 1."""
    args = QuantArgs(type="float", num_bits=8, strategy=strategy, symmetric=True, dynamic=True)
    context = Context(toys.job(), keep="timeline")
    module = replace(toys.linear("m", 64, 64), scheme=Scheme(targets=(), input_activations=args))
    rows = prod(dims[:-1])
    call = Call(module="m", rows=rows, columns=64, itemsize=2, contiguous=True, dims=dims)
    QuantizedForwards(context).before_forward(module, call)
    assert [size for _, size in sizes(context, "rounded input min_val")] == [scales * 2]
    assert [size for _, size in sizes(context, "rounded input output")] == [rows * 64 * 2]


def test_the_extremes_of_a_whole_input_are_one_operators_on_a_gpu() -> None:
    args = QuantArgs(type="float", num_bits=8, strategy="token", symmetric=True, dynamic=True)
    context = Context(toys.job(), keep="timeline", cuda=CudaBuild())
    module = replace(toys.linear("m", 64, 4096), scheme=Scheme(targets=(), input_activations=args))
    call = Call(module="m", rows=8192, columns=4096, itemsize=2, contiguous=True, dims=(8192, 4096))
    QuantizedForwards(context).before_forward(module, call)
    taken = list(dense_buffers((8192, 4096), (0, 1), 4, CudaBuild()))
    assert taken
    assert [size for _, size in sizes(context, "rounded input aminmax")] == taken


def test_the_sequential_pipeline_leaves_its_linears_as_they_are() -> None:
    assert not list(sizes(context_of(recipe("W8A8"), weights="gpu"), "rounded weight"))


def test_scales_that_are_wider_than_those_before_them_stay_on_a_gpu_with_the_weights() -> None:
    """NVFP4's come out in fp32 and were bf16. Where weights wait elsewhere, only the copy on the GPU is new."""
    scales = 3 * ((HIDDEN + 2 * 1024) * HIDDEN + 3 * WIDE * HIDDEN) // 16
    for options, more in ({"weights": "gpu"}, 2 * scales), (GPU, 2 * scales), ({}, None):
        job = toys.job(**{**SMALL, **options})
        program, _ = make_program(graph_of("llama-3-8b", job), recipe("NVFP4A16"), job)
        last = next(s for s in reversed(simulate(program, Context(job)).steps) if s.phase == "finalize")
        assert last.gpu.by_kind.get("qparams", 0) == (0 if more is None else program.qparam_bytes + more)


def test_wider_scales_of_weights_in_memory_stay_where_others_are_on_the_disk() -> None:
    """update_offload_parameter writes what modules have, whichever of their neighbours are files."""
    job = toys.job(**{**SMALL, "pipeline": "basic", "weights": "disk"})
    graph = replace(graph_of("llama-3-8b", job), on_disk=frozenset(["model.layers.1"]))
    program, _ = make_program(graph, recipe("NVFP4A16"), job)
    steps = simulate(program, Context(job)).steps
    before, after = (next(s for s in steps if s.phase == phase) for phase in ("calibrate", "finalize"))
    scales = ((HIDDEN + 2 * 1024) * HIDDEN + 3 * WIDE * HIDDEN) // 16
    assert before.cpu.by_kind["qparams"] == program.qparam_bytes - program.disk_qparam_bytes
    assert after.cpu.by_kind["qparams"] - before.cpu.by_kind["qparams"] == 2 * 2 * scales


def test_a_tensor_that_all_layers_are_passed_is_copied_once_and_pinned_for_each() -> None:
    """offload_values of pipelines/cache.py: the mask and the rotary embedding, in the basic pipeline."""
    context = context_of(recipe("W4A16", "{n_grid: 3, offload_device: cpu}"), **GPU)
    timeline, batches = context.ledger.timeline("cpu"), 3
    mask, cos_and_sin = 2 * 64 * 64 * 2, 2 * 64 * 128 * 2
    copied: dict[str, int] = {}
    for handle, size, number in timeline.events:
        owner = timeline.about[handle].owner
        if number > 0 and owner.role == "arguments of all batches, for others too":
            copied[owner.name] = copied.get(owner.name, 0) + size * number
    positions = batches * 64 * 8
    assert copied == {"model.layers.0.self_attn": batches * (mask + cos_and_sin) + positions}


CACHE = "W4A16, kv_cache_scheme: {num_bits: 8, type: float, strategy: tensor, dynamic: %s, symmetric: %s}"


def test_attentions_that_run_again_round_keys_and_values_and_no_queries() -> None:
    taken = list(sizes(context_of(recipe(CACHE % ("false", "true")), **GPU), "rounded output"))
    names = [f"model.layers.{n}.self_attn.kv_cache.{states}" for n in range(3) for states in ("key", "value")]
    runs = 3 * (1 + 3)  # batches, by the run as it is and the points of the grid
    assert sorted(name for name, _ in taken) == sorted(names * runs)
    assert {size for _, size in taken} == {ROWS * 1024 * 2}


def test_what_has_no_zero_point_is_not_shifted() -> None:
    symmetric, shifted = (
        list(sizes(context_of(recipe(CACHE % ("false", is_so)), **GPU), "rounded dequant"))
        for is_so in ("true", "false")
    )
    assert not symmetric
    assert shifted


def test_a_cache_with_scales_of_its_own_looks_for_extremes_in_every_call() -> None:
    taken = list(sizes(context_of(recipe(CACHE % ("true", "true")), **GPU), "rounded states min_val"))
    assert {name.rpartition(".")[2] for name, _ in taken} == {"key", "value"}
    assert {size for _, size in taken} == {2}


def test_keys_stay_until_values_are_rounded_too() -> None:
    """modeling/kvcache.py `QuantizedKVCache.update` has its arguments."""
    context = context_of(recipe(CACHE % ("false", "true")), **GPU)
    timeline, last = context.ledger.timeline("gpu"), ""
    freed_between = set()
    for handle, _, number in timeline.events:
        owner = timeline.about[handle].owner
        if owner.name.endswith(("kv_cache.key", "kv_cache.value")) and owner.role == "rounded output" and number > 0:
            last = owner.name.rpartition(".")[2]
        elif last == "key" and number < 0 and not owner.role.startswith("rounded"):
            freed_between.add(owner)
    assert last == "value"
    assert not freed_between, "between the rounded keys and the rounded values nothing of the model's own goes"


def test_the_sequential_pipeline_leaves_keys_and_values_as_they_are() -> None:
    assert not list(sizes(context_of(recipe(CACHE % ("false", "true")), weights="gpu"), "rounded output"))


@pytest.mark.parametrize("options", [GPU, {"weights": "gpu"}, {"pipeline": "basic"}], ids=str)
@pytest.mark.parametrize("scheme", ["W4A16", "NVFP4A16"])
def test_mappings_that_are_passed_over_leave_what_walked_ones_do(scheme: str, options: dict[str, Any]) -> None:
    job = toys.job(**{**SMALL, "layers": 5, **options})
    program, _ = make_program(graph_of("qwen3-0.6b", job), recipe(scheme), job)
    folded, whole = (simulate(program, Context(job, shortcuts=shortcuts)).steps for shortcuts in (None, EVERYTHING))
    assert [(s.gpu.bytes, s.gpu.end, s.cpu.bytes, s.cpu.end) for s in folded] == [
        (s.gpu.bytes, s.gpu.end, s.cpu.bytes, s.cpu.end) for s in whole
    ]
