"""Facts that planner takes from the code of LLM Compressor and of its dependencies, and where each is written.

The facts are names, limits and defaults; PLACES says where each is written. A test (opt-in, with the real library
beside planner) looks every place up and compares, so that it shows what a new release changed. How the library
*uses memory* is not here: the code that mirrors it cites the functions it mirrors.

Files are relative to site-packages.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

How = Literal["value", "default", "literals", "names", "exists"]


@dataclass(frozen=True, slots=True)
class Citation:
    """Where the library says it, and how the fact is found there.

    value: the symbol is assigned this value;
    default: the symbol is a field or an argument with this default;
    literals: these values are written somewhere inside the symbol;
    names: the fact is a list of names, and the file defines each of them;
    exists: the symbol is defined there, and that is the fact.
    """

    file: str
    symbol: str
    how: How
    written: object = None
    """What is written there, where planner keeps the fact in another form."""


LLMCOMPRESSOR_VERSION = "0.14.0.1"
"""The release that plans are for."""

MODIFIERS: Mapping[str, str] = {
    "QuantizationModifier": "llmcompressor/modifiers/quantization/quantization/base.py",
    "GPTQModifier": "llmcompressor/modifiers/gptq/base.py",
    "SparseGPTModifier": "llmcompressor/modifiers/pruning/sparsegpt/base.py",
    "AWQModifier": "llmcompressor/modifiers/transform/awq/base.py",
    "AutoRoundModifier": "llmcompressor/modifiers/autoround/base.py",
    "ConstantPruningModifier": "llmcompressor/modifiers/pruning/constant/base.py",
    "LogarithmicEqualizationModifier": "llmcompressor/modifiers/logarithmic_equalization/base.py",
    "MagnitudePruningModifier": "llmcompressor/modifiers/pruning/magnitude/base.py",
    "QuIPModifier": "llmcompressor/modifiers/transform/quip/base.py",
    "REAPPruningModifier": "llmcompressor/modifiers/pruning/reap/base.py",
    "SmoothQuantModifier": "llmcompressor/modifiers/transform/smoothquant/base.py",
    "SpinQuantModifier": "llmcompressor/modifiers/transform/spinquant/base.py",
    "WandaPruningModifier": "llmcompressor/modifiers/pruning/wanda/base.py",
}
"""ModifierFactory.load_from_package: every class that a recipe can ask for, and the file that defines it."""

ONESHOT_DEFAULTS: Mapping[str, int | str | bool | None] = {
    "num_calibration_samples": 512,
    "batch_size": 1,
    "pipeline": "independent",
    "sequential_targets": None,
    "sequential_targets_per_subgraph": 1,
    "sequential_offload_device": "cpu",
    "sequential_prefetch": False,
    "use_loss_mask": False,
    "propagate_error": True,
    "moe_calibrate_all_experts": True,
}
"""Arguments of `oneshot` that a plan depends on, with the values they have when nobody gives them."""

TRACING_IGNORE: tuple[str, ...] = (
    "_update_causal_mask", "create_causal_mask", "_update_mamba_mask", "make_causal_mask", "get_causal_mask",
    "mask_interface", "mask_function", "_prepare_4d_causal_attention_mask", "_prepare_fsmt_decoder_inputs",
    "_prepare_4d_causal_attention_mask_with_cache_position", "_update_linear_attn_mask",
    "project_per_layer_inputs", "_apply_attn_res",
)  # fmt: skip
"""Functions whose calls are wrapped while a forward is traced."""

MASK_FUNCTIONS: tuple[str, ...] = (
    "create_causal_mask",
    "create_sliding_window_causal_mask",
    "create_chunked_causal_mask",
)
"""transformers' functions that make an attention mask from a config."""

FUSED_LAYER_NAMES: tuple[tuple[str, ...], ...] = (
    ("gate_proj", "up_proj"),
    ("q_proj", "k_proj", "v_proj"),
    ("q_a_proj", "kv_a_proj_with_mqa"),
    ("w1", "w3"),
)
"""Siblings that served models fuse, so that they share one global scale."""

ATTENTION_PROJECTIONS: tuple[str, ...] = ("k_proj", "v_proj", "qkv_proj", "kv_b_proj")
"""A module whose class name says attention has a cache of keys and values if it has one of these children."""

KV_CACHE_TARGETS: list[str] = ["re:.*(self_attn|attention)$"]
"""What kv_cache_scheme adds to the targets of a modifier: attentions of other names get no observers."""

REAP_ROUTER_ATTRS: list[str] = ["router", "gate"]
REAP_EXPERTS_ATTRS: list[str] = ["experts"]
"""What a layer calls its router and its experts, where REAP can prune it."""

