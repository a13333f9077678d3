"""AWQ jobs that were measured: (model, recipe, options), for the meter and for the cudameter."""

from typing import Any

Jobs = tuple[tuple[str, str, dict[str, Any]], ...]

SHORT: dict[str, Any] = {"layers": 2, "samples": 4, "seq_len": 512}
BLOCKS = ("LlamaAttention", "LlamaMLP")

ROTATED: Jobs = (
    ("qwen3-0.6b", "quip_awq_norms", SHORT),
    ("qwen3-0.6b", "quip_outputs_awq", SHORT),
    ("qwen3-0.6b", "spinquant_r4_awq_norms", SHORT),
)
"""The blocks that run again rotate inputs, and outputs, as they did before."""

MASKED: Jobs = (
    ("llama-3-8b", "awq_grid4", {**SHORT, "loss_mask": True}),
    ("llama-3-8b", "awq_offload_cpu", {**SHORT, "samples": 14, "batch_size": 4, "loss_mask": True}),
    ("llama-3-8b", "awq_grid4", {**SHORT, "offload_device": "gpu", "loss_mask": True}),
)
"""Samples with a loss mask that marks every token."""

ON_GPU: dict[str, Any] = {"pipeline": "basic", "weights": "gpu"}
WIDE: dict[str, Any] = {"layers": 2, "samples": 64, "batch_size": 16, "seq_len": 128, "pipeline": "basic"}
QUANTIZED: dict[str, Any] = {"layers": 1, "samples": 1024, "batch_size": 512, "seq_len": 16}
BASIC: Jobs = (
    ("llama-2-7b", "awq_kv_fp8", {**QUANTIZED, **ON_GPU}),
    ("llama-2-7b", "awq_attention_int8", {**QUANTIZED, **ON_GPU}),
    ("qwen3-0.6b", "awq_w8a8", {**WIDE, "weights": "gpu"}),
    ("qwen3-0.6b", "awq_nvfp4_inputs", {**WIDE, "weights": "gpu"}),
    ("qwen3-0.6b", "awq_offload_cpu", {"layers": 3, "samples": 40, "seq_len": 512, **ON_GPU}),
    (
        "qwen3-0.6b",
        "awq_offload_cpu",
        {"layers": 3, "samples": 6, "seq_len": 256, "batch_size": 4, **ON_GPU, "loss_mask": True},
    ),
    ("llama-3-8b", "awq_grid4", {**SHORT, "samples": 6, "batch_size": 4, **ON_GPU, "loss_mask": True}),
)
"""Blocks that run again round inputs as well as weights, keys and values: batches of so many rows that it shows. All
layers keep the same masks."""

