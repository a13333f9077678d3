"""The pipelines' own memory: weights, batches, forwards and what stale names still hold."""

from dataclasses import replace
from typing import Any

import pytest

from planner.compress.context import Context
from planner.compress.modifiers.gptq import GPTQModel
from planner.compress.oneshot import simulate
from planner.compress.program import StepMemory
from planner.recipe.specs import ModifierSpec
from tests import toys
from tests.compress.walked import CROSSING, FORWARD, LAYERS, MANY, TOY, WEIGHTS, cpu, gpu, steps
from tests.toys import Layer, Linear, Toy


# ---------------------------------------------------------------------- sequential: the steps
def test_a_sequential_run_takes_three_steps_per_subgraph() -> None:
    found = [(s.phase, s.unit, s.subgraph, s.of) for s in steps(toys.onlooker())]
    passes = [("calibrate", 1), ("compress", 1), ("propagate", 1)]
    subgraphs = [(phase, unit, n, 4) for n, unit in enumerate(("head", *LAYERS), start=1) for phase, _ in passes]
    assert found == [
        ("load", "load", None, None),
        ("setup", "setup", None, None),
        ("prepare", "activation cache", None, None),
        *subgraphs,
        ("finalize", "finalize", None, None),
        ("save", "save", None, None),
    ]


def test_steps_of_a_pipeline_name_their_modifier_and_load_and_save_name_none() -> None:
    found = steps(toys.onlooker())
    assert [s.modifier for s in (found[0], found[-1])] == [None, None]
    assert {s.modifier for s in found[1:-1]} == {"QuantizationModifier"}


def test_an_estimated_unit_makes_inexact_steps() -> None:
    found = steps(toys.onlooker(), toy=replace(TOY, exact=False))
    assert {s.phase for s in found if not s.exact} == {"calibrate", "compress", "propagate"}


# ---------------------------------------------------------------------- sequential: what is moved
def moved(found: list[StepMemory]) -> dict[tuple[str, str], tuple[int, int]]:
    return {(step.phase, step.unit): (step.moved.to_gpu, step.moved.to_cpu) for step in found}


def test_a_layer_is_onloaded_once_and_fetches_every_batch_in_both_passes() -> None:
    found = moved(steps(toys.onlooker()))
    assert found["calibrate", LAYERS[1]] == (WEIGHTS + MANY * CROSSING, 0)
    assert found["propagate", LAYERS[1]] == (MANY * CROSSING, MANY * TOY.hidden)


def test_without_propagation_the_only_pass_stores_its_outputs() -> None:
    found = moved(steps(toys.onlooker(), propagate_error=False))
    assert found["calibrate", LAYERS[1]] == (WEIGHTS + MANY * CROSSING, MANY * TOY.hidden)
    assert all(phase != "propagate" for phase, _ in found)


def test_a_cache_on_the_gpu_moves_no_batches() -> None:
    found = moved(steps(toys.onlooker(), offload_device="gpu"))
    assert found["calibrate", LAYERS[1]] == (WEIGHTS, 0)
    assert found["propagate", LAYERS[1]] == (0, 0)


def test_compressed_weights_go_back_to_the_cpu() -> None:
    found = moved(steps(toys.gptq(toys.weights(strategy="channel", group_size=None))))
    scales = sum(linear.rows for linear in TOY.layer(0).linears)
    assert found["compress", LAYERS[1]][1] == WEIGHTS + scales * TOY.itemsize + scales


# ---------------------------------------------------------------------- sequential: the GPU
def test_setup_and_prepare_onload_the_output_head_once() -> None:
    found = gpu(steps(toys.onlooker()))
    assert found["setup", "setup"] == found["prepare", "activation cache"] == TOY.head


def test_a_tied_head_is_as_large_as_the_embedding() -> None:
    tied = replace(TOY, tied=True, head=10, embedding=70_000)
    assert gpu(steps(toys.onlooker(), toy=tied))["setup", "setup"] == 70_000


def test_the_head_holds_the_batch_before_beside_its_own() -> None:
    found = gpu(steps(toys.onlooker()))
    onloaded = TOY.embedding + TOY.ids
    assert found["calibrate", "head"] == onloaded + 2 * CROSSING
    assert found["compress", "head"] == onloaded + CROSSING
    # while propagating, the outputs of the calibration pass are still there
    assert found["propagate", "head"] == onloaded + 3 * CROSSING


