#!/usr/bin/env python3
"""What each ATen operator asks of PyTorch's real caching allocator beside its result, for planner/cuda.

run.sh --python tests/cudameter/operators.py CALLS.txt OUT.json   each line of the file is one Python expression
CUDAMETER_OPERATORS=OUT.jsonl run.sh CONFIG --recipe ...          every operator of a real job, once per signature

One line of the output is one operator as the dispatcher sees it: its name, its arguments (tensors as dtype, shape and
strides), its results, and in order what it takes, gives back (by number of the take), where each result is taken, and
a `product`, whose workspace cuBLAS takes and keeps. Workspaces are dropped before each operator, so that each
product shows.
"""

import json
import os
import sys
from pathlib import Path

import torch
from torch.utils._python_dispatch import TorchDispatchMode

HISTORY = 4000


def watch(*, clear: bool = True) -> None:
    """Keep a history of the allocator's events, from now on."""
    torch.cuda.memory._record_memory_history("all", context=None, max_entries=HISTORY, clear_history=clear)


def described(value):
    """An argument or a result, as JSON can have it."""
    if isinstance(value, torch.Tensor):
        text = {"dtype": str(value.dtype).removeprefix("torch."), "shape": [*value.shape], "stride": [*value.stride()]}
        return text if value.is_cuda else {**text, "device": value.device.type}
    if isinstance(value, (list, tuple)):
        return [described(item) for item in value]
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return value if abs(value) < float("inf") else str(value)
    return str(value).removeprefix("torch.")


def tensors(values):
    """All tensors of nested lists."""
    for value in values:
        if isinstance(value, torch.Tensor):
            yield value
        elif isinstance(value, (list, tuple)):
            yield from tensors(value)


def requests(events, results) -> list:
    """The allocator's events of one operator, numbered as planner/cuda/requests.py has them."""
    address = {}
    for number, result in enumerate(results):
        address.setdefault(result.untyped_storage().data_ptr(), number)
    freed_later, numbers, lines, taken = set(), {}, [], 0
    for event in reversed(events):  # an address may be taken several times; the last take is a result's, if any
        if event["action"] == "free_completed":
            freed_later.add(event["addr"])
        elif event["action"] == "alloc":
            event["lives"] = event["addr"] not in freed_later
            freed_later.discard(event["addr"])
    for event in events:
        if event["action"] == "free_completed" and event["addr"] in numbers:
            lines.append(["give", numbers.pop(event["addr"])])
        elif event["action"] == "alloc" and event["lives"] and event["addr"] in address:
            lines.append(["result", address[event["addr"]]])
        elif event["action"] == "alloc" and event["lives"]:
            lines.append(["product", 0] if event["size"] in (33_554_432, 8_519_680) else ["keep", event["size"]])
        elif event["action"] == "alloc":
            lines.append(["take", event["size"]])
            numbers[event["addr"]] = taken
            taken += 1
    return lines


class Watcher(TorchDispatchMode):
    """Writes one line for each new signature of an operator on the GPU."""

    def __init__(self, out) -> None:
        super().__init__()
        self.out, self.seen = out, set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        call = {"operator": str(func), "args": described(args), "kwargs": {k: described(v) for k, v in kwargs.items()}}
        key = json.dumps(call)
        if key in self.seen or not self._on_gpu(args, kwargs):
            return func(*args, **kwargs)
        self.seen.add(key)
        torch._C._cuda_clearCublasWorkspaces()
        watch()
        result = func(*args, **kwargs)
        results = [*tensors([result])]
        call["results"] = described(results)
        call["requests"] = requests(torch.cuda.memory._snapshot()["device_traces"][0], results)
        print(json.dumps(call), file=self.out, flush=True)
        return result

    def _on_gpu(self, args, kwargs) -> bool:
        on_gpu = any(t.is_cuda for t in tensors([*args, *kwargs.values()]))
        return on_gpu or str(kwargs.get("device", "")).startswith("cuda")


def watch_job() -> None:
    """Watch all that follows, into the file that CUDAMETER_OPERATORS names."""
    out = Path(os.environ["CUDAMETER_OPERATORS"]).open("w", encoding="utf-8")  # noqa: SIM115  (until the process ends)
    Watcher(out).__enter__()


def zeros(*shape, dtype=torch.float32):
    """A tensor on the GPU, for the calls."""
    return torch.zeros(shape, dtype=dtype, device="cuda")


def main(calls: str, out: str) -> None:
    """Run each line of `calls`; names before a `;` are assigned first and not watched: `x = zeros(8, 8); x.sum()`."""
    torch.cuda.init()
    torch.backends.cudnn.enabled = False
    names = {"torch": torch, "F": torch.nn.functional, "zeros": zeros}
    with Path(out).open("w", encoding="utf-8") as file:
        watcher = Watcher(file)
        for line in Path(calls).read_text(encoding="utf-8").splitlines():
            if not line.strip() or line.startswith("#"):
                continue
            *before, call = line.split(";")
            exec(";".join(before).strip(), names)  # noqa: S102  (our own file of calls)
            with watcher:
                eval(call.strip(), names)  # noqa: S307  (our own file of calls)


if __name__ == "__main__":
    main(*sys.argv[1:])
