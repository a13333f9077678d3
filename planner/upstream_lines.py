"""Where the library allocates what a plan names: modifier, kind and role to `file.py function`.

What is not here has no line: a report says nothing then, rather than guess. The opt-in test of citations
(tests/test_upstream.py) looks every function up in the installed library.
"""

from collections.abc import Mapping
from typing import NamedTuple


class Line(NamedTuple):
    """A function of the library, and of what type its tensors are."""

    where: str
    dtype: str | None = None
    """None where it depends on the job."""
    is_square: bool = False


_PREPARE = "gptq/helpers.py prepare_batch"
_QUANTIZE = "gptq/gptq_quantize.py quantize_weight"
_ORDER = "gptq/helpers.py apply_activation_ordering"
_FACTORIZE = "gptq/helpers.py factorize_hessian"
_SPARSIFY = "sparsegpt/sgpt_sparsify.py sparsify_weight"
_WANDA = "wanda/wanda_sparsify.py sparsify_weight"
_SCALES = "awq/base.py `_compute_best_scale`"
_SMOOTHING = "smoothquant/base.py `_calculate_smoothing_scales`"
_FP32 = "float32"

_OF_MODIFIER: Mapping[tuple[str, str], Mapping[str, Line]] = {
    ("GPTQModifier", "hessian"): {"Hessian": Line("gptq/helpers.py make_empty_hessian", _FP32, is_square=True)},
    ("GPTQModifier", "hessian_update"): {
        "num_samples": Line("gptq/base.py calibrate_module"),
        "input in fp32": Line("gptq/helpers.py accumulate_hessian", _FP32),
        "scaled input": Line("gptq/helpers.py accumulate_hessian", _FP32),
        "input @ input.T": Line("gptq/helpers.py accumulate_hessian", _FP32, is_square=True),
    },
    ("GPTQModifier", "compress_inputs"): {
        "normalized Hessian": Line(_PREPARE, _FP32, is_square=True),
        "stacked Hessians": Line(_PREPARE, _FP32),
        "stacked weights": Line(_PREPARE, _FP32),
        "scales": Line(_PREPARE),
        "zero_points": Line(_PREPARE),
    },
    ("GPTQModifier", "compress"): {
        "dead columns": Line(_FACTORIZE, "bool"),
        "perm": Line(_ORDER, "int64"),
        "permuted Hessians": Line(_ORDER, _FP32),
        "permuted weights": Line(_ORDER, _FP32),
        "row losses": Line(_QUANTIZE, _FP32),
        "used_rtn_fallback": Line(_QUANTIZE, "bool"),
        "g_idx": Line(_QUANTIZE),
        "quantized": Line(_QUANTIZE, _FP32),
        "losses": Line(_QUANTIZE, _FP32),
        "w_err": Line(_QUANTIZE, _FP32),
        "W1": Line(_QUANTIZE, _FP32),
        "Q1": Line(_QUANTIZE, _FP32),
        "Err1": Line(_QUANTIZE, _FP32),
        "losses1": Line(_QUANTIZE, _FP32),
    },
    ("GPTQModifier", "cuda_workspace"): {
        "cholesky": Line(_FACTORIZE),
        "cholesky_ex": Line(_FACTORIZE),
        "cholesky_inverse": Line(_FACTORIZE),
    },
    ("GPTQModifier", "writeback"): {
        "weight written back": Line("gptq/helpers.py update_batch_qparams"),
        "weight_scale written back": Line("gptq/helpers.py update_batch_qparams"),
        "weight_zero_point written back": Line("gptq/helpers.py update_batch_qparams"),
    },
    ("SparseGPTModifier", "hessian"): {
        "Hessian": Line("sparsegpt/sgpt_sparsify.py make_empty_hessian", _FP32, is_square=True)
    },
    ("SparseGPTModifier", "hessian_update"): {
        "input in fp32": Line("sparsegpt/sgpt_sparsify.py accumulate_hessian", _FP32),
        "scaled input": Line("sparsegpt/sgpt_sparsify.py accumulate_hessian", _FP32),
        "input @ input.T": Line("sparsegpt/sgpt_sparsify.py accumulate_hessian", _FP32, is_square=True),
    },
    ("SparseGPTModifier", "compress"): {
        "H": Line(_SPARSIFY, _FP32, is_square=True),
        **{role: Line(_SPARSIFY) for role in ("W", "Q1", "Err1", "Err1 @ Hinv", "Losses1", "tmp", "thresh", "diag")},
    },
    ("SparseGPTModifier", "cuda_workspace"): {"H": Line(_SPARSIFY)},
    ("WandaPruningModifier", "observer"): {
        "row scalars": Line("wanda/wanda_sparsify.py make_empty_row_scalars", _FP32),
        "input in fp32": Line("wanda/wanda_sparsify.py accumulate_row_scalars", _FP32),
    },
    ("WandaPruningModifier", "compress"): {
        role: Line(_WANDA) for role in ("W", "W_mask", "W_metric", "sqrt(S)", "sorted metric", "sorted positions")
    },
    ("WandaPruningModifier", "cuda_workspace"): {"sort": Line(_WANDA)},
    ("AWQModifier", "awq"): {
        "arguments of all batches": Line("awq/base.py `_setup_activation_cache_hooks`"),
        "activation statistics": Line("awq/base.py `_setup_activation_cache_hooks`"),
        "outputs": Line("awq/base.py `_run_samples`"),
        "outputs beside the first": Line("awq/base.py `_run_samples`"),
        "outputs of the quantized weights": Line("awq/base.py `_run_samples`"),
        "original weight": Line(_SCALES),
        "scaled weight": Line(_SCALES),
        "quantized / scales": Line(_SCALES),
        "best scales": Line(_SCALES),
        "scales x_mean": Line(_SCALES),
        "mean weight": Line("awq/base.py `_compute_layer_means`"),
        "mean weight_sum": Line("awq/base.py `_compute_layer_means`"),
        "mean weight_total_sum": Line("awq/base.py `_compute_layer_means`"),
    },
    ("SmoothQuantModifier", "observer"): {
        role: Line("smoothquant/base.py `_setup_scale_hooks`")
        for role in (
            "extremes of its output maxima",
            "extremes of its output minima",
            "extremes of its output latest_maxes",
            "extremes of its output latest_mins",
        )
    },
    ("SmoothQuantModifier", "smoothquant"): {
        "rescaled weight": Line("smoothquant/base.py `_apply_smoothing`"),
        **{
            role: Line(_SMOOTHING)
            for role in ("absolute weight", "all weight scales", "power", "quotient", "scales", "weight_scales")
        },
    },
    ("AutoRoundModifier", "autoround"): {
        "inputs of all samples": Line("autoround/base.py input_capture_hook"),
    },
}
"""By modifier and kind, then by role."""

_OF_KIND: Mapping[str, Line] = {
    "weights": Line("offload/cache/base.py OffloadCache.onload"),
    "activation_cache": Line("pipelines/cache.py IntermediatesCache.update"),
    "batch": Line("pipelines/cache.py IntermediatesCache.fetch"),
}
"""Of every modifier, whatever the role."""


def line_of(modifier: str | None, kind: str, role: str) -> Line | None:
    """Where this is allocated; None where nothing is noted. `modifier` may name several, joined by +."""
    for name in (modifier or "").split("+"):
        found = _OF_MODIFIER.get((name, kind), {}).get(role)
        if found is not None:
            return found
    return _OF_KIND.get(kind) if not role else None


def lines() -> tuple[tuple[str, str, Line], ...]:
    """Every entry: (kind, role, line); the role is empty where it is of a whole kind."""
    of_modifiers = ((kind, role, line) for (_, kind), roles in _OF_MODIFIER.items() for role, line in roles.items())
    return (*of_modifiers, *((kind, "", line) for kind, line in _OF_KIND.items()))
