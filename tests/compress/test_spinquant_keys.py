"""SpinQuant's R3: keys are rotated in every forward, by one matrix as wide as a head, and queries are passed by."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from planner.compress.binding import make_program
from planner.compress.context import Context
from planner.compress.modifiers.spinquant import SpinQuantSpec
from planner.compress.oneshot import simulate
from planner.compress.recipes import load_recipe
from planner.errors import RecipeError
from planner.models.graph import ModelGraph
from planner.recipe.specs import Recipe
from tests import toys
from tests.built import graph_of
from tests.compress.walked import births, with_events
from tests.measured.cases import CONFIGS

SMALL: dict[str, Any] = {"layers": 2, "seq_len": 64, "batch_size": 2, "samples": 6}
HEADS, WIDTH = 8, 128
KEYS = 2 * 64 * HEADS * WIDTH
"""Numbers in the keys of a batch of Llama-3-8B."""
MATRIX = WIDTH * WIDTH * 8


def recipe(fields: str = "{rotations: [R3]}", after: str = "{targets: [Linear], scheme: W8A8}") -> Recipe:
    return load_recipe(
        f"a_stage:\n  a_modifiers:\n    SpinQuantModifier: {fields}\n    QuantizationModifier: {after}\n"
    )


STATIC = "{targets: [Linear], scheme: FP8, ignore: [lm_head]}"


def graph(**options: Any) -> ModelGraph:
    return graph_of("llama-3-8b", toys.job(**{**SMALL, **options}))


def walked(which: Recipe, **options: Any) -> Context:
    return with_events(graph(**options), which, toys.job(**{**SMALL, **options}))


def taken(context: Context, role: str) -> Iterator[tuple[str, int]]:
    """(module, bytes) of all that is taken in this role on the GPU."""
    return ((owner.name, size) for owner, size in births(context) if owner.role == role)


def test_each_attention_gets_rotated_keys_of_their_own_type_by_way_of_float64() -> None:
    context, passes = walked(recipe(after=STATIC)), 2  # calibrate and propagate
    rotated = list(taken(context, "rotated rotated"))
    names = {f"model.layers.{n}.self_attn.kv_cache.key" for n in range(2)}
    assert {name for name, _ in rotated} == names
    assert [size for _, size in rotated] == [KEYS * 2] * (2 * 3 * passes)
    for step in ("value", "product", "quotient"):
        assert {size for _, size in taken(context, f"rotated {step}")} == {KEYS * 8}


@pytest.mark.parametrize(("batch", "copies"), [(2, True), (1, False)])
def test_keys_of_several_samples_are_laid_out_anew_for_the_product(batch: int, copies: bool) -> None:
    context = walked(recipe(after=STATIC), batch_size=batch)
    assert bool(list(taken(context, "rotated value in order"))) is copies


def test_in_a_last_batch_of_one_sample_keys_are_rotated_as_they_lie() -> None:
    copies = list(taken(walked(recipe(after=STATIC), samples=3), "rotated value in order"))
    assert len(copies) == 2 * 2  # layers and passes, each in the batch of two samples alone


def test_the_rotated_keys_take_the_place_of_the_others() -> None:
    both = []
    for which in (recipe(after=STATIC), recipe("{rotations: []}", STATIC)):
        job = toys.job(**SMALL)
        program, _ = make_program(graph(), which, job)
        steps = simulate(program, Context(job)).steps
        both.append({s.subgraph: s.gpu for s in steps if s.phase == "calibrate"})
    with_r3, without = both
    assert with_r3[2].end - without[2].end == MATRIX
    assert with_r3[1].end == without[1].end


def test_its_matrix_lies_on_the_cpu_once_with_two_scales_for_each_attention() -> None:
    ends = []
    for rotations in ("R3", ""):
        job = toys.job(**SMALL)
        program, _ = make_program(graph(), recipe(f"{{rotations: [{rotations}]}}", STATIC), job)
        ends.append(simulate(program, Context(job)).steps[-1].cpu.end)
    assert ends[0] - ends[1] == MATRIX + 2 * 2 * 8


def test_who_reads_the_plan_is_told_that_queries_are_left_out() -> None:
    job = toys.job(**SMALL)
    _, notes = make_program(graph(), recipe(after=STATIC), job)
    assert [note.text for note in notes if note.kind == "result" and "R3 rotates keys alone" in note.text]
    _, notes = make_program(graph(), recipe("{rotations: [R1]}", STATIC), job)
    assert not [note for note in notes if "R3" in note.text]


def test_heads_without_a_hadamard_matrix_are_refused() -> None:
    model = graph()
    facts, modules = replace(model.facts, head_dim=96), model.module_refs()
    with pytest.raises(RecipeError, match=r"a hadamard matrix of 96 \(the heads of model\.layers\.0\.self_attn\)"):
        SpinQuantSpec.read({"rotations": ["R3"]}, "spin").within(facts, modules, ())
    with pytest.raises(RecipeError, match="does not say how wide a head is"):
        SpinQuantSpec.read({"rotations": ["R3"]}, "spin").within(replace(facts, head_dim=0), modules, ())
    with pytest.raises(RecipeError, match="its text_config alone says so"):
        nested = replace(facts, head_dim=64, is_head_dim_nested=True)
        SpinQuantSpec.read({"rotations": ["R3"]}, "spin").within(nested, modules, ())
    with pytest.raises(RecipeError, match="LLM Compressor wants a head_dim for q_attn"):
        SpinQuantSpec.read({"rotations": ["R3"]}, "spin").within(replace(facts, head_dim=None), modules, ())
    SpinQuantSpec.read({"rotations": ["R3"], "transform_block_size": 32}, "spin").within(model.facts, modules, ())


def test_heads_that_differ_by_layer_are_refused_as_the_library_refuses_them() -> None:
    """compressed_tensors utils/helpers.py get_head_dim asks gemma4's config for the one width that it has not."""
    model = graph_of(str(CONFIGS / "gemma4.json"), toys.job(**SMALL))
    for rotations in (["R3"], ["R4"]):
        with pytest.raises(RecipeError, match="does not say how wide a head is"):
            SpinQuantSpec.read({"rotations": rotations}, "spin").within(model.facts, model.module_refs(), ())


def test_its_matrix_is_saved_once() -> None:
    model = graph()
    spec = SpinQuantSpec.read({"rotations": ["R3"]}, "spin").within(model.facts, model.module_refs(), ())
    (saved,) = spec.added(model.module_refs())
    assert saved == ("model.layers.0.self_attn.R3_q_attn.weight", "F64", (WIDTH, WIDTH))
