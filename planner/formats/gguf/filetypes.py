"""The file types of llama-quantize: name, base type, other names.

Source: llama.cpp tools/quantize/quantize.cpp `QUANT_OPTIONS` and src/llama-quant.cpp
`llama_ftype_get_default_type` at 0c1e57098bba43ac29e6e3b677cdceebdd22334f.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class FileType:
    """One file type."""

    name: str
    base: str
    """ggml type of a matrix that no rule names."""
    aliases: tuple[str, ...] = ()
    needs_imatrix: bool = False
    """llama-quantize refuses to make it without an importance matrix (`tensor_requires_imatrix`)."""

    @property
    def imatrix(self) -> bool:
        """Whether published files of this type are made with an importance matrix: IQ types, and Q2_K_S."""
        return self.needs_imatrix or self.name.startswith("IQ")


# Base types by file type where the names differ; the others are named after their base.
_MIXTURES = {
    "Q2_K_S": "Q2_K", "Q3_K_S": "Q3_K", "Q3_K_M": "Q3_K", "Q3_K_L": "Q3_K", "Q4_K_S": "Q4_K", "Q4_K_M": "Q4_K",
    "Q5_K_S": "Q5_K", "Q5_K_M": "Q5_K", "IQ2_S": "IQ2_XS", "IQ2_M": "IQ2_S", "IQ3_XS": "IQ3_S", "IQ3_M": "IQ3_S",
    "MXFP4_MOE": "MXFP4",
}  # fmt: skip
_NAMES = (
    "Q1_0", "Q2_0", "IQ1_S", "IQ1_M", "TQ1_0", "IQ2_XXS", "TQ2_0", "IQ2_XS", "IQ2_S", "IQ2_M", "Q2_K_S", "Q2_K",
    "IQ3_XXS", "IQ3_XS", "Q3_K_S", "IQ3_S", "IQ3_M", "Q3_K_M", "Q3_K_L", "IQ4_XS", "MXFP4_MOE", "IQ4_NL", "Q4_0",
    "Q4_K_S", "Q4_K_M", "Q4_1", "Q5_0", "Q5_K_S", "Q5_K_M", "Q5_1", "Q6_K", "Q8_0", "F16", "BF16", "F32",
)  # fmt: skip
# F16 and F32 under the names of formats, which are gguf:F16 and gguf:F32; bf16 is the plain format's.
_ALIASES = {"Q3_K_M": ("Q3_K",), "Q4_K_M": ("Q4_K",), "Q5_K_M": ("Q5_K",), "F16": ("F16",), "F32": ("F32",)}
_NEED_IMATRIX = {"IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ2_M", "IQ3_XXS", "IQ3_XS", "Q2_K_S"}

FILE_TYPES = tuple(
    FileType(
        name=name,
        base=_MIXTURES.get(name, name),
        aliases=_ALIASES.get(name, ()),
        needs_imatrix=name in _NEED_IMATRIX,
    )
    for name in _NAMES
)
"""Smallest first, roughly."""
