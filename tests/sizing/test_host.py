"""RAM of toy jobs in round numbers: what each way of loading, writing and saving holds."""

from dataclasses import replace
from typing import Any

import pytest

from planner.compress.binding import make_program
from planner.compress.host_schema import Host, HostPhase, HostSetting, Loading
from planner.compress.modifiers.quip import QuIPSpec
from planner.compress.program import Program
from planner.compress.recipes import load_recipe
from planner.planning import plan_graph
from planner.recipe.specs import Recipe
from planner.sizing.host import ORDER, host_of
from planner.sizing.host_constants import HostConstants
from planner.sizing.host_facts import HostModel, host_model, next_power_of_two
from planner.sizing.host_save import SaveMoment, save_moments
from planner.sizing.machine import with_machine
from planner.sizing.weight_pages import WeightPages, WeightWalk
from tests import toys
from tests.built import graph_of

NOTHING = HostConstants(
    **dict.fromkeys(HostConstants.model_fields, 0) | {"fault_bytes": 2**40, "heap_block": 1, "shard": 2**40}
)
"""A process without libraries, a malloc that keeps nothing, and reads that bring in all of an embedding."""
TOY = toys.Toy()
LAYER, EMBEDDING, WEIGHTS = TOY.layer(0).weight_bytes(2), TOY.embedding, TOY.weight_bytes


def host(*specs: Any, toy: toys.Toy = TOY, loading: Any = None, constants: Any = NOTHING, **setting: Any) -> Host:
    job, recipe = toys.job(), toys.recipe(*specs)
    plan = plan_graph(toy.graph, recipe, job, without_gpu=True)
    model = host_model(toy.graph, make_program(toy.graph, recipe, job)[0], job)
    loading = Loading(**(loading or {}))
    return host_of(plan, model, loading, HostSetting(gpu=False) if not setting else HostSetting(**setting), constants)


def bound(recipe: Recipe) -> Program:
    return make_program(TOY.graph, recipe, toys.job())[0]


def phase(found: Host, name: str) -> HostPhase:
    return next(each for each in found.phases if each.phase == name)


def walk(model: HostModel, dtype: Any = "bfloat16", **loading: Any) -> WeightWalk:
    how = Loading(**loading)
    return WeightWalk(model=model, loading=how, mode=how.mode(dtype), dtype=dtype, constants=NOTHING)


def model(*specs: Any, **changes: Any) -> HostModel:
    return replace(host_model(TOY.graph, bound(toys.recipe(*specs)), toys.job()), **changes)


def saved(*specs: Any) -> SaveMoment:
    """The moment of writing, of a checkpoint that is mapped."""
    pages = walk(model(*specs))
    return save_moments(pages, pages.after(everything=False), repacks=False, gpu=False)[-1]


# ---------------------------------------------------------------------- the record
@pytest.mark.parametrize("spec", [toys.static_rtn(), toys.gptq(), toys.sparsegpt(), toys.rtn()], ids=lambda s: s.type)
def test_parts_of_a_phase_sum_to_what_is_resident(spec: Any) -> None:
    for each in host(spec, constants=HostConstants()).phases:
        assert sum(each.parts.values()) == each.resident_bytes >= each.must_have_bytes


def test_phases_come_in_the_order_of_the_job_and_peaks_are_the_highest_of_them() -> None:
    found = host(toys.gptq(), generates=True, gpu=False)
    names = [each.phase for each in found.phases]
    assert names == [name for name in ORDER if name in names]
    assert found.peak_resident_bytes == max(each.resident_bytes for each in found.phases)
    assert found.peak_must_have_bytes == phase(found, found.peak_must_have_phase).must_have_bytes


def test_a_step_is_remembered_that_the_plan_has_in_that_phase() -> None:
    plan = plan_graph(TOY.graph, toys.recipe(toys.gptq()), toys.job(), without_gpu=True)
    for each in host(toys.gptq()).phases:
        assert each.step is not None and plan.steps[each.step].phase == each.phase


# ---------------------------------------------------------------------- loading
def test_a_checkpoint_of_the_same_type_costs_nothing_to_load_and_is_all_there_when_it_is_saved() -> None:
    found = host(toys.static_rtn())
    assert phase(found, "load").resident_bytes == 0
    assert saved(toys.static_rtn()).pages.mapped == WEIGHTS


