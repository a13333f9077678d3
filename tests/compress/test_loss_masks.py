"""Loss masks: where they lie, and what AWQ does with them."""

from dataclasses import replace
from typing import Any

import pytest

from planner.compress.binding import make_program
from planner.compress.context import Context
from planner.compress.modifiers.awq import AwqSpec
from planner.compress.oneshot import simulate
from planner.compress.program import StepMemory
from planner.compress.recipes import load_recipe
from planner.errors import UnsupportedError
from planner.job import Job
from planner.models.graph import ModelGraph
from planner.notes import Note
from planner.recipe.specs import Recipe
from tests import toys
from tests.built import graph_of

SMALL: dict[str, Any] = {"layers": 2, "seq_len": 128, "batch_size": 2, "samples": 5}
MASKS = 5 * 128 * 8
"""int64, one for each token of each sample."""


def llama() -> ModelGraph:
    return graph_of("llama-3-8b", toys.job(**SMALL))


def walked(recipe: str | Recipe = "rtn_w8a8_static", **changes: Any) -> list[tuple[StepMemory, StepMemory]]:
    """Every step without loss masks beside the same step with them."""
    both = []
    for job in (toys.job(**SMALL, **changes), toys.job(**SMALL, **changes, loss_mask=True)):
        program, _ = make_program(llama(), load_recipe(recipe) if isinstance(recipe, str) else recipe, job)
        both.append(simulate(program, Context(job)).steps)
    return list(zip(*both, strict=True))


def more_on_gpu(steps: list[tuple[StepMemory, StepMemory]], phase: str) -> set[int]:
    return {masked.gpu.end - plain.gpu.end for plain, masked in steps if plain.phase == phase}


def test_the_masks_of_all_batches_lie_on_the_gpu_from_the_cache_on_until_the_process_ends() -> None:
    steps = walked()
    assert more_on_gpu(steps, "setup") == {0}
    assert more_on_gpu(steps, "prepare") == more_on_gpu(steps, "propagate") == more_on_gpu(steps, "save") == {MASKS}


def test_a_second_pipeline_has_its_own_list_and_the_first_one_goes() -> None:
    steps = walked("smoothquant_w8a8")
    assert [plain.phase for plain, _ in steps].count("prepare") > 1
    assert more_on_gpu(steps, "prepare") == more_on_gpu(steps, "save") == {MASKS}


def test_a_cache_on_the_gpu_has_them_already_and_they_outlive_it() -> None:
    steps = walked(offload_device="gpu")
    assert more_on_gpu(steps, "calibrate") == more_on_gpu(steps, "save") == {MASKS}


def test_the_basic_pipeline_keeps_them_on_the_cpu() -> None:
    steps = walked(pipeline="basic", weights="gpu")
    assert more_on_gpu(steps, "save") == {0}
    assert {masked.cpu.end - plain.cpu.end for plain, masked in steps if plain.phase == "save"} == {2 * MASKS}


def test_samples_sample_input_and_cache_each_have_theirs_on_the_cpu() -> None:
    (plain, masked) = next(pair for pair in walked() if pair[0].phase == "prepare")
    assert masked.cpu.end - plain.cpu.end == MASKS + 2 * 128 * 8 + MASKS


def test_awq_copies_what_a_mask_marks_before_it_looks_at_it() -> None:
    (plain, masked) = next(
        pair for pair in walked("awq_w4a16") if (pair[0].phase, pair[0].subgraph) == ("calibrate", 2)
    )
    rows, wide = 2 * 128, 14336
    in_fp32_at_the_peak = rows * wide * 2
    assert masked.gpu.bytes - plain.gpu.bytes == MASKS + in_fp32_at_the_peak


def notes_of(model: str, **options: Any) -> list[Note]:
    job = Job(**{"layers": 1, "seq_len": 64, "samples": 2, "loss_mask": True, **options})
    _, notes = make_program(graph_of(model, job), load_recipe("awq_w4a16"), job)
    return list(notes)


