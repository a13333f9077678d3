"""Fuzz for a while, and say what was found: each finding once, with the seed that shows it again.

python -m tests.fuzz [--minutes 10] [--seed N] [--only N] [--commands NAME ...]
"""

import argparse
import re
import secrets
import sys
import time
from collections.abc import Sequence

from tests.fuzz.cases import case
from tests.fuzz.running import run, seeded, wrong_with


def main() -> int:
    """Returns 1 where something was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seed", type=int, default=secrets.randbelow(10**9), help="the first; the others follow it")
    parser.add_argument("--only", type=int, help="run this seed alone")
    parser.add_argument("--commands", nargs="+", help="try these alone")
    options = parser.parse_args()
    seed, until = options.seed, time.monotonic() + 60 * options.minutes
    found: dict[str, int] = {}
    if options.only is not None:
        seed, until = options.only, 0.0
    first = seed
    while seed == first or time.monotonic() < until:
        told = _try(seed, options.commands)
        if told and _place(told) not in found:
            found[_place(told)] = seed
            asked = case(seeded(seed))
            print(f"--- seed {seed}: planner {' '.join(map(repr, asked.words))}\n{told[-3000:]}", flush=True)
        seed += 1
    print(f"{seed - first} cases from seed {first}, {len(found)} findings: {sorted(found.values())}")
    return 1 if found else 0


def _try(seed: int, commands: Sequence[str] | None) -> str:
    asked = case(seeded(seed))
    is_meant = commands is None or not set(commands).isdisjoint(asked.words[:1])
    return wrong_with(asked, run(asked)) if is_meant else ""


def _place(told: str) -> str:
    """What makes two findings the same: where in planner it came from, else its words without numbers."""
    frames = re.findall(r'File "[^"]*/planner/([^"]+)", line (\d+)', told)
    return str(frames[-1]) + told.splitlines()[-1][:20] if frames else re.sub(r"\d+", "", told)[:60]


if __name__ == "__main__":
    sys.exit(main())
