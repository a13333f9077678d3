"""Layers that AutoRound trains while other modifiers' transforms are in them: what a trace of the training shows."""

from math import prod
from typing import Any

import pytest

from planner.compress.binding import make_program
from planner.compress.context import EVERYTHING, Context
from planner.compress.oneshot import simulate
from planner.compress.program import Program
from planner.compress.recipes import load_recipe
from planner.errors import RecipeError, UnsupportedError
from planner.models.tuned import TunedBlock
from planner.recipe.specs import Recipe
from planner.sizing.saved import saved_tensors
from tests import toys
from tests.built import graph_of
from tests.compress.walked import births, with_events

SMALL: dict[str, Any] = {"layers": 3, "seq_len": 32, "samples": 4}
HIDDEN, MLP, HEAD = 1024, 3072, 128
ROWS = 4 * 32
QUIP = "QuIPModifier: {rotations: [v, u], transform_block_size: 128}"
R1 = "SpinQuantModifier: {rotations: [R1]}"
R3, R4 = "SpinQuantModifier: {rotations: [R3]}", "SpinQuantModifier: {rotations: [R4], transform_type: random-hadamard}"


def recipe(first: str, scheme: str = "W4A16", iters: int = 3) -> Recipe:
    fields = f"targets: [Linear], scheme: {scheme}, ignore: [lm_head], iters: {iters}, enable_torch_compile: false"
    return load_recipe(f"a_stage:\n  a_modifiers:\n    {first}\n    AutoRoundModifier: {{{fields}}}\n")


def program(which: Recipe, **options: Any) -> Program:
    job = toys.job(**{**SMALL, **options})
    return make_program(graph_of("qwen3-0.6b", job), which, job)[0]


def trained(which: Recipe, **options: Any) -> TunedBlock:
    return program(which, **options).tuned["model.layers.1"]


def left_there(block: TunedBlock) -> tuple[int, ...]:
    """Bytes of what other modifiers left in the layer."""
    return tuple(block.weights[matrix.number] for matrix in block.rotations)


def wide(events: Any, module: str) -> list[tuple[str, tuple[int, ...]]]:
    """Operators with results in fp64 that run in this module."""
    return [(e.operator, e.dims) for e in events if e.kind == "alloc" and e.dtype == "float64" and e.module == module]


def test_inputs_are_rotated_forward_and_back_in_every_iteration() -> None:
    block, name = trained(recipe(R4)), ".mlp.down_proj.R4_input"
    forward = [("to_copy", (4, 32, MLP)), ("mm", (ROWS, MLP)), ("div", (4, 32, MLP))]
    assert wide(block.reference[0], name) == forward
    assert wide(block.iteration, name)[:3] == forward
    assert wide(block.collect[0], name) == forward
    gradients = [dims for operator, dims in wide(block.iteration, ".") if operator == "mm"]
    assert gradients == [(ROWS, MLP)]  # autocast leaves double alone


@pytest.mark.parametrize(
    ("first", "matrices"),
    [(R3, [HEAD] * 2), (R4, [MLP]), (QUIP, [128] * 14), ("SpinQuantModifier: {rotations: [R1, R2]}", [])],
)
def test_each_transform_of_a_trained_layer_has_a_matrix_of_its_own(first: str, matrices: list[int]) -> None:
    block = trained(recipe(first))
    assert sorted(left_there(block)) == sorted(side * side * 8 for side in matrices)
    assert len(block.weights) == len(trained(recipe("QuIPModifier: {rotations: []}")).weights) + len(matrices)


