"""llama.cpp's rules for the tensors that a file type keeps in another type than its base: tables.

Source: src/llama-quant.cpp `llama_tensor_get_type_impl` at 0c1e57098bba43ac29e6e3b677cdceebdd22334f. A rule
answers None where the base type stays. Divisions are whole, as there.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

# Architectures whose loader calls 80 layers a 70B model (src/models/<arch>.cpp `load_arch_hparams`).
_LAYERS_OF_70B = {"llama": 80, "qwen2": 80, "deci": 80, "olmo": 80, "jais2": 68}


@dataclass(frozen=True, slots=True, kw_only=True)
class Hyper:
    """What the rules ask of the model (llama.cpp `llama_hparams`)."""

    arch: str
    layers: int
    heads: int
    kv_heads: int
    experts: int

    @property
    def falcon(self) -> bool:
        return self.arch == "falcon"

    @property
    def grouped(self) -> bool:
        """At least four query heads share a value head (`n_gqa() >= 4`)."""
        return self.kv_heads > 0 and self.heads // self.kv_heads >= 4

    @property
    def is_70b(self) -> bool:
        """`LLM_TYPE_70B`; with as many key-value heads as heads, 80 Llama layers are the 65B."""
        sized = _LAYERS_OF_70B.get(self.arch) == self.layers
        return sized and not (self.arch == "llama" and (self.heads == self.kv_heads or self.experts == 8))


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a tensor stands in the model."""

    category: str
    ordinal: int
    """Among the quantized tensors of its category, in the file's order."""
    layer: int
    """For the feed-forward rules: the layer of a mixture of experts, else the ordinal."""
    values: int
    """Attention-V-like tensors of the model."""
    imatrix: bool
    hyper: Hyper

    @property
    def first_eighth(self) -> bool:
        return self.layer < self.hyper.layers // 8

    @property
    def first_sixteenth(self) -> bool:
        return self.layer < self.hyper.layers // 16

    @property
    def more_bits(self) -> bool:
        return _use_more_bits(self.layer, self.hyper.layers)


Rule = Callable[[Place], str | None]


def _use_more_bits(position: int, count: int) -> bool:
    """The first and last eighth, and every third in between."""
    return position < count // 8 or position >= 7 * count // 8 or (position - count // 8) % 3 == 2


def _always(kind: str) -> Rule:
    return lambda _: kind


def _grouped(kind: str) -> Rule:
    return lambda p: kind if p.hyper.grouped else None


def _values_more_bits(p: Place) -> str | None:
    return "Q6_K" if _use_more_bits(p.ordinal, p.values) else None


def _middle(p: Place) -> str | None:
    count = p.hyper.layers
    return "IQ3_XXS" if count // 8 <= p.layer < 7 * count // 8 else None


_VALUES: Mapping[str, Rule] = {
    "Q2_K": lambda p: "Q4_K" if p.hyper.grouped else "Q3_K",
    "Q2_K_S": _grouped("Q4_K"),
    "IQ3_XXS": lambda p: "Q4_K" if p.hyper.grouped else "IQ3_XXS" if p.imatrix else "IQ3_S",
    "IQ3_XS": _grouped("Q4_K"),
    "IQ3_S": _grouped("Q4_K"),
    "IQ3_M": _always("Q4_K"),
    "Q3_K_M": lambda p: "Q5_K" if p.ordinal < 2 else "Q4_K",
    "Q3_K_L": _always("Q5_K"),
    "IQ4_NL": _grouped("Q5_K"),
    "IQ4_XS": _grouped("Q5_K"),
    "Q4_K_M": _values_more_bits,
    "Q5_K_M": _values_more_bits,
    "Q4_K_S": lambda p: "Q5_K" if p.ordinal < 4 else None,
}


def _down_q3_k_m(p: Place) -> str | None:
    if p.first_sixteenth:
        return "Q5_K"
    return "Q4_K" if not p.hyper.falcon or p.more_bits else None


def _down_q4_k_m(p: Place) -> str | None:
    if not p.hyper.falcon:
        return "Q6_K" if p.more_bits else None
    return "Q6_K" if p.first_sixteenth else "Q5_K" if p.more_bits else None


def _down_iq3_m(p: Place) -> str | None:
    return "Q4_K" if p.first_eighth or (p.hyper.experts == 8 and p.more_bits) else None


def _down_iq3_xxs(p: Place) -> str | None:
    return None if p.imatrix else "Q4_K" if p.first_eighth else "Q3_K"


def _down_iq4(p: Place) -> str | None:
    return "Q5_K" if p.first_eighth and not p.imatrix else None


def _down_guard(kind: str) -> Rule:
    """With an importance matrix, legacy types are unsafe in the first layers."""
    return lambda p: kind if p.imatrix and p.first_eighth else None


