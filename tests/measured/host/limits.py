"""Jobs in a memory cgroup (tests/hostmeter/limited.py): which limits the kernel killed them at.

python -m tests.measured.host.limits      run them again; needs root
"""

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from typing import Any

from tests.measured.host.cases import RUNS, Run, runs

RECORDED = RUNS.parent / "limits.json"
KILLED = 137
# The run, and limits in MiB: below what it must have, above that and below what is resident, above both.
ATTEMPTS = {
    "qwen3-moe-l3-rtn_w8a8_static": (900, 1400, 2200),
    "llama-3.2-1b-rtn_w8a8_static-s2": (1100, 1900),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Limited:
    """One job in a cgroup."""

    run: Run
    limit: int
    was_killed: bool

    @property
    def name(self) -> str:
        return f"{self.run.name}-in-{self.limit // 2**20}MiB"


def limited() -> list[Limited]:
    """What was recorded."""
    by_name = {run.name: run for run in runs()}
    found: list[dict[str, Any]] = json.loads(RECORDED.read_text(encoding="utf-8"))
    return [
        Limited(run=by_name[each["run"]], limit=each["limit"], was_killed=each["rc"] == KILLED)
        for each in found
        if each["rc"] in (0, KILLED)
    ]


def main() -> None:
    """Run every attempt, and write what became of it."""
    from tests.measured.host.record import ENVIRONMENT, FOLDER, HOSTMETER

    by_name = {run.name: run for run in runs()}
    python, found = str(ENVIRONMENT / "bin" / "python"), []
    for name, limits in ATTEMPTS.items():
        run = by_name[name]
        for limit in limits:
            with tempfile.TemporaryDirectory(dir=FOLDER) as folder:
                job = [python, str(HOSTMETER / "job.py"), str(FOLDER / "models" / run.checkpoint), str(run.recipe_path)]
                job += [*run.words, "--out", f"{folder}/job.json", "--save-dir", f"{folder}/saved", "--evict"]
                command = [sys.executable, str(HOSTMETER / "limited.py"), str(limit * 2**20), *job]
                done = subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ | _QUIET)
            found.append({"run": name, **json.loads(done.stdout.splitlines()[-1])})
            print(found[-1], flush=True)
    RECORDED.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


_QUIET = {"TQDM_DISABLE": "1"}

if __name__ == "__main__":
    main()
