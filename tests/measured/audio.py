"""The jobs that were measured on a model that hears.

configs/qwen2-audio.json: the audio part is transformers' default (Qwen2AudioConfig), which is that of the checkpoint;
the text part's sizes are those of Qwen/Qwen2-Audio-7B, 8.4 billion weights in all. LLM Compressor does not get through
its traced forward (planner/models/tracing_stops.py), so the model is one target here, or runs untraced.
"""

from typing import Any

MODEL = "qwen2-audio"
WHOLE: dict[str, Any] = {"layers": 2, "samples": 3, "seq_len": 1024, "sequential_targets": ("Qwen2AudioModel",)}
UNTRACED: dict[str, Any] = {"layers": 2, "samples": 3, "audios": 2, "pipeline": "basic", "weights": "gpu"}
Jobs = tuple[tuple[str, str, dict[str, Any]], ...]

CUDA: Jobs = (
    (MODEL, "gptq_w4a16", {**WHOLE, "audios": 1}),
    (MODEL, "gptq_w4a16", WHOLE),
    (MODEL, "rtn_fp8_dynamic", {"layers": 2}),
    (MODEL, "rtn_w8a8_static", UNTRACED),
)
METER: Jobs = (
    *CUDA,
    (MODEL, "rtn_w8a8_static", {**WHOLE, "samples": 5, "batch_size": 2, "audios": 1, "audio_seconds": 12}),
)
