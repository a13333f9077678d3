"""Plans of the shipped recipes stay what they are until someone means to change them."""

import json

import pytest

from tests.golden.cases import HERE, Golden, as_text, compact, goldens

ALL = list(goldens())


@pytest.mark.parametrize("golden", ALL, ids=lambda golden: golden.name)
def test_the_plan_is_the_kept_one(golden: Golden) -> None:
    kept = golden.path.read_text(encoding="utf-8")
    planned = as_text(compact(golden.plan))
    assert planned == kept, difference(golden.path.name, kept, planned)


def test_every_kept_file_is_a_golden_plan() -> None:
    assert set(HERE.glob("*.json")) == {golden.path for golden in ALL}


def test_a_difference_names_step_and_figure() -> None:
    kept = {"gpu_peak": 2_000_000, "steps": [step("head", 5), step("model.layers.0", 2_000_000)]}
    planned = {"gpu_peak": 3_000_000, "steps": [step("head", 5), step("model.layers.0", 3_000_000), step("save", 0)]}
    assert difference("x.json", as_text(kept), as_text(planned)).splitlines() == [
        "x.json is not what is planned now; if that is meant: python -m tests.golden.update",
        "gpu_peak: 2,000,000 kept, 3,000,000 planned",
        "step 1 (compress of model.layers.0) gpu: 2,000,000 kept, 3,000,000 planned",
        "step 2: only planned: compress of save",
    ]


def test_a_plan_written_twice_is_the_same_text() -> None:
    kept = {"gpu_peak": 1, "steps": [step("head", 5), step("save", 6)]}
    assert as_text(json.loads(as_text(kept))) == as_text(kept)


def step(unit: str, gpu: int) -> dict[str, object]:
    return {"unit": unit, "phase": "compress", "gpu": gpu}


def difference(name: str, kept: str, planned: str) -> str:
    """Each figure that changed, in words."""
    old, new = json.loads(kept), json.loads(planned)
    lines = [f"{name} is not what is planned now; if that is meant: python -m tests.golden.update"]
    lines += [f"{key}: {told(old, key)} kept, {told(new, key)} planned" for key in changed(old, new) if key != "steps"]
    for index in range(max(len(old["steps"]), len(new["steps"]))):
        before, after = (steps[index] if index < len(steps) else None for steps in (old["steps"], new["steps"]))
        if before is None or after is None:
            which, one = ("planned", after) if before is None else ("kept", before)
            lines.append(f"step {index}: only {which}: {title(one)}")
            continue
        where = f"step {index} ({title(before)})"
        lines += [
            f"{where} {key}: {told(before, key)} kept, {told(after, key)} planned" for key in changed(before, after)
        ]
    return "\n".join(lines)


def changed(old: dict[str, object], new: dict[str, object]) -> list[str]:
    return [key for key in {**old, **new} if old.get(key) != new.get(key)]


def told(values: dict[str, object], key: str) -> str:
    value = values.get(key)
    return f"{value:,}" if isinstance(value, int) else str(value)


def title(one: dict[str, object] | None) -> str:
    return f"{one['phase']} of {one['unit']}" if one else "nothing"