def test_the_first_layer_starts_among_the_heads_outputs() -> None:
    found = gpu(steps(toys.onlooker()))
    onloaded = WEIGHTS + CROSSING
    assert found["calibrate", LAYERS[0]] == onloaded + 2 * CROSSING + FORWARD
    assert found["compress", LAYERS[0]] == onloaded + CROSSING + TOY.hidden
    assert found["propagate", LAYERS[0]] == onloaded + CROSSING + TOY.hidden + FORWARD


def test_later_layers_find_two_hidden_states_of_the_layer_before() -> None:
    found = gpu(steps(toys.onlooker()))
    onloaded = WEIGHTS + CROSSING
    assert found["calibrate", LAYERS[1]] == onloaded + 2 * TOY.hidden + FORWARD
    assert found["compress", LAYERS[1]] == onloaded + 2 * TOY.hidden
    assert found["propagate", LAYERS[1]] == onloaded + 2 * TOY.hidden + FORWARD


def test_the_last_layer_keeps_no_outputs_and_adds_the_norm() -> None:
    found = gpu(steps(toys.onlooker()))
    onloaded = WEIGHTS + TOY.norm + CROSSING
    assert 2 * TOY.hidden < FORWARD  # the norm runs beside the layer's output, after its widest moment
    assert found["calibrate", LAYERS[2]] == onloaded - TOY.norm + 2 * TOY.hidden + FORWARD
    assert found["compress", LAYERS[2]] == onloaded + TOY.hidden
    assert found["finalize", "finalize"] == onloaded


def test_a_subgraph_ends_without_weights_but_with_stale_inputs_and_outputs() -> None:
    found = {(s.phase, s.unit): s.gpu.end for s in steps(toys.onlooker())}
    assert found["propagate", "head"] == TOY.ids + 2 * CROSSING
    assert found["propagate", LAYERS[0]] == CROSSING + 2 * TOY.hidden


def test_two_layers_in_one_subgraph_hold_both_weights() -> None:
    found = gpu(steps(toys.onlooker(), targets_per_subgraph=2))
    both = f"{LAYERS[0]}, {LAYERS[1]}"
    # the second layer runs beside the hidden states between the two, and the outputs of both head passes
    assert found["calibrate", both] == 2 * WEIGHTS + CROSSING + 2 * CROSSING + TOY.hidden + FORWARD


def test_one_batch_leaves_no_outputs_of_a_batch_before() -> None:
    found = gpu(steps(toys.onlooker(), samples=1))
    assert found["calibrate", "head"] == TOY.embedding + TOY.ids + CROSSING
    assert found["propagate", "head"] == TOY.embedding + TOY.ids + 2 * CROSSING


def test_samples_do_not_change_the_gpu_peak_once_there_are_two() -> None:
    two, many = (gpu(steps(toys.gptq(), samples=n)) for n in (2, 50))
    assert two == many


def test_prefetching_holds_one_batch_more() -> None:
    plain, prefetched = (gpu(steps(toys.onlooker(), prefetch=on)) for on in (False, True))
    for unit, batch in (("head", TOY.ids), *((layer, CROSSING) for layer in LAYERS)):
        for phase in ("calibrate", "propagate"):
            assert prefetched[phase, unit] == plain[phase, unit] + batch


def test_one_batch_has_nothing_to_prefetch() -> None:
    plain, prefetched = (gpu(steps(toys.onlooker(), samples=1, prefetch=on)) for on in (False, True))
    assert plain == prefetched


@pytest.mark.parametrize("prefetch", [False, True])
def test_a_progress_bar_keeps_the_batch_before_beside_every_second_one(prefetch: bool) -> None:
    """CPython's enumerate and tqdm's loop variable, see pipelines/passes.py."""
    without, bars = (
        gpu(steps(toys.onlooker(), samples=3, prefetch=prefetch, progress_bars=on)) for on in (False, True)
    )
    # the first layer's first batch finds all outputs of the head, the second only the hidden states before it
    for unit, more in (("head", TOY.ids), (LAYERS[0], TOY.hidden), (LAYERS[1], CROSSING)):
        assert bars["calibrate", unit] == without["calibrate", unit] + more
        assert bars["compress", unit] == without["compress", unit]
    assert bars["propagate", LAYERS[1]] == without["propagate", LAYERS[1]] + CROSSING


