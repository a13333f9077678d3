"""Ranks of a torchrun job: who compresses what, what each card and all processes take."""

from dataclasses import replace
from typing import Any

import pytest

from planner.compress.binding import make_program
from planner.compress.context import Context
from planner.compress.modifiers.hessian import hessian_bytes
from planner.compress.oneshot import heaviest_rank, simulate
from planner.compress.program import StepMemory
from planner.compress.ranks import Rank, check_ranks, dealt
from planner.compress.recipes import recipe_from_dict
from planner.errors import JobError, UnsupportedError
from planner.planning import plan_graph
from planner.recipe.specs import ModifierSpec
from tests import toys
from tests.toys import Layer, Linear, Toy

FOUR = Layer(
    linears=(
        Linear(name=".q", rows=200, columns=200),
        Linear(name=".o", rows=200, columns=200),
        Linear(name=".up", rows=1_000, columns=200),
        Linear(name=".down", rows=200, columns=1_000),
    )
)
TOY = Toy(kinds=(FOUR,), order=(0, 0))
LAYER = "model.layers.0"


def steps(spec: ModifierSpec, number: int | None = None, ranks: int = 2, **options: Any) -> dict[Any, StepMemory]:
    """The steps of one rank, or of a job of one process."""
    job = toys.job(**({"samples": 4} | options | ({} if number is None else {"ranks": ranks})))
    program, _ = make_program(TOY.graph, toys.recipe(spec), job)
    context = Context(job, rank=None if number is None else Rank(number, ranks))
    return {(step.phase, step.unit): step for step in simulate(program, context).steps}


# ---------------------------------------------------------------------- dealing out
def test_the_heaviest_module_goes_first_and_to_the_first_rank() -> None:
    ordered, shares = dealt([3, 9, 4, 4, 1], 2, lambda weight: weight)
    assert ordered == [9, 4, 4, 3, 1]
    assert shares == [[9, 1], [4, 4, 3]]


def test_equal_modules_keep_their_order_and_go_round() -> None:
    ordered, shares = dealt(["a", "b", "c"], 2, lambda _name: 1)
    assert ordered == ["a", "b", "c"]
    assert shares == [["a", "c"], ["b"]]


# ---------------------------------------------------------------------- samples
def test_a_rank_has_its_part_of_the_samples() -> None:
    job = toys.job(samples=10, ranks=4, batch_size=2)
    assert (job.rank_samples, job.batches, job.last_batch_size) == (3, 2, 1)


@pytest.mark.parametrize("options", [{"samples": 3, "ranks": 4}, {"samples": 8, "ranks": 4, "batch_size": 3}])
def test_ranks_without_a_whole_batch_are_refused(options: dict[str, int]) -> None:
    with pytest.raises(JobError, match="ranks"):
        toys.job(**options)


# ---------------------------------------------------------------------- the card
def test_every_rank_accumulates_all_hessians() -> None:
    alone, rank = steps(toys.gptq())["calibrate", LAYER], steps(toys.gptq(), 1)["calibrate", LAYER]
    assert rank.gpu == alone.gpu


def test_a_rank_compresses_its_own_modules_after_it_let_the_others_hessians_go() -> None:
    """Rank 0 has the widest Linear; rank 1 has the three others, which take less than all Hessians did before."""
    first, second = (steps(toys.gptq(batched_quantization=1), number)["compress", LAYER].gpu for number in (0, 1))
    accumulated = hessian_bytes(1_000) + 3 * hessian_bytes(200)
    assert first.by_kind["compress_inputs"] >= hessian_bytes(1_000)
    assert second.by_kind["hessian"] == accumulated
    assert "compress_inputs" not in second.by_kind


def test_one_rank_of_one_goes_from_the_widest_module_on() -> None:
    """The others' Hessians wait meanwhile; a job without torchrun has compressed them by then."""
    spec = toys.gptq(batched_quantization=1)
    alone, first = steps(spec)["compress", LAYER].gpu, steps(spec, 0, ranks=1)["compress", LAYER].gpu
    raw = hessian_bytes(1_000)
    assert (first.by_kind["hessian"] % raw, alone.by_kind["hessian"] % raw) == (3 * hessian_bytes(200), 0)


def test_scales_of_all_modules_are_on_every_card_after_the_broadcast() -> None:
    compressed = steps(toys.gptq(), 1)["compress", LAYER].gpu
    assert steps(toys.gptq())["compress", LAYER].gpu.end < compressed.end


