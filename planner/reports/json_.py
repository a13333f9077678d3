"""Writes several plans as JSON: each as `planner.compress.schema` writes it alone, only indented further."""

from collections.abc import Sequence

from planner.compress.schema import Plan
from planner.compress.upgrade import SCHEMA_VERSION


def render_all(plans: Sequence[Plan]) -> str:
    """Several plans in one object: {"schema_version": 2, "plans": [...]}."""
    inside = ",\n".join(_indented(plan.model_dump_json(indent=1)) for plan in plans)
    return f'{{\n "schema_version": {SCHEMA_VERSION},\n "plans": [\n{inside}\n ]\n}}\n'


def _indented(text: str) -> str:
    return "\n".join("  " + line for line in text.splitlines())