def test_a_single_batch_has_none_before_it_for_a_progress_bar_to_keep() -> None:
    without, bars = (gpu(steps(toys.onlooker(), samples=1, progress_bars=on)) for on in (False, True))
    assert bars == without


def test_an_activation_cache_on_the_gpu_leaves_a_progress_bar_what_was_deleted_from_it() -> None:
    without, bars = (
        gpu(steps(toys.onlooker(), samples=4, offload_device="gpu", progress_bars=on)) for on in (False, True)
    )
    assert bars["calibrate", LAYERS[0]] == without["calibrate", LAYERS[0]]  # nothing is deleted yet
    assert bars["propagate", LAYERS[0]] == without["propagate", LAYERS[0]] + TOY.hidden


@pytest.mark.parametrize("samples", [2, 3, 4, 5, 20, 21])
def test_what_a_progress_bar_keeps_is_gone_when_the_pass_ends(samples: int) -> None:
    without, bars = (
        {(s.phase, s.unit): s.gpu.end for s in steps(toys.onlooker(), samples=samples, progress_bars=on)}
        for on in (False, True)
    )
    assert bars == without


def test_the_basic_pipeline_unpacks_what_enumerate_hands_out_so_a_bar_keeps_nothing() -> None:
    without, bars = (steps(toys.onlooker(), pipeline="basic", progress_bars=on) for on in (False, True))
    assert bars == without


def test_without_propagating_errors_there_is_one_pass_and_one_set_of_outputs() -> None:
    found = gpu(steps(toys.onlooker(), propagate_error=False))
    assert "propagate" not in {phase for phase, _ in found}
    assert found["calibrate", "head"] == TOY.embedding + TOY.ids + 2 * CROSSING
    assert found["calibrate", LAYERS[0]] == WEIGHTS + CROSSING + CROSSING + FORWARD
    assert found["calibrate", LAYERS[1]] == WEIGHTS + CROSSING + TOY.hidden + FORWARD


def test_a_modifier_compresses_on_top_of_what_the_passes_left() -> None:
    spec = toys.gptq()
    context = Context(toys.job())
    model, modules = (
        GPTQModel(context, spec),
        [replace(m, name=f"x{m.name}") for m in TOY.modules(TOY.layer(0), spec.groups[0])],
    )
    for m in modules:
        model.after_forward(m, toys.linear_call(m.name, TOY.tokens, m.rows, m.columns))
    context.ledger.close_step()
    model.on_sequential_epoch_end(modules)
    alone = context.ledger.close_step()["gpu"].bytes
    assert gpu(steps(spec))["compress", LAYERS[1]] == alone + CROSSING + 2 * TOY.hidden


def test_each_later_batch_accumulates_into_the_same_hessians() -> None:
    found = gpu(steps(toys.gptq()))
    up, down = TOY.layer(0).linears
    hessians = 4 * up.columns**2 + 4 * down.columns**2 + 4 + 4
    outputs = sum(x.rows * TOY.tokens * TOY.itemsize for x in (up, down))
    fp32, product = TOY.tokens * down.columns * 4, 4 * down.columns**2
    update = max(2 * fp32, fp32 + product)
    # down's hook runs while its input and its output are there
    assert found["calibrate", LAYERS[1]] == WEIGHTS + CROSSING + 2 * TOY.hidden + hessians + outputs + update


# ---------------------------------------------------------------------- sequential: the CPU
BASE = TOY.weight_bytes + MANY * TOY.ids + TOY.ids
"""Weights, samples, and the sample input that the pipeline keeps."""


def test_the_cache_grows_from_tokens_to_hidden_states_while_the_head_propagates() -> None:
    found = cpu(steps(toys.onlooker()))
    assert found["load", "load"] == TOY.weight_bytes
    # tracing into subgraphs runs the head on the CPU
    assert found["setup", "setup"] == BASE + TOY.hidden
    assert found["calibrate", "head"] == BASE + MANY * TOY.ids
    # the last batch's tokens are dropped after its outputs are stored
    assert found["propagate", "head"] == BASE + MANY * CROSSING + TOY.ids


def test_a_layer_replaces_hidden_states_batch_by_batch() -> None:
    found = cpu(steps(toys.onlooker()))
    assert found["calibrate", LAYERS[0]] == BASE + MANY * CROSSING
    assert found["propagate", LAYERS[0]] == BASE + MANY * CROSSING + TOY.hidden
    assert found["propagate", LAYERS[2]] == BASE + MANY * CROSSING  # nothing is stored any more