def test_a_permuted_matrix_is_gathered_anew_in_every_product_of_a_trained_layer() -> None:
    apply = [f"{{targets: Linear, location: {where}, ignore: lm_head}}" for where in ("input", "weight_input")]
    fields = f"type: random-hadamard, precision: float16, apply: [{', '.join(apply)}]"

    def block(more: str) -> TunedBlock:
        return trained(recipe(f"QuIPModifier: {{transform_config: {{config_groups: {{v: {{{fields}{more}}}}}}}}}"))

    whole, permuted, name = block(""), block(", randomize: true"), ".mlp.down_proj.v_input"

    def gathered(which: TunedBlock) -> list[tuple[int, ...]]:
        found = (
            e for e in which.iteration if e.kind == "alloc" and e.module == name and e.operator.startswith("index")
        )
        return [event.dims for event in found]

    assert (gathered(whole), gathered(permuted)) == ([], [(MLP, MLP)] * 2)
    assert sum(left_there(permuted)) - sum(left_there(whole)) == 8 * (5 * HIDDEN + 2 * HIDDEN + MLP)
    assert len(permuted.weights) - len(whole.weights) == 7


BLOCKS = "QuIPModifier: {transform_config: {config_groups: {a: {type: hadamard, head_dim: 64, apply: [%s]}}}}"


@pytest.mark.parametrize(
    ("targets", "location", "name", "width"),
    [
        ("mlp", "input", ".mlp.a_input", HIDDEN),
        (r"layers\.\d+", "output", ".a_output", HIDDEN),
        ("q_norm", "input", ".self_attn.q_norm.a_input", 2 * HIDDEN),
    ],
)
def test_norms_blocks_and_the_layer_itself_are_rotated_while_it_is_trained(
    targets: str, location: str, name: str, width: int
) -> None:
    block = trained(recipe(BLOCKS % f"{{targets: 're:.*{targets}$', location: {location}}}"))
    assert left_there(block) == (64 * 64 * 4,)
    made = (event for event in block.iteration if event.kind == "alloc" and event.module == name)
    assert {event.bytes for event in made if event.dtype == "float32"} == {ROWS * width * 4}


def test_auto_round_calls_a_layer_by_keywords_past_which_no_hook_on_its_input_reads() -> None:
    with pytest.raises(RecipeError, match=r"AutoRound calls model\.layers\.0 with keyword arguments: .*IndexError"):
        program(recipe(BLOCKS % r"{targets: 're:.*layers\.\d+$', location: input}"))


@pytest.mark.parametrize(("first", "is_followed"), [(R4, False), (QUIP, False), (R1, True)])
def test_in_float16_matrices_of_hooks_would_be_cast_with_the_layer_and_are_not_followed(
    first: str, is_followed: bool
) -> None:
    """auto_round context/model.py `_set_amp_dtype`: what is in weights alone leaves no matrix there."""
    if is_followed:
        assert not trained(recipe(first), dtype="float16").rotations
        return
    with pytest.raises(UnsupportedError, match=r"casts layers of --dtype float16 to bfloat16") as refused:
        program(recipe(first), dtype="float16")
    assert "\n" not in str(refused.value)


def test_queries_stay_as_they_are_and_keys_do_not() -> None:
    block = trained(recipe(R3))
    assert not wide(block.reference[0], ".self_attn.R3_q_attn")
    assert wide(block.reference[0], ".self_attn.R3_k_cache")[0] == ("to_copy", (4, 8, 32, HEAD))


def test_outputs_are_rotated_but_for_those_of_a_linear_that_quantizes_its_input_once_it_is_trained() -> None:
    """auto_round wrapper.py WrapperWALayer calls its Linear's forward, past what is hooked behind it."""
    name = ".mlp.up_proj.u_output"
    assert wide(trained(recipe(QUIP)).collect[0], name)
    quantized = trained(recipe(QUIP, "FP8"))
    assert wide(quantized.reference[0], name)
    assert not wide(quantized.collect[0], name)
    assert wide(quantized.collect[0], ".mlp.up_proj.v_input")


def test_a_layer_that_is_rounded_without_training_is_rotated_while_samples_pass() -> None:
    block = trained(recipe(QUIP, iters=0))
    assert wide(block.observed[0], ".mlp.down_proj.v_input")