def test_ranks_observe_their_own_weights_alone() -> None:
    spec = toys.rtn(calibrate_anyway=True)
    alone, rank = steps(spec)["compress", LAYER].gpu, steps(spec, 0)["compress", LAYER].gpu
    assert rank.by_kind["observer"] < alone.by_kind["observer"]


def test_without_data_all_scales_are_received_together() -> None:
    spec = toys.rtn()
    program, _ = make_program(TOY.graph, toys.recipe(spec), toys.job())
    received = steps(spec, 0)["compress", "all modules"].gpu
    assert received.by_kind.get("qparams", 0) in (0, program.qparam_bytes)
    assert received.bytes >= program.qparam_bytes


def test_sparsegpt_does_the_same_on_every_rank() -> None:
    alone = steps(toys.sparsegpt())
    assert all(found.gpu == alone[where].gpu for where, found in steps(toys.sparsegpt(), 1).items())


# ---------------------------------------------------------------------- plans
def test_the_rank_whose_card_takes_most_is_planned() -> None:
    job = toys.job(samples=4, ranks=2)
    program, _ = make_program(TOY.graph, toys.recipe(toys.gptq(batched_quantization=1)), job)
    assert heaviest_rank(program, job) == Rank(0, 2)
    assert heaviest_rank(program, toys.job()) is None
    peaks = []
    for number in (0, 1):
        found = simulate(program, Context(job, rank=Rank(number, 2))).steps
        peaks.append(max(step.gpu.bytes for step in found))
    assert peaks[0] > peaks[1]
    plan = plan_graph(TOY.graph, toys.recipe(toys.gptq(batched_quantization=1)), job)
    assert plan.gpu.peak_bytes == peaks[0]


def test_all_ranks_have_the_weights_once_and_their_activations_each() -> None:
    job = toys.job(samples=40, ranks=4)
    plan = plan_graph(TOY.graph, toys.recipe(toys.gptq()), job)
    assert plan.ranks is not None
    own = plan.cpu.peak_bytes - plan.ranks.shared_bytes
    assert plan.ranks.shared_bytes > TOY.weight_bytes
    assert plan.ranks.all_bytes == plan.ranks.shared_bytes + 4 * own


@pytest.mark.parametrize(
    ("kind", "fields", "says"),
    [
        ("SparseGPTModifier", {"sparsity": 0.5}, "SparseGPTModifier does not know of ranks"),
        ("WandaPruningModifier", {"sparsity": 0.5}, "WandaPruningModifier does not know of ranks"),
        ("SpinQuantModifier", {}, "SpinQuantModifier in several ranks is not modelled"),
        ("ConstantPruningModifier", {"targets": "Linear"}, "ConstantPruningModifier in several ranks is not modelled"),
        ("AutoRoundModifier", {"scheme": "W4A16"}, "in DistributedDataParallel, each on its own samples"),
        ("AutoRoundModifier", {"scheme": "W4A16", "iters": 0}, None),
        ("SmoothQuantModifier", {}, None),
        ("REAPPruningModifier", {"sparsity": 0.5}, None),
        ("AWQModifier", {}, None),
        ("GPTQModifier", {"scheme": "W4A16"}, None),
    ],
)
def test_each_modifier_says_for_itself_what_ranks_mean(kind: str, fields: dict[str, Any], says: str | None) -> None:
    spec = recipe_from_dict({"a_stage": {"a_modifiers": {kind: fields}}}, "my.yaml").modifiers[0]
    texts = [note.text for note in spec.in_ranks()]
    assert len(texts) == (says is not None)
    assert says is None or says in texts[0]


def test_a_plan_says_what_it_leaves_out_and_what_sparsegpt_does() -> None:
    plan = plan_graph(TOY.graph, toys.recipe(toys.sparsegpt()), toys.job(samples=4, ranks=2))
    texts = [note.text for note in plan.notes]
    assert any("NCCL" in text for text in texts)
    assert any("SparseGPTModifier does not know of ranks" in text for text in texts)


def test_ranks_that_would_convert_fused_experts_are_refused() -> None:
    program = replace(TOY.program(toys.gptq()), fused_expert_bytes=100)
    check_ranks(program, 1)
    with pytest.raises(UnsupportedError, match="--linearized"):
        check_ranks(program, 2)
