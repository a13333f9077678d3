"""Plans every recipe of LLM Compressor's repository, and writes what became of each to outcomes.json.

    python -m tests.coverage.cover [PART OF A SOURCE]        # with a part: those alone, on the terminal

Each is planned with two layers of its model (`families.py`), as `planner plan MODEL -r RECIPE --layers 2` does.
"""

import json
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from planner.errors import PlannerError
from planner.job import Job
from tests.coverage.extract import RECIPES
from tests.coverage.families import model_of

OUTCOMES = Path(__file__).parent / "outcomes.json"


def rows() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(RECIPES.read_text(encoding="utf-8"))["recipes"]
    return found


def modifiers_of(row: dict[str, Any]) -> list[str]:
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


def outcome(row: dict[str, Any]) -> dict[str, Any]:
    """What becomes of one recipe: {"source", "modifiers", "outcome": planned, fails or refused, "why"}."""
    told = {"source": row["source"], "modifiers": modifiers_of(row)}
    if "failed" in row and "call" not in row:
        return told | {"outcome": "refused", "why": f"the library itself: {row['failed']}"}
    try:
        return told | planned(row)
    except PlannerError as error:
        return told | {"outcome": "refused", "why": str(error)}


def planned(row: dict[str, Any]) -> dict[str, Any]:
    from planner import plan

    if row["call"] == "model_free_ptq":
        return {"outcome": "refused", "why": "model_free_ptq is not planned"}
    options = row.get("options", {})
    names = {
        "num_calibration_samples": "samples",
        "max_seq_length": "seq_len",
        "batch_size": "batch_size",
        "pipeline": "pipeline",
    }
    job = Job(layers=2, **{names[key]: value for key, value in options.items() if key in names})
    made = plan(model_of(row.get("model")), as_mapping(row["recipe"]), job)
    fails = [note.text for note in made.notes if note.kind == "fails"]
    return {"outcome": "fails", "why": fails[0]} if fails else {"outcome": "planned"}


def main(part: str = "") -> None:
    chosen = [row for row in rows() if part in row["source"]]
    with ProcessPoolExecutor(max_workers=2) as pool:
        outcomes = []
        for told in pool.map(outcome, chosen):
            outcomes.append(told)
            print(f"{told['outcome']:8} {told['source']}: {told.get('why', '')}"[:200], flush=True)
    if not part:
        text = ",\n".join(json.dumps(told, sort_keys=True) for told in outcomes)
        OUTCOMES.write_text(f"[\n{text}\n]\n", encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
