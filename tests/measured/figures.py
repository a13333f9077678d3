"""Print what was planned and what was measured, one line per step of every recorded job.

    python -m tests.measured.figures > before.txt
    python -m tests.measured.figures --against before.txt

Columns, tab-separated, in bytes: job, step, planned GPU, measured GPU, planned CPU, measured CPU; `-` where the
measurement has no such step (the meter's setup covers the plan's prepare, see compare.py). With `--against`, the
differences from a print of before are printed instead, and the exit code is 1 if any planned figure, or a planned
step, is not what it was.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from planner.compress.schema import Plan, Step
from tests.measured.cases import Case, cases
from tests.measured.compare import measured, predicted

HEAD = "# job\tstep\tplanned GPU\tmeasured GPU\tplanned CPU\tmeasured CPU"
NONE = "-"

Line = tuple[str, str, str, str, str, str]


def main() -> int:
    """Print the figures, or what has changed in them; 1 if a planned figure has changed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--against", type=Path, metavar="FILE", help="compare with this print of before")
    parser.add_argument("--only", default="", metavar="WORD", help="only jobs whose name contains this")
    arguments = parser.parse_args()
    chosen = [case for case in cases() if arguments.only in case.name]
    if arguments.against is None:
        print(HEAD)
        for case in chosen:
            print("\n".join("\t".join(line) for line in lines(case)), flush=True)
        return 0
    names = {case.name for case in chosen}
    before = [line for line in read(arguments.against.read_text(encoding="utf-8")) if line[0] in names]
    differences = list(changes(before, [line for case in chosen for line in lines(case)]))
    print("\n".join(differences) or f"{len(before)} steps of {len(names)} jobs are planned as before")
    return 1 if differences else 0


def lines(case: Case) -> list[Line]:
    """The plan's steps in their order, with what was measured under the same name; at last the job's peaks."""
    plan = predicted(case)
    recorded = {(s["modifier"], s["subgraph"], s["phase"]): s for s in measured(case)["steps"]}
    found = []
    for step in plan.steps:
        names = (step.modifier, step.subgraph, step.phase)
        found.append(_line(case, " ".join(str(word) for word in names if word), step, recorded.get(names)))
    return [*found, _line(case, "peak", plan, measured(case))]


def _line(case: Case, name: str, planned: Step | Plan, recorded: dict[str, Any] | None) -> Line:
    gpu, cpu = (str(recorded[device]["peak_bytes"]) if recorded else NONE for device in ("gpu", "cpu"))
    return case.name, name, str(planned.gpu.peak_bytes), gpu, str(planned.cpu.peak_bytes), cpu


def read(text: str) -> list[Line]:
    """The lines of a print."""
    rows = [line.split("\t") for line in text.splitlines() if line and not line.startswith("#")]
    return [(job, step, gpu, their_gpu, cpu, their_cpu) for job, step, gpu, their_gpu, cpu, their_cpu in rows]


def changes(before: list[Line], after: list[Line]) -> Iterator[str]:
    """One line per planned figure that is not what it was, and per step that came or went."""
    old, new = ({line[:2]: {"GPU": line[2], "CPU": line[4]} for line in side} for side in (before, after))
    for names in dict.fromkeys([*old, *new]):
        for device in ("GPU", "CPU"):
            was, now = (side.get(names, {}).get(device, "no such step") for side in (old, new))
            if was != now:
                yield f"{names[0]}\t{names[1]}\t{device}\tbefore {was}\tnow {now}"


if __name__ == "__main__":
    raise SystemExit(main())
