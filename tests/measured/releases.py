"""The part of docs/accuracy.md on other releases: what `planner drift --format json` wrote, kept in `drift/`.

planner drift --environment FOLDER --format json -o tests/measured/drift/VERSION.json
"""

import json
from collections.abc import Iterator
from pathlib import Path

from planner.drift.schema import Drift, DriftOfJob
from planner.units import GIB

RECORDED = Path(__file__).parent / "drift"
HEAD = """
## Other releases

Plans are for LLM Compressor {planned_for}. `planner drift` ([drift.md](drift.md)) rehearsed the same small jobs (two
layers, three samples of 512 tokens) under other releases, too, and laid them beside these plans. A figure is planned
over rehearsed, less one, at the step furthest off; steps within 4 MiB count as equal. Allowed are 1 % of requested and
CPU bytes and 2 % of reserved ones. The last columns are the step whose requested bytes are furthest off, in GiB (2^30).

"""
TITLES = ("release", "job", "model", "recipe", "steps", "requested", "reserved", "CPU", "step", "rehearsed", "planned")


def part() -> str:
    """All recorded releases, the newest first."""
    drifts = recorded()
    if not drifts:
        return ""
    lines = [f"| {' | '.join(TITLES)} |", "|---|---|---|---|" + "--:|" * 4 + "---|--:|--:|"]
    lines += [line for drift in drifts for line in _lines(drift)]
    return HEAD.format(planned_for=drifts[0].planned_for) + "\n".join([*lines, "", *map(_versions, drifts)]) + "\n"


def recorded() -> list[Drift]:
    """What was found, by release."""
    return [read(path) for path in sorted(RECORDED.glob("*.json"), reverse=True)]


def read(path: Path) -> Drift:
    """One record; what is computed is computed anew."""

    def without_computed(values: dict[str, object]) -> dict[str, object]:
        return {name: value for name, value in values.items() if name != "ratio"}

    return Drift.model_validate(json.loads(path.read_text(encoding="utf-8"), object_hook=without_computed))


def _versions(drift: Drift) -> str:
    return (
        f"- {drift.versions['llmcompressor']} ran with "
        + ", ".join(f"{name} {version}" for name, version in drift.versions.items() if name != "llmcompressor")
        + "."
    )


def _lines(drift: Drift) -> Iterator[str]:
    for job in drift.jobs:
        shares = [f"{each.share:+.2%}" for each in job.worst] or ["-"] * 3
        cells = [drift.versions["llmcompressor"], job.name, job.model, job.recipe, str(job.steps), *shares, *_step(job)]
        yield f"| {' | '.join(cells)} |"


def _step(job: DriftOfJob) -> tuple[str, str, str]:
    """The step whose requested bytes are furthest off, if any is more than allowed."""
    if job.stopped:
        return f"stopped: {job.stopped}".replace("|", "/"), "", ""
    steps = [step for step in job.off if step.figure == "requested"]
    if not steps:
        return "", "", ""
    worst = max(steps, key=lambda step: abs(step.ratio - 1))
    where = f"{worst.subgraph}/{worst.of} {worst.phase}" if worst.subgraph else worst.phase
    return where, f"{worst.rehearsed_bytes / GIB:.3f}", f"{worst.planned_bytes / GIB:.3f}"
