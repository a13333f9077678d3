"""Plans that an earlier version of planner saved, in the shape that is read today."""

import re
from collections.abc import Iterator, Mapping
from typing import Any, Literal

from planner.errors import PlannerError

SCHEMA_VERSION: Literal[3] = 3

# Version 1 wrote an owner as one text: `model.layers.0.mlp.gate_proj and 3 more Hessians`.
_COPIES = re.compile(r"(?P<name>.+?) and (?P<more>\d+) more\b ?(?P<role>.*)")
_MODULE = re.compile(r"(?P<name>\S+\.\S+) (?P<role>.+)")
_FUSED = re.compile(r"(?P<name>fused experts) (?P<role>.+)")


def upgraded(plan: Any) -> Any:
    """The plan's JSON object as version 3 has it; whatever is no plan of an earlier one comes back as it is.

    Raises PlannerError for a version that this planner does not know.
    """
    if not isinstance(plan, Mapping):
        return plan
    version = plan.get("schema_version", SCHEMA_VERSION)
    if version == 1:
        try:
            return _from_version_1(plan)
        except (KeyError, TypeError) as error:
            raise PlannerError(f"says that it is a plan of schema_version 1 and is none: {error!r}") from error
    if version == 2:  # version 3 added what the caching allocator holds, which nobody knew
        return {**plan, "schema_version": SCHEMA_VERSION}
    if version != SCHEMA_VERSION:
        raise PlannerError(
            f"this plan has schema_version {version!r}, and this planner reads 1 to {SCHEMA_VERSION}: "
            "plan the job again, or read it with the planner that wrote it"
        )
    return plan


def _from_version_1(plan: Mapping[str, Any]) -> dict[str, Any]:
    """Version 2 took owners apart into name, role and copies, gave notes a kind, and plans progress bars."""
    steps = [{**step, "gpu": _device(step["gpu"]), "cpu": _device(step["cpu"])} for step in plan.get("steps", ())]
    notes = [{"kind": "unsorted", "text": text} for text in plan.get("notes", ())]
    job = {"progress_bars": False, **plan["job"]}
    return {**plan, "schema_version": SCHEMA_VERSION, "job": job, "steps": steps, "notes": notes}


def _device(memory: Mapping[str, Any]) -> dict[str, Any]:
    return {**memory, "largest": [{**owned, **dict(_owner(owned["owner"]))} for owned in memory["largest"]]}


def _owner(text: str) -> Iterator[tuple[str, Any]]:
    """Name, role and copies of an owner that version 1 wrote."""
    match = _COPIES.fullmatch(text) or _FUSED.fullmatch(text) or _MODULE.fullmatch(text)
    parts = match.groupdict() if match else {"name": text, "role": ""}
    yield "name", parts["name"]
    yield "role", parts["role"]
    yield "copies", 1 + int(parts.get("more", 0))
