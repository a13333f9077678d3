"""The jobs that train layers, measured on the meter and on PyTorch's CUDA build."""

from pathlib import Path
from typing import Any

CONFIGS = Path(__file__).parent / "configs"
_SHORT: dict[str, Any] = {"layers": 2, "samples": 8, "seq_len": 512}

JOBS: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("llama-3-8b", "autoround_w4a16_3iters", _SHORT),
    ("llama-3-8b", "autoround_w4a16_3iters", {**_SHORT, "samples": 64, "layers": 3}),
    ("llama-3-8b", "autoround_w4a16_3iters", {**_SHORT, "seq_len": 2048}),
    ("llama-3-8b", "autoround_w4a16_3iters", {**_SHORT, "samples": 20, "batch_size": 4}),
    ("llama-3-8b", "autoround_w4a16_batch4", {**_SHORT, "samples": 10}),
    ("llama-3-8b", "autoround_w4a16_batch1", {**_SHORT, "seq_len": 1024}),
    ("llama-3-8b", "autoround_fp8", _SHORT),
    ("qwen3-8b", "autoround_nvfp4", _SHORT),
    ("qwen3-8b", "autoround_mxfp4", _SHORT),
    ("mistral-7b", "autoround_w4a16_asym", _SHORT),
    (str(CONFIGS / "gemma2.json"), "autoround_w4a16_3iters", {**_SHORT, "samples": 12}),
    (str(CONFIGS / "cohere2.json"), "autoround_fp8_dynamic", _SHORT),
    (str(CONFIGS / "qwen3-moe-16.json"), "autoround_w4a16_3iters", {**_SHORT, "linearized": True}),
    ("qwen3-0.6b", "autoround_w4a16_3iters", {"layers": 3, "samples": 16, "seq_len": 1024, "dtype": "float16"}),
    ("qwen3-0.6b", "autoround_rounded_w4a16", {**_SHORT, "layers": 3, "samples": 10}),
    ("llama-3-8b", "autoround_rounded_fp8", _SHORT),
    ("qwen3-8b", "autoround_rounded_mxfp4", _SHORT),
    ("llama-3-8b", "quip_autoround", _SHORT),
    ("qwen3-0.6b", "quip_autoround", {**_SHORT, "samples": 20, "batch_size": 2}),
    ("qwen3-0.6b", "quip_autoround_rounded", _SHORT),
    (str(CONFIGS / "gemma2.json"), "spinquant_r3_autoround", {**_SHORT, "samples": 12}),
    ("qwen3-0.6b", "spinquant_r4_autoround", {**_SHORT, "layers": 3}),
    ("qwen3-0.6b", "spinquant_r4_autoround_fp8", _SHORT),
    ("qwen3-0.6b", "quip_permuted_autoround", _SHORT),
    ("qwen3-0.6b", "quip_twice_autoround", _SHORT),
    ("qwen3-0.6b", "quip_two_autoround", _SHORT),
    ("llama-3-8b", "autoround_w4a16_3iters", {**_SHORT, "weights": "gpu"}),
    ("qwen3-0.6b", "quip_autoround", {**_SHORT, "weights": "gpu"}),
    ("qwen3-0.6b", "quip_twice_autoround", {**_SHORT, "weights": "gpu"}),
    ("qwen3-0.6b", "quip_acts_autoround", {**_SHORT, "weights": "gpu"}),
)
"""(model, recipe, options). qwen3-moe-16 is qwen3-30b-a3b with 16 of its 128 experts, all of which would take long to
trace. Measured with all of them, every step's GPU bytes are equal too, and its CPU peak is 0.2 % lower than planned."""

