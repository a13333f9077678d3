"""What only a rehearsal has to say: which script ran, in which environment, and where it stopped."""

from planner.compress.schema import Plan, RehearsedScript
from planner.reports.numbers import gib
from planner.units import human_bytes

_SHOWN = ("llmcompressor", "compressed-tensors", "transformers")
_HELD = 5
"""Holdings that are named where memory ran out."""


def script_lines(script: RehearsedScript) -> list[tuple[str, str]]:
    """The script as it was called, for the header."""
    return [("script", " ".join((script.path, *script.arguments)))]


def method_line(script: RehearsedScript) -> str:
    """With what it was rehearsed, and what that took."""
    versions = ", ".join(f"{name} {script.versions[name]}" for name in _SHOWN if name in script.versions)
    took = f"{script.seconds:,.0f} s"
    if script.resident_bytes:
        took += f" and {gib(script.resident_bytes)} of RAM"
    beside = f" with {versions}" if versions else ""
    return f"rehearsed on PyTorch {script.versions.get('torch', '')}{beside}, over a pretended driver; took {took}"


def stop_lines(plan: Plan) -> list[str]:
    """Where the script stood when memory ran out, and what held the card; empty where it did not."""
    script = plan.script
    if script is None or not (plan.verdict and plan.verdict.outcome == "out of memory"):
        return []
    lines = [f"at {script.line}: {script.stopped}"] if script.line else []
    held = [f"{human_bytes(each.bytes)} {each.owner}" for each in script.held[:_HELD]]
    return [*lines, *(["the card held " + "; ".join(held)] if held else [])]


def script_advice(script: RehearsedScript) -> str:
    """What to do next about a rehearsal."""
    if script.has_job:
        return "a plan of the same model and recipe tries other ways to run it: planner strategies, planner fit"
    return 'planner.mark("name") in the script begins a step of that name'
