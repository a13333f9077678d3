"""What servers' fused kernels allocate, in the place of transformers' own attention and experts.

Each function makes the tensors that the kernel makes and computes nothing: it runs on tensors without data.
"""

from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from planner.models.failures import pass_on, stands_in

FLASH = "planner_flash"
EXPERTS = "planner_experts"


class Flash:
    """FlashAttention: the output, and an fp32 logsumexp per head and token while it runs.

    flash-attention csrc/flash_attn/flash_api.cpp mha_fwd: `out`, `softmax_lse`. Inputs are read in
    place: (batch, heads, tokens, dim) is a view of what the kernel takes.
    """

    def __init__(self) -> None:
        self.calls = 0

    def __call__(
        self, _module: Any, query: torch.Tensor, _key: torch.Tensor, value: torch.Tensor, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, None]:
        self.calls += 1
        batch, heads, tokens, _width = query.shape
        out = query.new_empty(batch, tokens, heads, value.shape[-1])
        query.new_empty((batch, heads, tokens), dtype=torch.float32)
        return out, None


class SdpaAsFlash(TorchFunctionMode):
    """Models with attention code of their own call torch's function, which takes FlashAttention as its kernel."""

    def __init__(self, flash: Flash) -> None:
        super().__init__()
        self.flash = flash

    @stands_in
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.nn.functional.scaled_dot_product_attention:
            named = dict(zip(("query", "key", "value"), args, strict=False)) | (kwargs or {})
            return self.flash(None, named["query"], named["key"], named["value"])[0].transpose(1, 2)
        return pass_on(func, args, kwargs or {})


def register(flash: Flash) -> None:
    """Let transformers call these by name, until the next ones are registered.

    Under a name that has no mask function transformers makes no mask (masking_utils.py
    _preprocess_mask_arguments).
    """
    from transformers import AttentionInterface
    from transformers.integrations.moe import ExpertsInterface

    AttentionInterface.register(FLASH, flash)
    ExpertsInterface.register(EXPERTS, _fused_experts)


def _fused_experts(
    experts: Any, hidden_states: torch.Tensor, top_k_index: torch.Tensor, _weights: torch.Tensor
) -> torch.Tensor:
    """The routed experts of a layer as one kernel.

    vLLM layers/fused_moe/fused_moe.py fused_experts_impl: one buffer for both products (first gate and up,
    then down), one for the activation between them, and the output. Routing does not change their sizes.
    """
    tokens, hidden = hidden_states.shape
    rows = tokens * top_k_index.shape[-1]
    width = experts.down_proj.numel() // (experts.down_proj.shape[0] * hidden)
    gated = getattr(experts, "gate_up_proj", None) is not None
    products = hidden_states.new_empty(rows * max(width * (1 + gated), hidden))
    between = hidden_states.new_empty(rows, width)
    out = torch.empty_like(hidden_states)
    del products, between
    return out


def routed_alone(module: Any) -> Any:
    """Forward of transformers' Llama4TextMoe where each token runs through its own experts alone.

    modeling_llama4.py runs every expert on every token; servers route.
    """

    def forward(hidden_states: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        flat = hidden_states.reshape(-1, module.hidden_dim)
        scores, logits = module.router(flat)
        chosen = torch.topk(logits, module.top_k, dim=1)
        routed = _fused_experts(module.experts, flat, chosen.indices, scores)
        out = module.shared_expert(flat)
        out.add_(routed)
        return out, logits

    return forward


def is_mixer(module: torch.nn.Module) -> bool:
    """A recurrent layer's mixer: projections around a short convolution (Mamba, gated delta net, short convolution)."""
    parts = dict(module.named_children())
    return isinstance(parts.get("out_proj"), torch.nn.Linear) and any(
        isinstance(part, torch.nn.Conv1d) for part in parts.values()
    )


def scanned(module: Any) -> Any:
    """Forward of a mixer whose convolution and scan are one kernel each.

    mamba_ssm ops/triton/ssd_combined.py mamba_chunk_scan_combined, causal_conv1d_fn, fla
    chunk_gated_delta_rule: each makes its output; what the scan keeps for each chunk is not counted.
    transformers' own PyTorch code holds the scan's products for all tokens at once, a hundredfold.
    """
    parts = dict(module.named_children())
    before = [part for name, part in parts.items() if isinstance(part, torch.nn.Linear) and name != "out_proj"]
    convolution = next(part for part in parts.values() if isinstance(part, torch.nn.Conv1d))

    def forward(hidden_states: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
        rows = hidden_states.shape[:-1]
        projected = [part(hidden_states) for part in before if part.in_features == hidden_states.shape[-1]]
        mixed = hidden_states.new_empty(*rows, convolution.in_channels)
        inside = hidden_states.new_empty(*rows, module.out_proj.in_features)
        del projected, mixed
        result: torch.Tensor = module.out_proj(inside)
        return result

    return forward
