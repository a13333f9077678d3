import pytest

from planner.compress.schema import Step
from planner.drift.cited import ANYWHERE, BY_MODIFIER, cited
from planner.drift.compare import RESERVED_CITED, compare_steps, where
from planner.units import MIB
from planner.upstream import MODIFIERS
from tests.drift.fabricated import held, plan, step

AS_PLANNED = step("compress", {"weights": 400, "compress": 600}, subgraph=2)


def test_equal_steps_are_not_off() -> None:
    found = compare_steps(plan(AS_PLANNED), plan(AS_PLANNED))
    assert (found.steps, found.off, found.only_planned, found.only_rehearsed) == (1, (), (), ())
    assert [(each.figure, each.share) for each in found.worst] == [("requested", 0), ("reserved", 0), ("cpu", 0)]


@pytest.mark.parametrize(
    ("rehearsed", "figures"),
    [
        (step("compress", {"weights": 400, "compress": 609}, subgraph=2), []),
        (step("compress", {"weights": 400, "compress": 611}, subgraph=2, reserved=1000), ["requested"]),
        (step("compress", {"weights": 400, "compress": 600}, subgraph=2, reserved=1019), []),
        (step("compress", {"weights": 400, "compress": 600}, subgraph=2, reserved=1021), ["reserved"]),
        (step("compress", {"weights": 400, "compress": 600}, subgraph=2, cpu={"model": 1011}), ["cpu"]),
        (step("compress", {"weights": 400, "compress": 570}, subgraph=2), ["requested", "reserved"]),
    ],
)
def test_a_step_is_off_by_more_than_one_percent_and_two_of_reserved_bytes(rehearsed: Step, figures: list[str]) -> None:
    assert [each.figure for each in compare_steps(plan(rehearsed), plan(AS_PLANNED)).off] == figures


def test_four_mib_are_nobodys_fault() -> None:
    small, smaller = step("setup", {"weights": 12}), step("setup", {"weights": 8})
    found = compare_steps(plan(small), plan(smaller))
    assert found.off == ()
    assert found.worst[0].share == 0
    assert compare_steps(plan(step("setup", {"weights": 13})), plan(smaller)).off


@pytest.mark.parametrize(
    ("model", "share"), [(930, 0), (940, 0), (1000, 0), (910, 930 / 910 - 1), (1020, 1000 / 1020 - 1)]
)
def test_matrices_that_python_collects_when_it_likes_may_be_missing_and_nothing_beside_them(
    model: int, share: float
) -> None:
    rehearsed, planned = (
        step("setup", {"weights": 400}, cpu={"model": model}),
        step("setup", {"weights": 400}, cpu={"model": 930, "transform": 70}),
    )
    found = compare_steps(plan(rehearsed), plan(planned))
    assert found.worst[2].share == pytest.approx(share)
    assert [each.figure for each in found.off] == (["cpu"] if share else [])
    assert found.collected_bytes == min(70, max(0, 1000 - model)) * MIB


def test_weights_that_are_missing_are_missing_whatever_the_collector_does() -> None:
    rehearsed = step("setup", {"weights": 400}, cpu={"model": 900, "transform": 70})
    planned = step("setup", {"weights": 400}, cpu={"model": 930, "transform": 70})
    found = compare_steps(plan(rehearsed), plan(planned))
    assert [each.figure for each in found.off] == ["cpu"]
    assert found.collected_bytes == 0


def test_the_part_that_differs_is_named_with_what_holds_it_on_both_sides_and_what_the_plan_follows() -> None:
    there = held("gptq_quantize.py:154 quantize_weight", "compress", 700, role="from oneshot.py:25", copies=3)
    ours = held("down_proj stacked Hessians", "compress_inputs", 600)
    weight = held("down_proj.weight", "weights", 400)
    rehearsed = step("compress", {"weights": 401, "compress": 700, "forward": 2}, subgraph=2, largest=(there, weight))
    planned = step("compress", {"weights": 400, "compress_inputs": 600}, subgraph=2, largest=(ours, weight))
    off = compare_steps(plan(rehearsed), plan(planned)).off[0]
    assert (where(off), off.part, off.ratio) == ("2/3 compress", "workspace", pytest.approx(1000 / 1103))
    assert off.held == ("gptq_quantize.py:154 quantize_weight (3 tensors)",)
    assert off.planned == ("down_proj stacked Hessians",)
    assert "gptq/base.py compress_module_list" in off.cited


def test_what_the_plan_has_too_much_is_looked_for_in_that_direction() -> None:
    rehearsed = step("propagate", {"weights": 450, "forward": 100}, subgraph=2)
    planned = step("propagate", {"weights": 400, "forward": 200}, subgraph=2)
    off = compare_steps(plan(rehearsed), plan(planned)).off[0]
    assert off.part == "activations"
    assert "utils/helpers.py use_eager_attention" in off.cited


def test_reserved_bytes_alone_are_the_allocators() -> None:
    rehearsed = step("compress", {"weights": 400, "compress": 600}, subgraph=2, reserved=1500)
    off = compare_steps(plan(rehearsed), plan(AS_PLANNED)).off[0]
    assert (off.part, off.held, off.cited) == ("", (), RESERVED_CITED)


def test_steps_that_one_side_has_alone_are_named_but_for_files_and_scripts() -> None:
    extra, load = step("compress", {"weights": 1}, subgraph=3), step("load", {"weights": 900}, modifier=None)
    found = compare_steps(plan(load, AS_PLANNED, extra), plan(AS_PLANNED, step("finalize", {"weights": 1})))
    assert (found.only_rehearsed, found.only_planned) == (("3/3 compress",), ("finalize",))


def test_a_modifier_that_comes_twice_is_compared_with_itself() -> None:
    first, second = step("setup", {"weights": 100}), step("setup", {"weights": 300})
    assert compare_steps(plan(first, second), plan(first, second)).off == ()
    assert compare_steps(plan(first, second), plan(first)).only_rehearsed == ("setup",)


def test_modifiers_of_one_run_are_cited_together() -> None:
    both = cited("SmoothQuantModifier+GPTQModifier", ("compress",))
    assert both == (*BY_MODIFIER["SmoothQuantModifier"], *BY_MODIFIER["GPTQModifier"])
    assert cited("GPTQModifier", ("weights", "weights")) == ANYWHERE["weights"]
    assert cited(None, ("unheard of",)) == ()
    assert BY_MODIFIER.keys() <= MODIFIERS.keys()


def test_what_stays_reserved_is_told_once() -> None:
    def job(first: int, second: int, third: int) -> list[Step]:
        sizes = zip(("calibrate", "compress", "propagate"), (first, second, third), strict=True)
        return [step(phase, {"weights": 400}, subgraph=2, reserved=reserved) for phase, reserved in sizes]

    off = compare_steps(plan(*job(500, 900, 900)), plan(*job(500, 600, 600))).off
    assert [(each.figure, each.phase) for each in off] == [("reserved", "compress")]


def test_functions_are_cited_for_the_kinds_that_differ_and_not_for_all_of_their_part() -> None:
    rehearsed = step("propagate", {"weights": 400, "forward": 100, "batch": 50}, subgraph=2)
    planned = step("propagate", {"weights": 400, "forward": 200, "batch": 51}, subgraph=2)
    assert compare_steps(plan(rehearsed), plan(planned)).off[0].cited == ANYWHERE["forward"]
