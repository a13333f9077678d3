"""How long the caching allocator takes for a request and its free; prints seconds a pair, by recorded stream, as JSON.

allocator.py ROUNDS
"""

import json
import sys
from time import perf_counter

from planner.cuda.allocators import allocator
from planner.cuda.settings import AllocatorSettings
from tests.cuda.traces import FOLDER, Trace

STREAMS = {
    "Llama-3-8B GPTQ, 3 layers": "llama-3-8b-gptq_w4a16-layers-3-samples-4",
    "the same, 6 GiB card, cached memory given back": "llama-3-8b-gptq_w4a16-layers-3-samples-2-6gib",
    "Qwen3-30B-A3B GPTQ, 1 layer": "qwen3-30b-a3b-gptq_w4a16-layers-1-samples-2-linearized",
    "Llama-3-8B SparseGPT 2:4, 2 layers": "llama-3-8b-sparsegpt_2of4-layers-2-samples-2",
    "Llama-3-8B GPTQ, `max_split_size_mb:64`": "llama-3-8b-gptq_w4a16-layers-2-samples-2-max_split_size",
}


def seconds(trace: Trace, steps: list[tuple[int, int]]) -> float:
    """Of one walk through the stream: (bytes, stream), or (0, how far back) for a free."""
    cuda = allocator(trace.total, trace.context, AllocatorSettings.parse(trace.settings))
    malloc, free = cuda.malloc, cuda.free
    held = []
    begun = perf_counter()
    for nbytes, where in steps:
        if nbytes:
            held.append(malloc(nbytes, where))
        else:
            free(held.pop(where))
    return perf_counter() - begun


def steps_of(trace: Trace) -> list[tuple[int, int]]:
    """Requests and frees alone."""
    steps, stream = [], 0
    for word in trace.words:
        if word[0] == "s":
            stream = int(word[1:])
        elif word[0] == "f":
            steps.append((0, -1 - int(word[1:])))
        elif word[0] not in "+-o":
            steps.append((int(word), stream))
    return steps


def main() -> None:
    """Every stream, ROUNDS times."""
    measured = {}
    for name, file in STREAMS.items():
        trace = Trace.read(FOLDER / f"{file}.xz")
        steps = steps_of(trace)
        pairs = sum(nbytes > 0 for nbytes, _ in steps)
        measured[name] = [seconds(trace, steps) / pairs for _ in range(int(sys.argv[1]))]
    print(json.dumps(measured))


main()
