#!/usr/bin/env python3
"""Run a command in a memory cgroup of its own, and say whether the kernel killed it. Needs root.

limited.py BYTES COMMAND...    prints one JSON object: limit, rc (137: killed), and what the cgroup held at most
"""

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path("/sys/fs/cgroup")
NAMES = {  # what each version of cgroups calls them
    "v1": ("memory.limit_in_bytes", "memory.max_usage_in_bytes"),
    "v2": ("memory.max", "memory.peak"),
}


def main(limit: int, command: list[str]) -> None:
    """Make the cgroup, run, report, remove the cgroup."""
    version, parent = ("v2", ROOT) if (ROOT / "cgroup.controllers").exists() else ("v1", ROOT / "memory")
    folder = parent / f"hostmeter-{os.getpid()}"
    folder.mkdir()
    most, used = NAMES[version]
    try:
        (folder / most).write_text(str(limit))

        def enter() -> None:
            (folder / "cgroup.procs").write_text(str(os.getpid()))

        done = subprocess.run(command, preexec_fn=enter, check=False)
        code = done.returncode if done.returncode >= 0 else 128 - done.returncode
        print(json.dumps({"limit": limit, "rc": code, "held": int((folder / used).read_text())}))
    finally:
        folder.rmdir()


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])
