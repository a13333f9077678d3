"""The smallest card on which a job gets through, by trying: each try is a run of the cudameter.

    python -m tests.measured.cuda.smallest [--only WORD] [--missing]

The sizes are tried as the plan's search tries them (planner/compress/fit.py smallest_card), to one part in a hundred.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from planner.compress.fit import smallest_card
from planner.hardware.gpus import CUDA_CONTEXT
from tests.measured.cuda.cases import CudaCase, cuda_cases
from tests.measured.cuda.record import run

RECORDED = Path(__file__).parent / "smallest.json"
RESOLUTION = 100
JOBS = (
    "llama-3-8b-gptq_w4a16-layers3",
    "llama-3-8b-gptq_w8a8-layers3",
    "llama-3-8b-rtn_w8a8_static-layers3",
    "llama-3-8b-rtn_nvfp4-layers3",
    "llama-3-8b-sparsegpt_2of4-layers3",
    "llama-3-8b-gptq_w4a16-layers3-seqlen4096-batchsize1",
    "llama-3-8b-gptq_w4a16-layers4-targetspersubgraph2",
    "llama-3-8b-gptq_w4a16-layers3-offloaddevicegpu",
    "llama-3-8b-rtn_w8a8_static-layers3-sm80",
    "llama-3-8b-gptq_w4a16-layers3-batchsize2",
    "qwen3-0.6b-gptq_w4a16-layers3",
    "qwen3-8b-gptq_w8a8-layers3",
    "mistral-7b-gptq_w4a16-layers3-seqlen8192",
    "mixtral-8x7b-gptq_w4a16-layers2",
    # what moves things on the GPU
    "llama-3-8b-gptq_w4a16-layers3-sequentialtargetsLlamaAttentionxLlamaMLP",
    "llama-3-8b-gptq_w4a16-layers2-sequentialtargetsLinear",
    "llama-3-8b-gptq_w4a16-layers3-prefetchon",
    "llama-3-8b-gptq_w4a16-layers3-batchsize4",
    "llama-3-8b-gptq_w4a16-layers3-weightsgpu-offloaddevicegpu",
    "llama-3-8b-rtn_w8a8_static-layers3-sequentialtargetsLlamaAttentionxLlamaMLP",
    "llama-3-8b-rtn_w8a8_static-layers3-offloaddevicegpu",
    "llama-3-8b-rtn_w8a8_static-layers3-weightsgpu-offloaddevicegpu",
    "qwen3-8b-gptq_w4a16-layers3-sequentialtargetsQwen3AttentionxQwen3MLP",
    "qwen3-8b-gptq_w4a16-layers4-targetspersubgraph2",
    "qwen3-8b-gptq_w4a16-layers3-offloaddevicegpu",
    "qwen3-8b-gptq_w4a16-layers3-prefetchon",
    "qwen3-8b-gptq_w4a16-layers3-batchsize4",
    "qwen3-8b-gptq_w4a16-layers3-weightsgpu-offloaddevicegpu",
    "qwen3-30b-a3b-gptq_w4a16-layers2-sequentialtargetsQwen3MoeAttentionxQwen3MoeSparseMoeBlock",
    "qwen3-30b-a3b-gptq_w4a16-layers2-offloaddevicegpu",
    "qwen3-30b-a3b-gptq_w4a16-layers2-prefetchon",
    "qwen3-30b-a3b-gptq_w4a16-layers2-batchsize4",
    "qwen3-30b-a3b-gptq_w4a16-layers2-weightsgpu-offloaddevicegpu",
    "qwen3-30b-a3b-gptq_w4a16-layers2-sequentialtargetsQwen3MoeAttentionxExpertMLPWithGate-targetspersubgraph32",
    "mixtral-8x7b-gptq_w4a16-layers2-sequentialtargetsMixtralAttentionxExpertMLPWithGate",
)


def main() -> int:
    """Look for the asked-for jobs' smallest cards, one after the other."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="only jobs whose name contains this")
    parser.add_argument("--missing", action="store_true", help="only jobs that are not recorded yet")
    arguments = parser.parse_args()
    cases = {case.name: case for case in cuda_cases()}
    for name in JOBS:
        known = json.loads(RECORDED.read_text()) if RECORDED.exists() else {}
        if arguments.only in name and not (arguments.missing and name in known):
            known[name] = search(cases[name])
            RECORDED.write_text(json.dumps(known, indent=1) + "\n")
            print(f"{name}: {known[name]}", flush=True)
    return 0


def search(case: CudaCase) -> int:
    """Bytes of the smallest card, as CUDA sees it."""
    measured = json.loads(case.recorded.read_text())
    start = max(step["peak_reserved_bytes"] for step in measured["steps"]) + CUDA_CONTEXT
    # what GPTQ compresses at once depends on the card; all else does not
    alike = max(step["peak_bytes"] for step in measured["steps"] if step["phase"] != "compress")
    return smallest_card(_trial(case), start, RESOLUTION, least=alike + CUDA_CONTEXT)


def _trial(case: CudaCase) -> Callable[[int], bool]:
    def gets_through(total: int) -> bool:
        with tempfile.TemporaryDirectory() as folder:
            done = run(case, Path(folder) / "out.json", total)
        if done.returncode and "OutOfMemoryError" not in done.stderr:
            raise SystemExit(f"{case.name} on {total}: {done.stderr[-2000:]}")
        return not done.returncode

    return gets_through


if __name__ == "__main__":
    sys.exit(main())
