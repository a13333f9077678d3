"""Which of LLM Compressor's functions a plan follows, by what holds the memory.

Files are as far as they tell them apart. A test with the real library beside planner looks every one up
(tests/test_upstream.py), as it does for the citations beside the code that follows them.
"""

from collections.abc import Mapping, Sequence

_HESSIANS = ("modifiers/gptq/helpers.py make_empty_hessian", "modifiers/gptq/helpers.py accumulate_hessian")
_OBSERVERS = (
    "modifiers/quantization/calibration.py update_qparams",
    "modifiers/quantization/quantization/mixin.py start_calibration",
)

ANYWHERE: Mapping[str, tuple[str, ...]] = {
    "weights": ("offload/cache/base.py OffloadCache.__getitem__", "utils/helpers.py disable_lm_head"),
    "model": ("modeling/moe/linearize.py linearize_moe", "utils/transformers.py untie_word_embeddings"),
    "forward": ("pipelines/sequential/helpers.py trace_subgraphs", "utils/helpers.py use_eager_attention"),
    "batch": ("llmcompressor/pipelines/cache.py IntermediatesCache.fetch", "pipelines/cache.py iter_prefetch"),
    "activation_cache": ("llmcompressor/pipelines/cache.py IntermediatesCache",),
    "hessian": _HESSIANS,
    "hessian_update": _HESSIANS,
    "observer": _OBSERVERS,
    "qparams": ("modifiers/quantization/quantization/mixin.py initialize_quantization",),
    "mask": ("modifiers/pruning/sparsegpt/sgpt_base.py SparsityModifierBase",),
    "writeback": ("offload/cache/base.py OffloadCache.__setitem__",),
}
"""Kinds of allocation (planner/compress/parts.py) that no modifier alone decides."""

BY_MODIFIER: Mapping[str, tuple[str, ...]] = {
    "GPTQModifier": (
        "gptq/base.py compress_module_list",
        "gptq/helpers.py prepare_batch",
        "gptq/helpers.py factorize_hessian",
        "gptq/gptq_quantize.py quantize_weight",
    ),
    "SparseGPTModifier": ("sparsegpt/base.py compress_modules", "sgpt_sparsify.py sparsify_weight"),
    "WandaPruningModifier": ("wanda/base.py compress_modules", "wanda_sparsify.py sparsify_weight"),
    "AWQModifier": (
        "transform/awq/base.py _apply_smoothing",
        "transform/awq/base.py _compute_best_scale",
        "transform/awq/base.py _run_samples",
    ),
    "SmoothQuantModifier": ("smoothquant/base.py _apply_smoothing", "smoothquant/base.py _setup_scale_hooks"),
    "AutoRoundModifier": ("autoround/base.py apply_autoround", "compressors/orchestrator.py quantize_block"),
    "SpinQuantModifier": ("spinquant/base.py _fuse_norms", "transform/spinquant/base.py on_calibration_start"),
    "QuIPModifier": ("transform/factory/base.py _apply_to_module", "transform/apply.py apply_transform_config"),
    "REAPPruningModifier": ("reap/base.py on_finalize", "reap/utils.py prune_moe_layer"),
    "QuantizationModifier": ("quantization/quantization/base.py QuantizationModifier", *_OBSERVERS),
}
"""What else a modifier holds while it compresses or calibrates."""


def cited(modifier: str | None, kinds: Sequence[str]) -> tuple[str, ...]:
    """The functions for these kinds in a run of these modifiers (their names joined by +), each once; the modifiers'
    own where a kind is not everybody's."""
    found: list[str] = []
    for kind in kinds:
        found += ANYWHERE.get(kind) or _own(modifier)
    return tuple(dict.fromkeys(found)) or _own(modifier)


def _own(modifier: str | None) -> tuple[str, ...]:
    return tuple(each for name in (modifier or "").split("+") for each in BY_MODIFIER.get(name, ()))