def test_a_mapping_between_an_experts_own_layers_ends_the_job() -> None:
    fails = [note.text for note in notes_of("qwen3-30b-a3b") if note.kind == "fails"]
    assert [text for text in fails if "loss masks of 1 x 64 do not fit" in text and "down_proj" in text]


def test_experts_that_see_some_tokens_end_it_too() -> None:
    assert [n for n in notes_of("qwen3-30b-a3b", calibrate_all_experts=False) if "loss masks" in n.text]


def test_dense_models_are_planned_with_every_token_marked() -> None:
    notes = [note for note in notes_of("llama-3-8b") if "loss masks" in note.text]
    assert [note.kind for note in notes] == ["job"]


def test_where_no_forward_runs_no_mask_is_looked_at() -> None:
    assert not [note for note in notes_of("llama-3-8b", pipeline="datafree") if "loss masks" in note.text]


def test_in_the_basic_pipeline_awq_keeps_the_masks_among_the_arguments_of_attention() -> None:
    """One tensor for each batch, whoever has it: the copy that the forward was called with."""
    both = walked("awq_w4a16", pipeline="basic", weights="gpu")
    (plain, masked) = next(pair for pair in both if pair[0].phase == "calibrate")
    assert masked.gpu.end - plain.gpu.end == MASKS


def test_there_an_offload_device_has_one_copy_for_all_layers() -> None:
    recipe = load_recipe("awq_w4a16")
    first = recipe.modifiers[0]
    assert isinstance(first, AwqSpec)
    waiting = replace(recipe, modifiers=(replace(first, offload_device="cpu"), *recipe.modifiers[1:]))
    (plain, masked) = next(
        pair for pair in walked(waiting, pipeline="basic", weights="gpu") if pair[0].phase == "calibrate"
    )
    with_the_samples_and_the_state = 3 * MASKS
    assert masked.cpu.end - plain.cpu.end == with_the_samples_and_the_state


def test_a_forward_that_takes_no_mask_ends_the_basic_pipeline() -> None:
    def refuse(keyword: str) -> frozenset[str]:
        raise UnsupportedError(f"its forward does not run: no '{keyword}' is wanted") from TypeError(keyword)

    job = Job(layers=1, seq_len=64, samples=2, loss_mask=True, pipeline="basic", weights="gpu")
    graph = replace(graph_of("llama-3-8b", job), receivers=refuse)
    _, notes = make_program(graph, load_recipe("awq_w4a16"), job)
    (note,) = (note for note in notes if note.kind == "fails")
    assert "no 'loss_mask' is wanted" in note.text


def test_a_forward_that_fails_for_another_reason_leaves_them_uncounted() -> None:
    def fail(keyword: str) -> frozenset[str]:
        raise UnsupportedError("an unexpected keyword is not the reason") from ValueError(keyword)

    job = Job(layers=1, seq_len=64, samples=2, loss_mask=True, pipeline="basic", weights="gpu")
    graph = replace(graph_of("llama-3-8b", job), receivers=fail)
    _, notes = make_program(graph, load_recipe("awq_w4a16"), job)
    assert not [note for note in notes if note.kind == "fails"]
    assert [note for note in notes if "loss masks among its parents' arguments; not counted" in note.text]


def test_where_nobody_knows_who_is_passed_them_they_are_said_to_be_uncounted() -> None:
    job = Job(layers=1, seq_len=64, samples=2, loss_mask=True, pipeline="basic", weights="gpu")
    graph = replace(graph_of("llama-3-8b", job), receivers=None)
    _, notes = make_program(graph, load_recipe("awq_w4a16"), job)
    (note,) = (note for note in notes if "not counted" in note.text)
    assert note.kind == "estimate"
    assert "1.000 KiB at most" in note.text  # 2 samples, 64 tokens, 8 bytes


@pytest.mark.parametrize("recipe", ["gptq_w4a16", "rtn_w8a8_static"])
def test_other_modifiers_say_nothing_of_masks(recipe: str) -> None:
    spec = load_recipe(recipe).modifiers[0]
    assert not isinstance(spec, AwqSpec)
    assert list(spec.masked([("any", 1, (1, 1))], 1, 64)) == []