METER: Jobs = (
    *MASKED,
    ("llama-3-8b", "awq_grid4", {**SHORT, "samples": 64, "loss_mask": True, "pipeline": "basic", "weights": "gpu"}),
    ("llama-3-8b", "smoothquant_w8a8", {**SHORT, "loss_mask": True}),
    ("qwen3-8b", "awq_no_duo", {**SHORT, "loss_mask": True, "progress_bars": True}),
    ("llama-3-8b", "awq_w4a16", {**SHORT, "seq_len": 2048}),
    ("llama-3-8b", "awq_w4a16_asym", {**SHORT, "samples": 14, "batch_size": 4}),
    ("llama-3-8b", "awq_no_duo", SHORT),
    ("llama-3-8b", "awq_offload_cpu", {**SHORT, "samples": 64}),
    ("llama-3-8b", "awq_grid4", {**SHORT, "samples": 64, "layers": 3}),
    ("llama-3-8b", "awq_grid4", {"layers": 1, "samples": 512, "seq_len": 256, "batch_size": 2}),
    ("llama-3-8b", "awq_then_gptq", SHORT),
    ("llama-3-8b", "awq_mappings", SHORT),
    ("llama-3-8b", "awq_nvfp4", SHORT),
    ("llama-3-8b", "awq_fp8_block", SHORT),
    ("llama-3-8b", "awq_int8", {**SHORT, "progress_bars": True}),
    ("llama-3-8b", "awq_grid4", {**SHORT, "pipeline": "sequential"}),
    ("llama-3-8b", "awq_grid4", {**SHORT, "propagate_error": False}),
    ("llama-3-8b", "awq_grid4", {**SHORT, "pipeline": "basic", "weights": "gpu"}),
    *BASIC,
    ("llama-3-8b", "awq_nvfp4", {**SHORT, "weights": "gpu", "layers": 3}),
    ("llama-3-8b", "awq_grid4", {**SHORT, "offload_device": "gpu"}),
    ("llama-3-8b", "awq_grid4", {**SHORT, "targets_per_subgraph": 2, "layers": 3}),
    ("llama-3-8b", "awq_grid4", {**SHORT, "sequential_targets": BLOCKS}),
    ("llama-3-8b", "awq_offload_cpu", {**SHORT, "prefetch": True}),
    ("llama-3-8b", "awq_grid4", {**SHORT, "weights": "gpu"}),
    ("llama-3-8b", "awq_grid4", {**SHORT, "weights": "disk"}),
    ("llama-2-7b", "awq_grid4", SHORT),
    ("qwen3-8b", "awq_w4a16", {**SHORT, "seq_len": 2048}),
    ("gemma-2-9b", "awq_grid4", {**SHORT, "layers": 3}),
    ("cohere2", "awq_grid4", SHORT),
    ("qwen3-30b-a3b", "awq_grid4", {**SHORT, "samples": 8}),
    ("qwen3-30b-a3b", "awq_offload_cuda", {**SHORT, "samples": 3, "batch_size": 2}),
    ("mixtral-8x7b", "awq_grid4", SHORT),
    *ROTATED,
    ("qwen2.5-vl-7b", "awq_w4a16_asym", {**SHORT, "images": 1, "image_size": (644, 644), "seq_len": 1024}),
)

CUDA: Jobs = (
    *MASKED,
    ("llama-3-8b", "awq_w4a16", {**SHORT, "seq_len": 2048}),
    ("llama-3-8b", "awq_w4a16_asym", {**SHORT, "samples": 14, "batch_size": 4}),
    ("llama-3-8b", "awq_no_duo", SHORT),
    ("llama-3-8b", "awq_offload_cpu", {**SHORT, "samples": 64, "layers": 3}),
    ("llama-3-8b", "awq_grid4", {**SHORT, "samples": 64, "layers": 3}),
    ("llama-3-8b", "awq_grid4", {"layers": 1, "samples": 512, "seq_len": 256, "batch_size": 2}),
    ("qwen2.5-7b", "awq_w4a16", {"layers": 2, "samples": 12, "seq_len": 384}),
    ("qwen3-8b", "awq_w4a16", {"layers": 2, "samples": 50, "seq_len": 256}),
    ("llama-2-13b", "awq_w4a16", {"layers": 2, "samples": 100, "seq_len": 128}),
    ("llama-3-8b", "awq_then_gptq", SHORT),
    ("llama-3-8b", "awq_nvfp4", SHORT),
    ("llama-3-8b", "awq_fp8_block", SHORT),
    ("llama-3-8b", "awq_int8", SHORT),
    ("llama-3-8b", "awq_grid4", {**SHORT, "offload_device": "gpu"}),
    ("llama-3-8b", "awq_grid4", {**SHORT, "weights": "gpu"}),
    ("llama-2-7b", "awq_grid4", SHORT),
    ("qwen3-8b", "awq_w4a16", {**SHORT, "seq_len": 2048}),
    ("gemma-2-9b", "awq_grid4", {**SHORT, "layers": 3}),
    ("cohere2", "awq_grid4", SHORT),
    ("qwen3-30b-a3b", "awq_grid4", {**SHORT, "samples": 8}),
    ("qwen3-30b-a3b", "awq_offload_cuda", {**SHORT, "samples": 3, "batch_size": 2}),
    ("mixtral-8x7b", "awq_grid4", SHORT),
    *ROTATED,
    ("llama-2-7b", "awq_attention_int8", {**QUANTIZED, **ON_GPU}),
)
