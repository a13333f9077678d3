"""Plans every recipe of LLM Compressor's repository; writes what became of each to outcomes.json and docs/coverage.md.

    python -m tests.coverage.cover [PART OF A SOURCE]        # with a part: those alone, on the terminal

Each is planned with two layers of its model (`families.py`), as `planner plan MODEL -r RECIPE --layers 2` does, and
each call of model_free_ptq as `planner model-free` does.
"""

import json
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from planner.errors import JobError, PlannerError, RecipeError
from planner.job import Job
from tests.coverage.extract import RECIPES
from tests.coverage.families import model_of

OUTCOMES = Path(__file__).parent / "outcomes.json"
PAGE = Path(__file__).parents[2] / "docs" / "coverage.md"
OPTIONS = {
    "num_calibration_samples": "samples",
    "max_seq_length": "seq_len",
    "batch_size": "batch_size",
    "pipeline": "pipeline",
}
LAYERS = {"deepseek_v4": 6, "deepseek-r1": 4, "glm_moe_dsa": 4, "glm4_moe": 4, "qwen3_next": 4, "qwen3_5": 4}
"""Models whose first two layers lack what a recipe names."""

Row = dict[str, Any]


def rows() -> list[Row]:
    """Every recipe, as extract.py wrote it."""
    found: list[Row] = json.loads(RECIPES.read_text(encoding="utf-8"))["recipes"]
    return found


def modifiers_of(row: Row) -> list[str]:
    """Class names in the order in which they run; `model_free_ptq` for its calls."""
    if row.get("call") != "oneshot":
        return [row["call"]] if "call" in row else []
    return [name for name, _ in entries(row["recipe"])]


def entries(recipe: Any) -> Iterator[tuple[str, Any]]:
    """(class name, fields) of every modifier of a recipe in either form."""
    if isinstance(recipe, list):
        for item in recipe:
            yield from item.items()
        return
    for key, stage in recipe.items():
        if key.endswith("_stage"):
            for group in (group for name, group in stage.items() if name.endswith("_modifiers")):
                yield from group.items()


def as_mapping(recipe: Any) -> dict[str, Any]:
    """A list of modifiers as the mapping that a recipe file holds."""
    if isinstance(recipe, dict):
        return recipe
    return {f"{i}_stage": {"quant_modifiers": item} for i, item in enumerate(recipe)}


def outcome(row: Row) -> Row:
    """What becomes of one recipe: {"source", "modifiers", "outcome": planned, fails or refused, "why"}.

    It fails where the library itself would not finish: an error of the recipe or of the job says so, or a plan's note.
    """
    told = {"source": row["source"], "modifiers": modifiers_of(row)}
    if "call" not in row:
        return told | {"outcome": "fails", "why": f"the script itself: {row['failed']}"}
    try:
        notes = model_free_notes(row) if row["call"] == "model_free_ptq" else plan_notes(row)
    except (RecipeError, JobError) as error:
        return told | {"outcome": "fails", "why": str(error)}
    except PlannerError as error:
        return told | {"outcome": "refused", "why": str(error)}
    fails = [note.text for note in notes if note.kind == "fails"]
    return told | ({"outcome": "fails", "why": fails[0]} if fails else {"outcome": "planned"})


def plan_notes(row: Row) -> Sequence[Any]:
    """Notes of the plan. Raises PlannerError."""
    from planner import plan

    given = row.get("options", {})
    model = model_of(row.get("model"))
    layers = LAYERS.get(model["model_type"] if isinstance(model, dict) else model, 2)
    job = Job(layers=layers, **{OPTIONS[key]: value for key, value in given.items() if key in OPTIONS})
    return plan(model, as_mapping(row["recipe"]), job).notes


def model_free_notes(row: Row) -> Sequence[Any]:
    """Notes of the plan of a model_free_ptq call. Raises PlannerError."""
    from planner import model_free
    from planner.modelfree.plan import ModelFreeOptions

    given = row["arguments"]
    options = ModelFreeOptions(max_workers=given.get("max_workers", 1))
    planned = model_free(
        model_of(row["model"]),
        given["scheme"],
        ignore=given.get("ignore", ()),
        converter=given.get("converter"),
        converter_targets=given.get("converter_targets", ()),
        converter_ignore=given.get("converter_ignore", ()),
        options=options,
    )
    return planned.notes


def page(outcomes: Sequence[Row]) -> str:
    """docs/coverage.md."""
    origin = json.loads(RECIPES.read_text(encoding="utf-8"))["origin"]
    counts = Counter(told["outcome"] for told in outcomes)
    lines = [
        "# Which recipes are planned",
        "",
        f"Every recipe in LLM Compressor's own repository ({origin['repository']} at {origin['commit'][:12]}), its",
        "examples and its tests, planned on a model of the family that it names: a preset, or transformers' default",
        "config of the family, with two layers. Examples are Python; they are run with mocks in place of models and",
        "data, and with the modifiers of the real library. Written by `python -m tests.coverage.cover`.",
        "",
        f"Of {len(outcomes)}: **{counts['planned']} planned**, {counts['fails']} that the library itself would not",
        f"finish, {counts['refused']} refused. A recipe with two modifiers counts in both rows.",
        "",
        "| modifier | recipes | planned | the library would fail | refused |",
        "| --- | --: | --: | --: | --: |",
    ]
    by_modifier: dict[str, Counter[str]] = {}
    for told in outcomes:
        for name in dict.fromkeys(told["modifiers"] or ["(none read)"]):
            by_modifier.setdefault(name, Counter())[told["outcome"]] += 1
    for name, found in sorted(by_modifier.items(), key=lambda item: (-item[1].total(), item[0])):
        lines.append(f"| {name} | {found.total()} | {found['planned']} | {found['fails']} | {found['refused']} |")
    for heading, kind in (("## Refused", "refused"), ("## The library would not finish", "fails")):
        chosen = [told for told in outcomes if told["outcome"] == kind]
        if chosen:
            lines += ["", heading, "", "| recipe | why |", "| --- | --- |"]
            lines += [f"| {told['source']} | {_cell(told['why'])} |" for told in chosen]
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("*", "\\*").replace("\n", " ")


def main(part: str = "") -> None:
    """Plan them, two at a time."""
    chosen = [row for row in rows() if part in row["source"]]
    with ProcessPoolExecutor(max_workers=2) as pool:
        outcomes = []
        for told in pool.map(outcome, chosen):
            outcomes.append(told)
            if told["outcome"] != "planned":
                print(f"{told['outcome']:8} {told['source']}: {told['why']}"[:250], flush=True)
    if not part:
        text = ",\n".join(json.dumps(told, sort_keys=True) for told in outcomes)
        OUTCOMES.write_text(f"[\n{text}\n]\n", encoding="utf-8")
        PAGE.write_text(page(outcomes), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