_DOWN: Mapping[str, Rule] = {
    "Q2_K": _always("Q3_K"),
    "Q2_K_S": lambda p: "Q4_K" if p.first_eighth else None,
    "IQ3_XXS": _down_iq3_xxs,
    "Q3_K_M": _down_q3_k_m,
    "IQ3_M": _down_iq3_m,
    "Q3_K_L": lambda p: "Q4_K" if p.hyper.falcon else "Q5_K",
    "Q4_K_M": _down_q4_k_m,
    "IQ4_NL": _down_iq4,
    "IQ4_XS": _down_iq4,
    "Q5_K_M": lambda p: "Q6_K" if p.more_bits else None,
    "Q4_K_S": lambda p: "Q5_K" if not p.hyper.falcon and p.first_eighth else None,
    "Q4_0": _down_guard("Q4_1"),
    "Q5_0": _down_guard("Q5_1"),
}

_OF_EIGHT_EXPERTS = {
    "Q2_K", "IQ3_XS", "IQ3_XXS", "Q3_K_S", "Q3_K_M", "IQ4_NL", "Q4_K_S", "Q4_K_M", "IQ3_S", "IQ3_M", "IQ4_XS",
}  # fmt: skip


def _out(kind: str) -> Rule:
    """The attention's output; Falcon and eight experts have rules of their own."""
    return lambda p: None if p.hyper.falcon or p.hyper.experts == 8 else kind


def _out_q3_k_l(p: Place) -> str | None:
    return "Q4_K" if p.hyper.falcon else _out("Q5_K")(p)


_PLAIN: Mapping[str, Mapping[str, Rule]] = {
    "attn_v": _VALUES,
    "attn_k": {"IQ3_XS": _always("IQ3_XXS"), "IQ3_XXS": _always("IQ2_S")},
    "attn_q": {"IQ3_XS": _always("IQ3_XXS"), "IQ3_XXS": _always("IQ2_S")},
    "attn_output": {
        "Q2_K": _out("Q3_K"),
        "IQ3_XXS": _out("IQ3_S"),
        "Q3_K_M": _out("Q4_K"),
        "Q3_K_L": _out_q3_k_l,
        "IQ3_M": _out("Q4_K"),
    },
    "ffn_down": _DOWN,
    "ffn_gate": {"IQ3_XS": _middle},
    "ffn_up": {"IQ3_XS": _middle},
}
"""By category and file type; for the file types that are not of low bits."""

_LOW_BIT = {"IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ2_M"}
_UPPER = {"IQ2_S", "IQ2_M"}

OUTPUT: Mapping[str, str] = dict.fromkeys((*sorted(_LOW_BIT), "IQ3_XXS"), "Q5_K")
"""Type of the head where it is not Q6_K."""

TOKEN_EMBEDDING: Mapping[str, str] = {
    **dict.fromkeys(("IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS"), "Q2_K"),
    **dict.fromkeys(("IQ2_S", "IQ2_M", "IQ3_XXS"), "IQ3_S"),
    **dict.fromkeys(("TQ1_0", "TQ2_0", "Q2_0"), "Q4_K"),
}
"""Type of a token embedding that is not the head too, where it is not the base."""


def type_of(file_type: str, base: str, place: Place) -> str:
    """Type of a matrix that is neither head nor token embedding; blocks may not fill its rows."""
    if file_type in _LOW_BIT:
        return _low_bit(file_type, place) or base
    rule = _PLAIN.get(place.category, {}).get(file_type)
    return _raised((rule and rule(place)) or base, file_type, place)


def _low_bit(file_type: str, p: Place) -> str | None:
    better = "IQ3_S" if file_type in _UPPER else "Q2_K"
    if p.category == "attn_v":
        return "Q4_K" if p.hyper.grouped or p.hyper.experts >= 4 else better
    if p.category == "attn_k":
        return "Q4_K" if p.hyper.experts == 8 else None
    if p.category == "ffn_down":
        # The counter, whatever the layer: shared experts count as well.
        return better if p.ordinal < p.hyper.layers // 8 else None
    return _low_bit_out(file_type, p) if p.category == "attn_output" else None


def _low_bit_out(file_type: str, p: Place) -> str | None:
    if p.hyper.experts == 8:
        return "Q5_K"
    return {"IQ1_S": "IQ2_XXS", "IQ1_M": "IQ2_XXS", "IQ2_S": "IQ3_S", "IQ2_M": "IQ3_S"}.get(file_type)


def _raised(kind: str, file_type: str, p: Place) -> str:
    """Small attention matrices are raised in 70B models and in those of eight experts."""
    if p.category == "attn_v" and p.hyper.is_70b and kind in ("Q3_K", "Q4_K"):
        kind = "Q5_K"
    if p.hyper.experts != 8:
        return kind
    if p.category in ("attn_v", "attn_k"):
        return "Q8_0"
    raised = p.category == "attn_output" and not p.hyper.falcon and file_type in _OF_EIGHT_EXPERTS
    return "Q5_K" if raised else kind
