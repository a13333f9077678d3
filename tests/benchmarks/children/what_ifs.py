"""A thousand what-ifs of one model that is traced: every strategy on card after card; prints seconds as JSON.

what_ifs.py MODEL RECIPE
"""

import json
import sys
from time import perf_counter

from planner.choose.estimator import Estimator
from planner.choose.fit import Search
from planner.collector import collect_seldom
from planner.hardware.machine import Machine
from planner.job import Job
from planner.units import GIB, MIB

WHAT_IFS = 1_000
SMALLEST, LARGEST = 6 * GIB, 80 * GIB


def on(card: int) -> Machine:
    """A machine with this card, 64 GiB of RAM and 500 GiB of disk."""
    return Machine(gpu_memory_bytes=card, ram_bytes=64 * GIB, disk_bytes=500 * GIB, source="a benchmark")


def main() -> None:
    """Simulate each strategy once, then ask all of them about cards from 6 to 80 GiB, evenly spaced."""
    collect_seldom()
    estimator, job = Estimator(sys.argv[1], sys.argv[2]), Job()
    begun = perf_counter()
    known = Search(estimator, job, on(LARGEST), with_budget=False).quick_choices()
    first = perf_counter()
    rounds = -(-WHAT_IFS // len(known))
    asked = 0
    for number in range(rounds):
        card = SMALLEST + (LARGEST - SMALLEST) * number // (rounds - 1) // MIB * MIB
        asked += len(Search(estimator, job, on(card), with_budget=False).quick_choices())
    seconds = perf_counter() - first
    print(json.dumps({"strategies": len(known), "first": first - begun, "what_ifs": asked, "seconds": seconds}))


main()