def test_what_is_mapped_is_no_part_of_what_a_job_must_have() -> None:
    found = phase(host(toys.static_rtn()), "finalize")
    assert found.resident_bytes - found.must_have_bytes == found.parts["mapped checkpoint"] > 0


@pytest.mark.parametrize(("dtype", "times"), [("float16", 1), ("float32", 2)])
def test_a_cast_holds_the_file_and_its_copy_while_it_loads_and_the_copy_ever_after(dtype: Any, times: int) -> None:
    facts = model(toys.static_rtn(), weight_bytes=times * WEIGHTS)
    cast = walk(facts, dtype, checkpoint_dtype="bfloat16")
    assert cast.load() == WeightPages(mapped=WEIGHTS, copies=times * WEIGHTS)
    assert cast.during(2, writes=True) == cast.after(everything=True) == WeightPages(copies=times * WEIGHTS)


def test_without_mmap_one_file_lies_beside_all_the_weights_that_were_made() -> None:
    pages = walk(model(toys.static_rtn()), mmap=False, files=4).load()
    assert pages == WeightPages(copies=WEIGHTS + WEIGHTS // 4)


def test_experts_that_are_converted_are_there_twice_while_loading_and_thrice_while_they_become_linears() -> None:
    mixture = walk(model(experts_bytes=90_000, layer_experts_bytes=30_000, is_converted=True))
    assert mixture.load() == WeightPages(mapped=90_000, copies=90_000 + 20_000)
    assert mixture.setup() == WeightPages(mapped=90_000, copies=2 * 90_000)
    assert mixture.before() == WeightPages(mapped=90_000, copies=90_000)


def test_linear_experts_from_the_start_cost_neither() -> None:
    mixture = walk(model(experts_bytes=90_000, layer_experts_bytes=30_000, is_converted=False))
    assert mixture.load() == mixture.setup() == WeightPages()


def test_auto_offload_fills_its_budget_in_the_order_of_the_model_and_keeps_room_for_a_layer() -> None:
    held = walk(model(toys.static_rtn()), available_ram_bytes=EMBEDDING + 3 * LAYER - 1, extra_cpu_bytes=0)
    assert held.mode == "auto offload"
    assert held.on_disk == {"model.layers.1", "model.layers.2", "model.norm", "lm_head"}
    assert held.offloaded == WEIGHTS - EMBEDDING - LAYER


def test_a_layer_on_disk_is_there_while_it_runs() -> None:
    held = walk(model(toys.static_rtn()), available_ram_bytes=EMBEDDING + 3 * LAYER - 1, extra_cpu_bytes=0)
    kept = held.after(everything=False).mapped
    assert kept == pytest.approx(EMBEDDING + LAYER, abs=1)
    assert held.during(2, writes=False).mapped == kept + LAYER


def test_loading_reads_the_first_pages_of_each_large_weight() -> None:
    pages = replace(walk(model(toys.static_rtn())), constants=NOTHING.model_copy(update={"fault_bytes": 65_536}))
    assert pages.load().mapped == 6 * 65_536  # two Linears of 160,000 bytes in each of three layers


def test_the_embedding_is_read_by_the_windows_that_tokens_fall_into() -> None:
    facts = model(embedding_bytes=1000, tokens=5)
    assert facts.embedding_read(1000) == 993  # one window, five draws: read but for 1 in 148
    assert facts.embedding_read(1) == 4  # at most five rows of one byte
    assert replace(facts, tokens=10**6).embedding_read(1) == 1000


# ---------------------------------------------------------------------- writing
def test_written_weights_are_pages_that_the_kernel_can_no_longer_drop() -> None:
    read, wrote = saved(toys.static_rtn()).pages, saved(toys.gptq()).pages
    assert (read.mapped, read.written) == (WEIGHTS, 0)
    assert (wrote.mapped, wrote.written) == (WEIGHTS - 3 * LAYER, 3 * LAYER)


def test_a_layer_is_written_when_it_is_compressed_and_not_while_it_is_calibrated() -> None:
    pages = walk(model(toys.gptq()))
    before, after = pages.during(2, writes=False), pages.during(2, writes=True)
    assert (before.written, after.written) == (LAYER, 2 * LAYER)
    assert before.mapped + before.written == after.mapped + after.written


def test_what_a_transform_multiplies_is_written_before_the_first_sample() -> None:
    """As the hostmeter saw: after QuIP's setup the Linears of qwen3-0.6b are anonymous pages, after SpinQuant's all."""
    apply = [{"targets": "re:.*layers.*(up|down)$", "location": "weight_input"}]
    groups = {"a": {"type": "hadamard", "head_dim": 4, "apply": apply}}
    rotated = QuIPSpec.read({"transform_config": {"config_groups": groups}}, "quip")
    facts = model(rotated, toys.static_rtn())
    assert facts.written_first == facts.written_bytes
    pages = walk(facts)
    assert pages.setup().written == pages.before().written == facts.written_first >= 3 * LAYER
    first = pages.during(0, writes=False)
    assert first.written == facts.written_first
    assert EMBEDDING - 1 <= first.mapped <= EMBEDDING, "as tokens read it"
    assert pages.after(everything=True).written == facts.written_first


def test_layers_that_are_trained_are_made_anew_once_beside_the_pages_of_the_file() -> None:
    """auto_round utils/model.py mv_module_from_gpu. What calibration onloaded of the last layer is those pages."""
    job, recipe = toys.job(layers=2, samples=4, seq_len=64), load_recipe("autoround_w4a16")
    graph = graph_of("qwen3-0.6b", job)
    program = make_program(graph, recipe, job)[0]
    facts = host_model(graph, program, job)
    found = host_of(plan_graph(graph, recipe, job), facts, Loading(), HostSetting(), NOTHING)
    layers = sum(unit.bytes for unit in graph.units if unit.kind == "decoder")
    qparams = program.qparam_bytes
    for name, trained in (("prepare", 0), ("calibrate", layers // 2), ("compress", layers), ("finalize", layers)):
        parts = phase(found, name).parts
        assert (parts.get("written weights", 0), parts.get("weights", 0) <= qparams) == (trained, True)
    last = phase(found, "finalize").parts
    assert last["mapped checkpoint"] >= layers, "all that was read, though it is written"


# ---------------------------------------------------------------------- saving
def test_copies_lie_beside_the_mapped_weights_that_they_replace() -> None:
    last = saved(toys.static_rtn())
    assert last.copies == 3 * LAYER // 2  # int8 of bf16
    assert last.pages.mapped == WEIGHTS
    assert phase(host(toys.static_rtn()), "save").parts["compressed copies"] == last.copies


def test_weights_of_the_process_itself_go_as_their_copies_come() -> None:
    own = walk(model(toys.static_rtn()), mmap=False)
    *_, last = save_moments(own, own.before(), repacks=False, gpu=False)
    assert last.own == WEIGHTS - 3 * LAYER // 2


def test_blocks_of_malloc_stay_its_own_until_copies_fill_them() -> None:
    own = walk(model(toys.static_rtn()), mmap=False)
    keeping = replace(own, constants=NOTHING.model_copy(update={"heap_block": 2**25}))
    *_, last = save_moments(keeping, keeping.before(), repacks=False, gpu=False)
    largest = LAYER // 2
    assert WEIGHTS - 3 * LAYER // 2 < last.own <= WEIGHTS + largest


def test_with_a_gpu_copies_are_made_there_and_their_temporaries_too() -> None:
    pages = walk(model(toys.static_rtn()))
    here, there = (save_moments(pages, pages.before(), repacks=False, gpu=gpu)[0] for gpu in (False, True))
    assert (here.transient > 0, there.transient, there.copies) == (True, 0, 3 * LAYER // 2)


def test_copies_of_weights_on_disk_go_there() -> None:
    held = walk(model(toys.static_rtn()), available_ram_bytes=EMBEDDING + 3 * LAYER - 1, extra_cpu_bytes=0)
    last = save_moments(held, held.after(everything=False), repacks=False, gpu=True)[-1]
    assert last.copies == LAYER // 2
    assert last.pages.mapped == WEIGHTS - 2 * LAYER // 2  # the two others are mapped as they are on disk, to be saved


def test_repacking_holds_the_linear_experts_and_the_fused_ones() -> None:
    mixture = walk(model(toys.static_rtn(), experts_bytes=90_000))
    first, *_ = save_moments(mixture, mixture.before(), repacks=True, gpu=False)
    assert first.own == mixture.before().own + 90_000


def test_a_job_that_writes_no_files_has_no_save() -> None:
    assert "save" not in {each.phase for each in host(toys.gptq(), gpu=False, keeps_output=False).phases}


# ---------------------------------------------------------------------- around
def test_every_constant_can_be_another() -> None:
    more = NOTHING.model_copy(update={"imports_anonymous": 700, "imports_file": 300})
    plain, loaded = host(toys.gptq()), host(toys.gptq(), constants=more)
    for one, other in zip(plain.phases, loaded.phases, strict=True):
        assert other.resident_bytes - one.resident_bytes == 1000
        assert other.must_have_bytes - one.must_have_bytes == 700


def test_what_lies_on_the_gpu_is_not_in_ram_but_cudas_host_side_is_and_says_that_it_is_an_estimate() -> None:
    job, recipe = toys.job(), toys.recipe(toys.gptq())
    plan, facts = plan_graph(TOY.graph, recipe, job), host_model(TOY.graph, bound(recipe), job)
    known = NOTHING.model_copy(update={"cuda_anonymous": 50, "cuda_file": 20, "staging": 5})
    there = host_of(plan, facts, constants=known)
    assert phase(there, "compress").parts["CUDA"] == 75
    assert any("estimate" in note for note in there.notes)
    alone = host_of(plan, facts, setting=HostSetting(gpu=False), constants=NOTHING)
    assert phase(alone, "compress").parts["tensors"] > phase(there, "compress").parts.get("tensors", 0)


def test_workers_are_processes_of_their_own_and_pin_batches_in_blocks_of_powers_of_two() -> None:
    known = NOTHING.model_copy(update={"worker": 1000})
    two = host(toys.gptq(), constants=known, gpu=True, dataloader_workers=2)
    assert phase(two, "calibrate").parts["workers"] == 2000
    assert phase(two, "prepare").parts["calibration data"] == 2 * 128  # two batches of 80 bytes


@pytest.mark.parametrize(("asked", "given"), [(0, 0), (1, 1), (80, 128), (128, 128), (129, 256)])
def test_pinned_blocks_are_powers_of_two(asked: int, given: int) -> None:
    assert next_power_of_two(asked) == given


def test_a_limit_between_the_two_figures_is_slow_and_one_below_both_kills() -> None:
    found = host(toys.static_rtn())
    must, resident = found.peak_must_have_bytes, found.peak_resident_bytes
    limits = {"killed": must - 1, "slow": resident - 1, "fits": resident}
    assert found.outcome is None
    for outcome, limit in limits.items():
        assert host(toys.static_rtn(), gpu=False, ram_limit_bytes=limit).outcome == outcome


def test_generation_on_a_card_with_room_leaves_no_weights_in_ram() -> None:
    known = NOTHING.model_copy(update={"dispatch_kept_least": 10**9, "dispatch_tokens": 2048})
    found = phase(host(toys.static_rtn(), constants=known, gpu=True, generates=True), "generate")
    assert not {"weights", "mapped checkpoint", "compressed copies"} & found.parts.keys()


def test_generation_without_a_gpu_makes_dense_weights_beside_the_mapped_ones() -> None:
    found = phase(host(toys.static_rtn(), gpu=False, generates=True), "generate")
    assert found.parts["weights"] >= 3 * LAYER
    assert found.parts["mapped checkpoint"] == WEIGHTS


def test_ranks_whose_weights_do_not_fit_into_shared_memory_are_told_so() -> None:
    small = host(toys.gptq(), gpu=True, ranks=2, shm_bytes=WEIGHTS - 1)
    enough = host(toys.gptq(), gpu=True, ranks=2, shm_bytes=WEIGHTS)
    assert any("do not fit into /dev/shm" in note for note in small.notes)
    assert not any("do not fit" in note for note in enough.notes)


# ---------------------------------------------------------------------- the front door
def test_a_plan_with_its_machine_is_written_and_read_again() -> None:
    recipe = toys.recipe(toys.gptq())
    plan = with_machine(plan_graph(TOY.graph, recipe, toys.job()), TOY.graph, bound(recipe))
    assert plan.host is not None and plan.disk is not None
    assert type(plan).model_validate_json(plan.model_dump_json()) == plan


def test_the_rule_of_thumb_has_no_steps_to_size_a_process_by() -> None:
    recipe = toys.recipe(toys.gptq())
    rule = plan_graph(TOY.graph, recipe, toys.job(), method="rule-of-thumb")
    assert with_machine(rule, TOY.graph, bound(recipe)) == rule
