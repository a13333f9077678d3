"""REAPPruningModifier by hand: one layer of four experts, one of which goes."""

from dataclasses import replace

import pytest

from planner.compress.context import Context
from planner.compress.modifiers.reap import REAPModel, REAPSpec
from planner.compress.program import Run
from planner.compress.pruning import check_pruning
from planner.compress.recipes import recipe_from_dict
from planner.errors import JobError, PlannerError, RecipeError, UnsupportedError
from planner.models.traces import Call, CallValue
from planner.recipe.specs import ModelTraits, ModuleRef
from planner.recipe.targets import LinearModule
from tests import toys

TOY = toys.Toy()
FACTS = ModelTraits(experts=4, experts_per_token=2)
LAYER = "model.layers.0.mlp"
TOKENS, HIDDEN, WIDE, CHOSEN = 10, 16, 32, 2


def spec(sparsity: float = 0.25, facts: ModelTraits = FACTS, **fields: object) -> REAPSpec:
    data = {"s_stage": {"s_modifiers": {"REAPPruningModifier": {"sparsity": sparsity, **fields}}}}
    (read,) = recipe_from_dict(data, "my.yaml").modifiers
    assert isinstance(read, REAPSpec)
    return read.within(facts, (), ())


def refs(*, experts: str = "LinearExperts2D", router: str = "gate") -> list[ModuleRef]:
    names = [ModuleRef("model", ("Model",)), ModuleRef(LAYER, ("MoE",)), ModuleRef(f"{LAYER}.{router}", ("Router",))]
    names.append(ModuleRef(f"{LAYER}.experts", (experts, "ModuleList")))
    for number in range(4):
        names.append(ModuleRef(f"{LAYER}.experts.{number}", ("ExpertMLPWithGate",)))
        names.append(ModuleRef(f"{LAYER}.experts.{number}.up_proj", ("Linear",), WIDE, HIDDEN, 2))
    return [*names, ModuleRef("model.layers.0.self_attn.q_proj", ("Linear",), HIDDEN, HIDDEN, 2)]


def module(name: str, rows: int = 0, columns: int = 0) -> LinearModule:
    return LinearModule(name=f"{LAYER}.{name}", rows=rows, columns=columns, itemsize=2 if rows else 0)


def modules() -> list[LinearModule]:
    experts = [module(f"experts.{n}.up_proj", WIDE, HIDDEN) for n in range(4)]
    return [*experts, module("gate", 4, HIDDEN)]


def expert_call(number: int) -> Call:
    return replace(toys.linear_call(f"{LAYER}.experts.{number}", TOKENS, HIDDEN, HIDDEN))


def block_call() -> Call:
    values = (
        CallValue("hidden_states", TOKENS * HIDDEN * 2),
        CallValue("top_k_index", TOKENS * CHOSEN * 8),
        CallValue("top_k_weights", TOKENS * CHOSEN * 2),
    )
    return replace(toys.linear_call(f"{LAYER}.experts", TOKENS, HIDDEN, HIDDEN), arguments=values)


def calibrated(**job: object) -> tuple[Context, REAPModel, int]:
    """After one batch; the peak of its hooks."""
    context = Context(toys.job(**job))
    context.losses.model = context.ledger.alloc("cpu", 100_000, "model", "model weights")
    model = REAPModel(context, spec())
    model.on_calibration_start(modules())
    for number in range(4):
        model.after_forward(module(f"experts.{number}"), expert_call(number))
    model.after_forward(module("experts"), block_call())
    return context, model, context.ledger.close_step()["gpu"].bytes


# ---------------------------------------------------------------------- while calibrating
def test_norms_of_one_batch_are_stacked_and_two_sums_stay() -> None:
    context, _, peak = calibrated()
    norms, sums = 4 * TOKENS * 4, 2 * 4 * 8
    entries = TOKENS * CHOSEN
    # all norms, their stack, the chosen ones in fp32; then weights, norms and their product in fp64
    hooks = norms + sums + norms + entries * 4 + 3 * entries * 8
    last_expert = norms + TOKENS * HIDDEN * 4  # its output in fp32 beside the norms
    assert peak == max(hooks, last_expert)
    assert context.ledger.live("gpu") == sums


def test_more_batches_hold_no_more() -> None:
    context, model, first = calibrated()
    for number in range(4):
        model.after_forward(module(f"experts.{number}"), expert_call(number))
    model.after_forward(module("experts"), block_call())
    assert context.ledger.close_step()["gpu"].bytes == first


def test_only_the_chosen_tokens_count_where_experts_see_no_others() -> None:
    _, _, peak = calibrated(calibrate_all_experts=False)
    norms, sums, entries = 4 * TOKENS * 4, 2 * 4 * 8, TOKENS * CHOSEN
    # index, weights and norms by slot, the contribution, then ones: 8 bytes each; a mask of one
    assert peak == max(norms + sums + 5 * entries * 8 + entries, norms + TOKENS * HIDDEN * 4)


