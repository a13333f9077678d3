"""Plans that were saved by an earlier version render again."""

import json
from pathlib import Path
from typing import Any

import pytest

from planner.compress.schema import Plan
from planner.errors import PlannerError
from planner.reports import table
from planner.reports.forms import as_json

PLANS = Path(__file__).parent.parent / "data" / "plans"
NAME = "llama-3-8b-rtn_fp8_dynamic.json"


def saved(**changes: Any) -> dict[str, Any]:
    """A plan of version 1, as it was saved."""
    return json.loads((PLANS / "version-1" / NAME).read_text(encoding="utf-8")) | changes


def with_owner(text: str) -> dict[str, Any]:
    plan = saved()
    plan["steps"][0]["cpu"]["largest"][0]["owner"] = text
    return plan


def test_a_plan_of_version_1_is_read_as_the_same_plan_of_today() -> None:
    today = (PLANS / NAME).read_text(encoding="utf-8")
    assert as_json(Plan.model_validate(saved())) == today
    assert table.render(Plan.model_validate(saved())) == table.render(Plan.model_validate_json(today))


def test_a_plan_of_version_2_is_read_and_says_nothing_of_the_allocator() -> None:
    today = json.loads((PLANS / NAME).read_text(encoding="utf-8"))
    plan = Plan.model_validate(today | {"schema_version": 2})
    assert (plan.verdict, plan.torch, plan.gpu.peak_reserved_bytes, plan.gpu.smallest_card_bytes) == (None,) * 4
    assert plan.steps == Plan.model_validate(today).steps


def test_a_note_of_version_1_keeps_its_words_and_has_no_kind() -> None:
    (note,) = Plan.model_validate(saved(notes=["The basic pipeline computes where the model lies."])).notes
    assert (note.kind, note.text) == ("unsorted", "The basic pipeline computes where the model lies.")


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("model.layers.0.mlp.down_proj Hessian", ("model.layers.0.mlp.down_proj", "Hessian", 1)),
        ("model.layers.1.mlp.up_proj and 29 more max_vals", ("model.layers.1.mlp.up_proj", "max_vals", 30)),
        ("experts.0.gate_proj and 255 more", ("experts.0.gate_proj", "", 256)),
        ("fused experts while they are linearized", ("fused experts", "while they are linearized", 1)),
        ("model weights", ("model weights", "", 1)),
    ],
)
def test_an_owner_of_version_1_is_taken_apart_and_reads_as_before(text: str, parts: tuple[str, str, int]) -> None:
    owned = Plan.model_validate(with_owner(text)).steps[0].cpu.largest[0]
    assert (owned.name, owned.role, owned.copies) == parts
    assert owned.owner == text


@pytest.mark.parametrize("version", [0, 4, "1", None])
def test_a_plan_of_an_unknown_version_says_which_and_what_to_do(version: object) -> None:
    with pytest.raises(PlannerError, match=rf"schema_version {version!r}.* plan the job again"):
        Plan.model_validate(saved(schema_version=version))


@pytest.mark.parametrize("steps", [None, 3, [3], [{}], [{"gpu": {}, "cpu": {}}]])
def test_what_only_says_that_it_is_a_plan_of_version_1_is_refused(steps: object) -> None:
    with pytest.raises(PlannerError, match="schema_version 1 and is none"):
        Plan.model_validate(saved(steps=steps))


def test_reading_leaves_the_saved_object_as_it_was() -> None:
    plan = saved()
    Plan.model_validate(plan)
    assert plan == saved()
