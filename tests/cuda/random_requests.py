#!/usr/bin/env python3
"""Random requests to PyTorch's real caching allocator; writes its events like CUDAMETER_TRACE.

tests/cudameter/run.sh --python tests/cuda/random_requests.py SEED COUNT STREAMS OUT.jsonl

Needs torch alone. The environment decides the rest: PRETENDED_TOTAL, PYTORCH_ALLOC_CONF.
"""

import json
import random
import sys
from pathlib import Path

import torch

KIB, MIB = 2**10, 2**20
# Around every border of the allocator: small and large requests, both kinds of segments, oversize blocks.
SIZES = ((1, 4 * KIB), (4 * KIB, MIB), (MIB, 2 * MIB), (2 * MIB, 10 * MIB), (10 * MIB, 40 * MIB), (40 * MIB, 300 * MIB))
TRACED = {
    "alloc": "alloc",
    "free_completed": "freed",
    "segment_alloc": "segment",
    "segment_free": "segment_free",
    "oom": "oom",
}


def main() -> None:
    """Ask and free in waves: growing until much is held, then shrinking."""
    seed, count, streams, out = int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4])
    chance = random.Random(seed)  # noqa: S311  (nothing is kept secret)
    torch.cuda.init()
    queues = [0, *(torch.cuda.Stream().cuda_stream for _ in range(streams - 1))]
    usual = [chance.randint(*chance.choice(SIZES)) for _ in range(20)]
    torch.cuda.memory._record_memory_history("all", context=None, max_entries=10_000_000)
    held: list[int] = []
    growing = True
    for _ in range(count):
        if chance.random() < 0.02:
            growing = not growing
        if held and chance.random() < (0.35 if growing else 0.7):
            torch.cuda.caching_allocator_delete(held.pop(_age(chance, len(held))))
            continue
        size = chance.choice(usual) if chance.random() < 0.6 else chance.randint(*chance.choice(SIZES))
        try:
            held.append(torch.cuda.caching_allocator_alloc(size, 0, chance.choice(queues)))
        except torch.OutOfMemoryError:
            growing = False
    _write(out)


def _age(chance: random.Random, held: int) -> int:
    """The newest block more often than the others, as in a real job."""
    return held - 1 if chance.random() < 0.4 else chance.randrange(held)


def _write(out: Path) -> None:
    with out.open("w", encoding="utf-8") as file:
        for event in torch.cuda.memory._snapshot()["device_traces"][0]:
            if (action := TRACED.get(event["action"])) is not None:
                line = {"event": action, "bytes": event["size"], "stream": event["stream"]}
                # of an out-of-memory the trace has what the driver had left
                line["free" if action == "oom" else "address"] = event["device_free" if action == "oom" else "addr"]
                file.write(json.dumps(line) + "\n")


main()