SPREAD_JOBS: tuple[tuple[str, str, dict[str, Any], int, int], ...] = (
    ("llama-3-8b", "autoround_gpus2", _SHORT, 2, 1),
    ("llama-3-8b", "autoround_gpus2", {**_SHORT, "samples": 20, "batch_size": 4, "layers": 3}, 2, 1),
    ("llama-3-8b", "autoround_gpus2", {**_SHORT, "seq_len": 2048}, 2, 1),
    ("llama-3-8b", "autoround_gpus4", _SHORT, 4, 3),
    ("mistral-7b", "autoround_gpus3", _SHORT, 3, 2),
    ("qwen3-8b", "autoround_gpus3", _SHORT, 3, 2),
    ("qwen3-8b", "autoround_mxfp4_gpus3", _SHORT, 3, 2),
    ("llama-3-8b", "autoround_fp8_gpus2", _SHORT, 2, 1),
    (str(CONFIGS / "gemma2.json"), "autoround_gpus2", {**_SHORT, "samples": 12}, 2, 1),
    ("qwen3-0.6b", "autoround_rounded_gpus2", {**_SHORT, "samples": 10}, 2, 1),
    ("llama-3-8b", "autoround_gpu0", _SHORT, 1, 0),
    ("llama-3-8b", "autoround_gpus2", {**_SHORT, "weights": "gpu"}, 2, 1),
    ("qwen3-0.6b", "quip_twice_gpus2", _SHORT, 2, 1),
)
"""(model, recipe, options, cards, the card that is measured beside the first): each layer on several GPUs.

`autoround_gpu0` is on one card, by its number. The other twelve are planned within 1 % of each step's requested bytes
(at 2,048 tokens two steps are 0.67 % too low, where a thread kept a gradient that it had handed on; nearly all others
are equal) and within 2 % of its reserved ones. Three more were measured and are not among these, because their branches
race (apart.py `SPREAD`).
"""

RANK_JOBS: tuple[tuple[str, str, dict[str, Any], int], ...] = (
    ("llama-3-8b", "autoround_w4a16_3iters", {**_SHORT, "ranks": 2, "samples": 16}, 0),
    ("llama-3-8b", "autoround_w4a16_3iters", {**_SHORT, "ranks": 2, "samples": 15, "seq_len": 1024}, 1),
    ("llama-3-8b", "autoround_fp8", {**_SHORT, "ranks": 4, "samples": 40, "batch_size": 2}, 3),
    ("qwen3-0.6b", "autoround_w4a16_3iters", {**_SHORT, "ranks": 2, "samples": 40, "dtype": "float16"}, 0),
    (str(CONFIGS / "gemma2.json"), "autoround_w4a16_3iters", {**_SHORT, "ranks": 2, "samples": 16}, 0),
    ("qwen3-0.6b", "autoround_rounded_w4a16", {**_SHORT, "ranks": 2, "samples": 16}, 0),
)
"""(model, recipe, options, rank): each layer trained by several ranks together."""

METER_JOBS = (
    *JOBS,
    ("llama-3-8b", "autoround_gpu0", _SHORT),
    ("llama-3-8b", "autoround_w4a16_3iters", {**_SHORT, "ranks": 2, "samples": 16}),
    ("qwen3-0.6b", "autoround_rounded_w4a16", {**_SHORT, "ranks": 2, "samples": 16}),
)
"""And those whose CPU side is measured beside it. qwen3-0.6b in float16 on two ranks (the fourth of RANK_JOBS) is left
out: where the MLP sets the peak, the meter's own `silu_backward` reads 26.8 MB too high, so that 0.824 GiB planned
stand beside 0.849 measured (-2.94 %). On PyTorch's CUDA build it is equal (apart.py `METER`)."""

CUDA_JOBS = (
    *(job for job in JOBS if job[1] != "autoround_nvfp4"),
    ("qwen3-0.6b", "autoround_w4a16_3iters", {**_SHORT, "sequential_targets": ("Qwen3Attention", "Qwen3MLP")}),
    ("qwen3-0.6b", "quip_blocks_autoround", _SHORT),
    ("qwen3-0.6b", "autoround_w4a16_3iters", {"layers": 3, "samples": 16, "seq_len": 512, "weights": "gpu"}),
)
"""Without qwen3-8b in NVFP4. All its steps are equal but one: while the second layer is calibrated, beside what the
first one's training left to Python's collector, 2.09 GB are reserved and 2.29 planned. One segment is not given back
there, because one small tensor lies elsewhere. So it is with the shipped autoround_w4a16 (three layers, four samples of
2,048 tokens, 200 iterations): all equal, but that 6 % too much is planned to be reserved in its last step, finalize."""
