"""GGUF names for tensors that llama.cpp's tables do not list, from what their Hugging Face names say."""

import re

from planner.formats.tensors import ANY_EXPERT, Weight

_FEED_FORWARD = re.compile(r"mlp|ffn|feed_forward|experts|moe|fc\d")
# First match decides. The ends of module names, as transformers' decoders spell them.
_ROLES = (
    (r"(qkv_proj|query_key_value|c_attn|wqkv|qkv)$", "attn_qkv"),
    (r"(q_proj|wq|query)$", "attn_q"),
    (r"(k_proj|wk|key)$", "attn_k"),
    (r"(v_proj|wv|value)$", "attn_v"),
    (r"(o_proj|out_proj|wo|c_proj|dense)$", "attn_output"),
)
_FEED_FORWARD_ROLES = (
    (r"(gate|router|gate_inp)$", "ffn_gate_inp"),
    (r"(gate_proj|w1)$", "ffn_gate"),
    (r"(up_proj|gate_up_proj|w3|fc1|c_fc|dense_h_to_4h|wi)$", "ffn_up"),
    (r"(down_proj|w2|fc2|c_proj|dense_4h_to_h|wo)$", "ffn_down"),
)


def role_name(weight: Weight) -> str:
    """A name under which the quantizer's rules treat a tensor by its role."""
    if weight.unit in ("embedding", "head") and len(weight.shape) == 2:
        return "token_embd.weight" if weight.unit == "embedding" else "output.weight"
    module, _, ending = weight.name.rpartition(".")
    if ending not in ("weight", "bias"):  # a bare parameter is named by its own ending
        module, ending = weight.name, "weight" if len(weight.shape) > 1 else "param"
    prefix = "" if weight.layer is None else f"blk.{weight.layer}."
    return f"{prefix}{_role(module) or module}{_suffix(weight)}.{ending}"


def _role(module: str) -> str | None:
    roles = _FEED_FORWARD_ROLES if _FEED_FORWARD.search(module) else _ROLES
    return next((name for pattern, name in roles if re.search(rf"(^|[._]){pattern}", module)), None)


def _suffix(weight: Weight) -> str:
    return "_exps" if ANY_EXPERT in weight.name else "_shexp" if "shared_expert" in weight.name else ""
