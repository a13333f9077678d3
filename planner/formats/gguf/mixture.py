"""Which ggml type each tensor of a file type gets: llama.cpp's quantizer, tensor by tensor.

Source of every rule: llama.cpp src/llama-quant.cpp at 0c1e57098bba43ac29e6e3b677cdceebdd22334f, functions
`llama_tensor_get_type_impl`, `llama_tensor_get_type`, `tensor_allows_quantization`, `tensor_type_fallback`,
`init_quantize_state_counters`. Its rules for one unreleased architecture (glm5-next) are left out: the gguf
package does not know it.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from planner.errors import UnsupportedError
from planner.formats.gguf.filetypes import FileType
from planner.formats.gguf.rules import OUTPUT, TOKEN_EMBEDDING, Hyper, Place, type_of
from planner.formats.gguf.types import fits, is_quantized

# `tensor_get_category`: the first that matches, in this order. Whole names first, then parts of names.
_WHOLE = {
    "output.weight": "output",
    "token_embd.weight": "token_embd",
    "per_layer_token_embd.weight": "token_embd",
}
_PARTS = (
    ("attn_qkv.weight", "attn_v"),
    ("attn_kv_b.weight", "attn_v"),
    ("attn_v.weight", "attn_v"),
    ("attn_k.weight", "attn_k"),
    ("attn_q.weight", "attn_q"),
    ("attn_output.weight", "attn_output"),
    ("ffn_up", "ffn_up"),
    ("ffn_gate", "ffn_gate"),
    ("ffn_down", "ffn_down"),
)

# `tensor_allows_quantization`: parts of the names of tensors that stay as converted.
_KEPT = (
    "_norm.weight", "ffn_gate_inp.weight", "ffn_gate_tid2eid.weight", "altup", "laurel", "per_layer_model_proj",
    "ssm_conv1d", "shortconv.conv.weight", "indexer.k_proj.weight", "indexer.q_proj.weight",
    *(f"time_mix_{part}.weight" for part in (
        "first", "w0", "w1", "w2", "v0", "v1", "v2", "a0", "a1", "a2", "g1", "g2", "decay_w1", "decay_w2", "lerp_fused",
    )),
    "attn_rel_b.weight", ".position_embd", "sam.pos_embd", "sam.neck.", "sam.net_", ".rel_pos", ".patch_embd",
    ".patch_merger", "a.rvq.codebook", "mm.a.code_embd",
)  # fmt: skip
_KEPT_WHOLE = {"position_embd.weight", "token_types.weight"}

# `tensor_type_fallback`: for rows that blocks of 256 (or 64) do not fill.
_SMALLER_BLOCK = {
    **dict.fromkeys(("IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S", "IQ4_XS"), "IQ4_NL"),
    **dict.fromkeys(("Q2_0", "Q2_K", "Q3_K", "TQ1_0", "TQ2_0"), "Q4_0"),
    "Q4_K": "Q5_0",
    "Q5_K": "Q5_1",
    "Q6_K": "Q8_0",
}
_BLOCKS_OF_32 = {"Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "IQ4_NL", "MXFP4"}

_LAYER = re.compile(r"blk\.(\d+)\.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Tensor:
    """A tensor as the converter writes it, before it is quantized."""

    name: str
    shape: tuple[int, ...]
    """Columns last."""
    type: str
    """What the converter keeps it in."""

    @property
    def axes(self) -> int:
        """Axes as ggml counts them: leading ones of length 1 are none (`ggml_n_dims`)."""
        leading = next((i for i, length in enumerate(self.shape) if length > 1), len(self.shape) - 1)
        return len(self.shape) - leading


def category(name: str) -> str:
    """What the quantizer takes a tensor for, from its name (`tensor_get_category`); fused QKV counts as V."""
    return _WHOLE.get(name) or next((kind for part, kind in _PARTS if part in name), "other")


def allows_quantization(tensor: Tensor) -> bool:
    """Whether a tensor is quantized at all (`tensor_allows_quantization`)."""
    kept = tensor.name in _KEPT_WHOLE or any(part in tensor.name for part in _KEPT)
    return tensor.axes >= 2 and tensor.name.endswith("weight") and not kept


def fallback(kind: str, columns: int) -> str:
    """The type that stands in where blocks do not fill a row (`tensor_type_fallback`).

    Raises UnsupportedError for a type that llama.cpp has no stand-in for.
    """
    if not is_quantized(kind) or fits(kind, columns):
        return kind
    if kind not in _SMALLER_BLOCK and kind not in _BLOCKS_OF_32:
        raise UnsupportedError(f"{kind}: llama.cpp has no stand-in for rows of {columns}; take another type")
    smaller = _SMALLER_BLOCK.get(kind, kind)
    return smaller if fits(smaller, columns) else "F16"


def tensor_types(
    tensors: Sequence[Tensor], hyper: Hyper, file_type: FileType, *, imatrix: bool, pure: bool = False
) -> dict[str, str]:
    """The ggml type of every tensor, by name.

    `pure` gives all matrices the base type (`llama-quantize --pure`). Raises UnsupportedError as `fallback`.
    """
    ordered = sorted(tensors, key=_file_order)
    quantized = [tensor for tensor in ordered if allows_quantization(tensor)]
    types = {tensor.name: tensor.type for tensor in tensors}
    places = _places(ordered, quantized, hyper, imatrix)
    for tensor in quantized:
        kind = file_type.base
        if is_quantized(kind):
            chosen = kind if pure else _choose(tensor, file_type, places[tensor.name])
            kind = fallback(chosen, tensor.shape[-1])
        types[tensor.name] = kind
    return types


def _file_order(tensor: Tensor) -> tuple[int, str]:
    """llama.cpp src/llama-model-loader.h `weight_name_comparer`: by layer, those of none first, then by name."""
    match = _LAYER.match(tensor.name)
    return (int(match[1]) if match else -1, tensor.name)


def _places(ordered: Iterable[Tensor], quantized: Iterable[Tensor], hyper: Hyper, imatrix: bool) -> Mapping[str, Place]:
    """Where each tensor stands among those of its kind: the counters of `quantize_state_impl`."""
    names = [tensor.name for tensor in ordered]
    values = sum(category(name) == "attn_v" for name in names)
    tied = "output.weight" not in names
    seen: dict[str, int] = {}
    places = {}
    for tensor in quantized:
        kind = category(tensor.name)
        ordinal = seen.get(kind, 0)
        seen[kind] = ordinal + 1
        match = _LAYER.match(tensor.name)
        # layer_info: of a mixture of experts the layer stands in the name, several tensors share it.
        layer = int(match[1]) if match and hyper.experts > 1 else ordinal
        places[tensor.name] = Place(
            category="output" if tied and kind == "token_embd" else kind,
            ordinal=ordinal,
            layer=layer,
            values=values,
            imatrix=imatrix,
            hyper=hyper,
        )
    return places


def _choose(tensor: Tensor, file_type: FileType, place: Place) -> str:
    """`llama_tensor_get_type_impl` for one tensor."""
    name, base = file_type.name, file_type.base
    if place.category == "output":
        return _output_type(tensor, file_type, place)
    if name == "MXFP4_MOE":
        return "MXFP4" if len(tensor.shape) > 2 and tensor.shape[-3] > 1 else "Q8_0"
    if place.category == "token_embd":
        return TOKEN_EMBEDDING.get(name, base)
    return type_of(name, base, place)


def _output_type(tensor: Tensor, file_type: FileType, place: Place) -> str:
    """The head; the token embedding too where it is the head."""
    if file_type.name == "MXFP4_MOE" or place.hyper.falcon or not fits(file_type.base, tensor.shape[-1]):
        return "Q8_0"
    return OUTPUT.get(file_type.name, file_type.base if file_type.base == "Q8_0" else "Q6_K")