@pytest.mark.parametrize(
    ("name", "location", "width"),
    [
        ("down_proj", "input", MLP),
        ("down_proj", "output", HIDDEN),
        ("act_fn", "input", MLP),
        ("self_attn", "k_cache", 8 * HEAD),
    ],
)
def test_two_hooks_of_one_group_on_one_place_both_run_and_the_module_has_one_matrix(
    name: str, location: str, width: int
) -> None:
    """factory/base.py gives both one name; `suspend_offloading` finds the later one alone."""

    def group(times: int) -> Recipe:
        at = f"{{targets: 're:.*{name}$', location: {location}}}"
        fields = f"{{type: hadamard, head_dim: 64, precision: float64, apply: [{', '.join([at] * times)}]}}"
        return recipe(f"QuIPModifier: {{transform_config: {{config_groups: {{a: {fields}}}}}}}")

    def made(block: TunedBlock) -> list[int]:
        """Numbers in what is made in fp64."""
        return [prod(e.dims) for e in block.reference[0] if e.kind == "alloc" and e.dtype == "float64"]

    once, twice = trained(group(1)), trained(group(2))
    assert set(made(once)) == set(made(twice)) == {ROWS * width}
    assert len(made(twice)) in (2 * len(made(once)), 2 * len(made(once)) - 1), "keys lie in order after the first time"
    assert left_there(once) == left_there(twice) == (64 * 64 * 8,)


def test_two_hooks_on_one_place_run_over_several_gpus_too() -> None:
    """Their matrices are on the first one, as on PyTorch's CUDA build (tests/measured/autoround.py)."""
    fields = "scheme: W4A16, targets: [Linear], ignore: [lm_head], iters: 3, enable_torch_compile: false"
    at = "{targets: 're:.*act_fn$', location: input}"

    def products(times: int, cards: str) -> list[tuple[str, int]]:
        first = BLOCKS.replace("hadamard,", "hadamard, precision: float64,") % ", ".join([at] * times)
        text = f"a_stage:\n  a_modifiers:\n    {first}\n    AutoRoundModifier: {{{fields}{cards}}}\n"
        events = trained(load_recipe(text)).reference[0]
        return [(e.operator, e.card) for e in events if e.kind == "alloc" and e.dtype == "float64"]

    one, two = products(1, ', device_ids: "0,1"'), products(2, ', device_ids: "0,1"')
    assert two == 2 * one == products(2, "")
    assert {card for _, card in two} == {0}


@pytest.mark.parametrize(("name", "location"), [("down_proj", "input"), ("act_fn", "output"), ("self_attn", "k_cache")])
def test_of_two_modifiers_hooks_of_one_name_on_one_place_both_run_and_the_module_has_the_later_ones_matrix(
    name: str, location: str
) -> None:
    at = f"{{targets: 're:.*{name}$', location: {location}}}"

    def staged(*sizes: int) -> Recipe:
        groups = (f"{{type: hadamard, head_dim: {n}, precision: float64, apply: [{at}]}}" for n in sizes)
        stages = [f"QuIPModifier: {{transform_config: {{config_groups: {{a: {group}}}}}}}" for group in groups]
        first = "".join(f"s{n}_stage:\n  a_modifiers:\n    {each}\n" for n, each in enumerate(stages))
        fields = "targets: [Linear], scheme: W4A16, ignore: [lm_head], iters: 3, enable_torch_compile: false"
        return load_recipe(f"{first}    AutoRoundModifier: {{{fields}}}\n")

    def products(block: TunedBlock) -> int:
        return sum(e.kind == "alloc" and e.dtype == "float64" and e.operator == "div" for e in block.reference[0])

    later, both = trained(staged(32)), trained(staged(64, 32))
    assert (products(later), products(both)) == (1, 2)
    assert left_there(later) == left_there(both) == (32 * 32 * 8,)


def test_a_later_modifier_has_hooked_nothing_yet_where_each_has_its_own_pipeline() -> None:
    fields = "targets: [Linear], scheme: W4A16, ignore: [lm_head], iters: 3, enable_torch_compile: false"
    after = load_recipe(f"a_stage:\n  a_modifiers:\n    AutoRoundModifier: {{{fields}}}\n    {R3}\n")
    assert not trained(after).rotations
    assert trained(after, pipeline="sequential").rotations