REAP_CONFIG_KEYS: Mapping[str, tuple[str, ...]] = {
    "experts": ("num_experts", "num_local_experts", "moe_num_experts"),
    "experts_per_token": ("num_experts_per_tok", "top_k", "moe_top_k"),
    "expert_groups": ("n_group",),
    "groups_per_token": ("topk_group", "top_k_group"),
}
"""Config keys in which REAP finds what it goes by; the first key that is there counts."""

PRUNABLE_LAYER_TYPES: tuple[str, ...] = ("Linear", "Conv1d", "Conv2d", "Conv3d")
"""Classes whose weights SparseGPT and Wanda prune."""

MSE_TILE = 512
"""Number of values that one program of the MSE observers' grid search handles."""

GPTQ_MIN_BATCHED_CHOLESKY = 16
"""Smallest number of modules in a batch whose Hessians are factorized together."""

GPTQ_TRITON_MAX_BLOCK = 256
"""The widest block of columns that the fused update takes."""

GPTQ_AUTO_SHARE_PERCENT = 75
"""Share of the free GPU memory that `batched_quantization: auto` plans with."""

EXPERT_COUNT_KEYS: tuple[str, ...] = ("num_local_experts", "moe_num_experts", "num_experts", "n_routed_experts")
"""Config keys for the number of routed experts in a layer; the first key that is present counts."""

EXPERTS_PER_TOKEN_KEYS: tuple[str, ...] = ("top_k_experts", "num_experts_per_tok")
"""Config keys for the number of routed experts that each token goes to; the first key that is present counts."""

LLAMA4_EXPERTS = ("transformers.models.llama4.modeling_llama4", "Llama4TextExperts")
GPT_OSS_EXPERTS = ("transformers.models.gpt_oss.modeling_gpt_oss", "GptOssExperts")
"""Module and class of the fused experts that have linear experts of their own."""

_GPTQ, _MOE = "llmcompressor/modifiers/gptq", "llmcompressor/modeling/moe"
_SGPT = "llmcompressor/modifiers/pruning/sparsegpt/sgpt_base.py"
_REAP = "llmcompressor/modifiers/pruning/reap/utils.py"
_DATASET = "llmcompressor/args/dataset_arguments.py"

PLACES: Mapping[str, Citation] = {
    "LLMCOMPRESSOR_VERSION": Citation("llmcompressor/version.py", "__version__", "value"),
    "ONESHOT_DEFAULTS": Citation(_DATASET, "DatasetArguments", "default"),
    "TRACING_IGNORE": Citation(_DATASET, "DatasetArguments.tracing_ignore", "default"),
    "MASK_FUNCTIONS": Citation("transformers/masking_utils.py", "", "names"),
    "FUSED_LAYER_NAMES": Citation("llmcompressor/observers/helpers.py", "FUSED_LAYER_NAMES", "value"),
    "ATTENTION_PROJECTIONS": Citation(
        "compressed_tensors/quantization/lifecycle/initialize.py", "_is_attention_module", "literals"
    ),
    "REAP_ROUTER_ATTRS": Citation(_REAP, "ROUTER_ATTRS", "value"),
    "REAP_EXPERTS_ATTRS": Citation(_REAP, "EXPERTS_ATTRS", "value"),
    "REAP_CONFIG_KEYS": Citation(
        _REAP, "TOP_K_CONFIG_KEYS", "value", written=["num_experts_per_tok", "top_k", "moe_top_k"]
    ),
    "KV_CACHE_TARGETS": Citation("compressed_tensors/quantization/utils/helpers.py", "KV_CACHE_TARGETS", "value"),
    "PRUNABLE_LAYER_TYPES": Citation(_SGPT, "PRUNABLE_LAYER_TYPES", "value"),
    "MSE_TILE": Citation("llmcompressor/observers/mse_quant.py", "_grid_search_mse_triton.tile_values", "value"),
    "GPTQ_MIN_BATCHED_CHOLESKY": Citation(f"{_GPTQ}/helpers.py", "MIN_BATCHED_CHOLESKY_SIZE", "value"),
    "GPTQ_TRITON_MAX_BLOCK": Citation(f"{_GPTQ}/gptq_quantize.py", "_gptq_block_update_triton_req", "literals"),
    "GPTQ_AUTO_SHARE_PERCENT": Citation(f"{_GPTQ}/helpers.py", "max_batch_size", "literals", written=0.75),
    "EXPERT_COUNT_KEYS": Citation(f"{_MOE}/helpers.py", "MoEConfig.from_config", "literals"),
    "EXPERTS_PER_TOKEN_KEYS": Citation(f"{_MOE}/helpers.py", "MoEConfig.from_config", "literals"),
    "LLAMA4_EXPERTS": Citation(
        "transformers/models/llama4/modeling_llama4.py", "", "names", written=("Llama4TextExperts",)
    ),
    "GPT_OSS_EXPERTS": Citation(
        "transformers/models/gpt_oss/modeling_gpt_oss.py", "", "names", written=("GptOssExperts",)
    ),
}
"""Keys are the names of the facts above. MODIFIERS names its files itself."""