def test_without_propagating_errors_the_first_pass_fills_the_cache() -> None:
    found = cpu(steps(toys.onlooker(), propagate_error=False))
    assert found["calibrate", "head"] == BASE + MANY * CROSSING + TOY.ids
    assert found["calibrate", LAYERS[0]] == BASE + MANY * CROSSING + TOY.hidden


def test_a_cache_on_the_gpu_leaves_the_cpu_to_weights_and_samples() -> None:
    found = steps(toys.onlooker(), offload_device="gpu")
    assert {s.cpu.bytes for s in found if s.phase in ("prepare", "calibrate", "compress", "propagate")} == {BASE}
    # all batches' values, the weights, and one batch of work
    assert gpu(found)["calibrate", LAYERS[1]] >= MANY * CROSSING + WEIGHTS + FORWARD


def test_a_cache_on_the_gpu_holds_every_batch_once() -> None:
    found = {(s.phase, s.unit): s.gpu for s in steps(toys.onlooker(), offload_device="gpu")}
    assert found["prepare", "activation cache"].end == MANY * TOY.ids
    assert found["calibrate", LAYERS[1]].by_kind["activation_cache"] == MANY * CROSSING


def test_the_last_batch_may_be_smaller() -> None:
    toy = replace(TOY, batch_size=4)
    job: dict[str, Any] = {"samples": 10, "batch_size": 4}
    found = cpu(steps(toys.onlooker(), toy=toy, **job))
    base = toy.weight_bytes + 10 * toy.ids + 4 * toy.ids
    cache = 2 * (toy.hidden + toy.mask) + (toy.hidden + toy.mask) // 2 + 3 * toy.positions
    assert found["calibrate", LAYERS[0]] == base + cache


def test_fused_experts_are_there_twice_while_they_are_linearized() -> None:
    program = TOY.program(toys.onlooker(), fused_expert_bytes=7_000_000)
    outcome = simulate(program, Context(toys.job()))
    setup = next(s for s in outcome.steps if s.phase == "setup")
    assert setup.cpu.bytes == TOY.weight_bytes + 7_000_000 + 2 * TOY.ids
    assert setup.cpu.end == TOY.weight_bytes + 2 * TOY.ids + TOY.ids


# ---------------------------------------------------------------------- tied embeddings
def untied(**changes: Any) -> tuple[list[StepMemory], Toy]:
    toy = replace(TOY, tied=True)
    program = toy.program(toys.onlooker(), **changes)
    runs = tuple(replace(run, unties_embeddings=True) for run in program.runs)
    return simulate(replace(program, runs=runs), Context(toys.job())).steps, toy


def test_untying_holds_three_embeddings_on_the_gpu() -> None:
    found, toy = untied()
    assert gpu(found)["setup", "setup"] == 3 * toy.embedding


def test_untied_embeddings_stay_two_on_the_cpu() -> None:
    found, toy = untied()
    samples = 2 * toy.ids
    assert found[-1].cpu.end == toy.weight_bytes + toy.embedding + samples


def test_embeddings_that_were_never_tied_are_not_copied_on_the_cpu() -> None:
    found, toy = untied(tied=False)
    assert found[-1].cpu.end == toy.weight_bytes + 2 * toy.ids


# ---------------------------------------------------------------------- folding
@pytest.mark.parametrize("spec", [toys.onlooker(), toys.static_rtn(), toys.gptq(), toys.sparsegpt()])
def test_repeated_layers_are_copied_under_their_own_names(spec: ModifierSpec) -> None:
    toy = replace(TOY, order=(0,) * 6)
    assert steps(spec, toy=toy) == steps(spec, toy=toy, shortcuts=toys.UNFOLDED)


def test_an_unequal_layer_between_equal_ones_is_simulated() -> None:
    wide = Layer(linears=(Linear(name=".up", rows=800, columns=200), Linear(name=".down", rows=200, columns=800)))
    toy = Toy(kinds=(Layer(), wide), order=(0, 0, 1, 0, 0, 1, 0, 0))
    folded = steps(toys.gptq(), toy=toy)
    assert folded == steps(toys.gptq(), toy=toy, shortcuts=toys.UNFOLDED)
    found = gpu(folded)
    assert (
        found["compress", "model.layers.2"] == found["compress", "model.layers.5"] > found["compress", "model.layers.4"]
    )