def test_saved_files_that_hang_on_the_pipeline_have_keys_that_say_so() -> None:
    """What a pipeline of its own hooks after the training keeps one matrix for all."""
    group = "{type: hadamard, head_dim: 64, apply: [{targets: 're:.*down_proj$', location: input}]}"
    quip = f"QuIPModifier: {{transform_config: {{config_groups: {{a: {group}}}}}}}"
    fields = "AutoRoundModifier: {targets: [Linear], scheme: W4A16, ignore: [lm_head], iters: 0}"
    which = load_recipe(f"a_stage:\n  a_modifiers:\n    {fields}\n    {quip}\n")
    found = {}
    for pipeline in ("independent", "sequential"):
        job = toys.job(**SMALL, pipeline=pipeline)
        graph = graph_of("qwen3-0.6b", job)
        tensors = saved_tensors(graph, make_program(graph, which, job)[0], job)
        found[job.decides_saved] = sum(".a_input" in tensor.name for tensor in tensors)
    assert list(found.values()) == [1, SMALL["layers"]]


def test_matrices_that_were_one_are_one_for_each_on_the_cpu_afterwards() -> None:
    job, ends = toys.job(**SMALL), []
    for first in (R4, R1):
        steps = simulate(program(recipe(first)), Context(job)).steps
        ends.append([s.cpu.end for s in steps if s.phase == "compress" and s.subgraph])
    grown = [with_r4 - without for with_r4, without in zip(*ends, strict=True)]
    matrix, r1 = MLP * MLP * 8, HIDDEN * HIDDEN * 8
    assert [more - grown[0] for more in grown] == [0, matrix, 2 * matrix, 3 * matrix]
    assert grown[0] == matrix + 3 * 8 - r1


def test_matrices_that_lie_on_the_gpu_are_one_for_each_there_once_a_layer_is_trained() -> None:
    """And the one that all shared lies on the CPU: `module.to` took the parameter of all there."""
    job, ends = toys.job(**SMALL, weights="gpu"), []
    for first in (R4, R1):
        steps = simulate(program(recipe(first), weights="gpu"), Context(job)).steps
        ends.append([(s.gpu.end, s.cpu.end) for s in steps if s.phase == "compress" and s.subgraph])
    gpu, cpu = zip(*([a - b for a, b in zip(*each, strict=True)] for each in zip(*ends, strict=True)), strict=True)
    matrix, r1 = MLP * MLP * 8, HIDDEN * HIDDEN * 8
    onloaded = matrix  # of the last layer's calibration, until the pipeline is finished
    assert gpu == (matrix - r1, matrix - r1, 2 * matrix - r1, 3 * matrix + onloaded - r1)
    assert cpu == (3 * 8, *[matrix + 3 * 8] * 3)


def test_a_matrix_on_the_cpu_is_onloaded_beside_weights_on_the_gpu_for_each_hook_that_is_trained() -> None:
    """The activation function has no weights, so that its matrix waits on the CPU wherever they lie."""
    at = [f"{{targets: 're:.*act_fn$', location: {where}}}" for where in ("input", "output")]
    job, size = toys.job(**SMALL, weights="gpu"), 64 * 64 * 4
    context = with_events(graph_of("qwen3-0.6b", job), recipe(BLOCKS % ", ".join(at)), job)
    onloaded = [owner.name for owner, nbytes in births(context, "gpu") if nbytes == size and not owner.role]
    copies = [name for name in onloaded if "weights while it is trained" in name]
    assert len(copies) == 2 * SMALL["layers"]
    assert onloaded.count("a matrix of 64") == SMALL["layers"], "calibration onloads the one that hooks share"


@pytest.mark.parametrize("weights", ["cpu", "gpu"])
def test_folding_changes_no_figure(weights: str) -> None:
    options = {**SMALL, "layers": 5, "weights": weights}
    job, which = toys.job(**options), program(recipe(R4), **options)
    folded, whole = (simulate(which, Context(job, shortcuts=shortcuts)).steps for shortcuts in (None, EVERYTHING))
    assert [(s.gpu.bytes, s.gpu.end, s.cpu.bytes, s.cpu.end) for s in folded] == [
        (s.gpu.bytes, s.gpu.end, s.cpu.bytes, s.cpu.end) for s in whole
    ]
