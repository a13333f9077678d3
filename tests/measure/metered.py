"""`planner measure` on the meter's pretended CUDA device, which computes nothing: for a machine without a GPU.

    .instruments/meter-venv/bin/python tests/measure/metered.py GIB [measure's arguments]

Run by the python of the meter's environment (tests/meter/README.md), with planner on PYTHONPATH. The device answers
what a real one would: memory_stats from the meter's books. Weights are marked as unknown instead of being filled.
"""

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "meter"))

import fakecuda  # type: ignore[import-not-found]  # before torch
import torch

GIB = 2**30


def answer_as_cuda() -> None:
    """What torch.cuda says of memory, from the meter's books."""
    cuda: Any = torch.cuda
    cuda.memory_stats = _memory_stats
    cuda.reset_peak_memory_stats = lambda *_: fakecuda.ext.reset_peak(fakecuda.GPU)


def _memory_stats(*_: object) -> dict[str, int]:
    books = fakecuda.stats(fakecuda.GPU)
    return {
        "requested_bytes.all.peak": books["peak"],
        "allocated_bytes.all.peak": books["peak_512"],
        "allocated_bytes.all.current": books["live_512"],
    }


def mark_unknown(model: torch.nn.Module) -> None:
    """In the place of random weights: values that the meter does not know."""
    for tensor in (*model.parameters(), *model.buffers()):
        fakecuda.ext.set_unknown(tensor)


def main(arguments: list[str]) -> int:
    size, *words = arguments
    fakecuda.install(shape=True, total_bytes=int(float(size) * GIB))
    answer_as_cuda()
    import kernels  # type: ignore[import-not-found]  # beside fakecuda

    kernels.claim_triton()
    import llmcompressor  # noqa: F401  (its kernels are replaced next)

    kernels.replace_kernels(True)
    kernels.shorten_column_loops()
    from planner import cli
    from planner.measure import model

    model.fill = mark_unknown
    return cli.main(words)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