# ---------------------------------------------------------------------- compress
def test_a_layer_gets_a_smaller_router_and_experts_leave_with_what_is_onloaded() -> None:
    context, model, _ = calibrated()
    router, expert, left = 4 * HIDDEN * 2, WIDE * HIDDEN * 2, 3 * HIDDEN * 2
    context.onload(f"{LAYER}.gate.weight", router)
    context.ledger.close_step()
    model.on_sequential_epoch_end(modules())
    peaks = context.ledger.close_step()
    assert peaks["gpu"].bytes == 2 * 4 * 8 + router + 3 * 8 + left
    assert peaks["cpu"].bytes == 100_000 + left
    context.onload(f"{LAYER}.gate.weight", router)
    assert context.ledger.live("gpu") == router + left  # the old one is held as long as anything is
    context.offload_all()
    assert context.ledger.live("gpu") == 0
    assert context.ledger.live("cpu") == 100_000 + left - router - expert


def test_experts_stay_where_another_modifier_refers_to_them() -> None:
    context, model, _ = calibrated()
    context.losses.keeps_modules = True
    model.on_sequential_epoch_end(modules())
    context.offload_all()
    assert context.ledger.live("cpu") == 100_000 - HIDDEN * 2  # the router's row


# ---------------------------------------------------------------------- what it takes
def test_it_watches_experts_and_router_and_changes_no_weight() -> None:
    found = spec().select(refs())
    assert not found.weights
    assert found.watched == {one.name for one in refs() if one.name.startswith(f"{LAYER}.")}


def test_ignores_are_searched_for_in_the_layers_name() -> None:
    assert not spec(ignore=["layers.0"]).select(refs()).watched


@pytest.mark.parametrize("modules", [refs(experts="Llama4LinearExperts"), refs(router="chooser"), []])
def test_a_model_without_a_layer_that_it_can_prune_is_refused(modules: list[ModuleRef]) -> None:
    one = spec()
    with pytest.raises(RecipeError, match="finds no layer with experts and a router"):
        list(one.check(modules, one.select(modules)))


@pytest.mark.parametrize(
    ("sparsity", "facts", "message"),
    [
        (0.25, ModelTraits(), "finds no mixture of experts"),
        (0.2, FACTS, "0.2 of 4 experts is less than one"),
        (0.75, FACTS, "leaves 1 experts within reach of a token, and the router selects 2"),
        (0.5, replace(FACTS, experts=16, expert_groups=4, groups_per_token=1, experts_per_token=3), "leaves 2 experts"),
    ],
)
def test_what_the_router_cannot_do_without_is_refused(sparsity: float, facts: ModelTraits, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        spec(sparsity, facts)


def test_every_group_of_experts_loses_as_many() -> None:
    facts = ModelTraits(experts=16, experts_per_token=2, expert_groups=4, groups_per_token=2)
    assert spec(0.4, facts).dropped == 8  # 6 of 16 are 1.5 a group, and 2 go
    assert spec(0.4, replace(facts, expert_groups=None)).dropped == 6


def test_the_last_experts_are_those_that_are_gone() -> None:
    one = spec()
    assert one.experts_left(one.facts) == 3
    assert [one.removes(f"{LAYER}.experts.{n}.up_proj") for n in range(4)] == [False, False, False, True]
    assert not one.removes(f"{LAYER}.gate")


def test_an_ignored_layer_keeps_its_experts_and_the_result_is_not_sized() -> None:
    later = [replace(ref, name=ref.name.replace("layers.0", "layers.1")) for ref in refs()[1:]]
    both, one = [*refs(), *later], spec(ignore=[r"layers\.1\."])
    bound = one.within(FACTS, both, ())
    assert bound.removes(f"{LAYER}.experts.3.up_proj")
    assert not bound.removes("model.layers.1.mlp.experts.3.up_proj")
    with pytest.raises(UnsupportedError, match=r"model\.layers\.1\.mlp keeps all experts"):
        bound.check_result(both)
    spec().check_result(both)


@pytest.mark.parametrize(
    ("job", "error", "message"),
    [
        ({"weights": "disk"}, UnsupportedError, "--weights disk: REAPPruningModifier is modelled with weights in CPU"),
        ({"weights": "gpu"}, UnsupportedError, "--weights gpu: .*; leave out --weights"),
        ({"pipeline": "datafree"}, JobError, "--pipeline datafree: REAPPruningModifier would see no data"),
    ],
)
def test_jobs_that_are_not_modelled_or_remove_nothing_are_refused(
    job: dict[str, str], error: type[PlannerError], message: str
) -> None:
    graph = replace(TOY.graph, facts=FACTS)
    with pytest.raises(error, match=message):
        check_pruning(graph, [Run(spec=spec(), units=())], toys.job(**job))
    check_pruning(graph, [Run(spec=toys.gptq(), units=())], toys.job(**job))
