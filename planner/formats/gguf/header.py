"""What a GGUF file holds besides tensor data: tensor infos, padding, and the tokenizer.

Source of the layout: ggml docs/gguf.md (`gguf_file_t`); alignment 32 (GGUF_DEFAULT_ALIGNMENT).
"""

from collections.abc import Sequence
from fractions import Fraction

from planner.formats.gguf.mixture import Tensor

ALIGNMENT = 32
_FIXED = 4 + 4 + 8 + 8  # magic, version, counts of tensors and of key-value pairs

# Sizes of llama.cpp's models/ggml-vocab-*.gguf at 0c1e57098bba43ac29e6e3b677cdceebdd22334f: files that hold a
# tokenizer and nothing else, by the vocabulary of the models that use it.
_MEASURED = {
    32000: 723_869,  # llama-spm
    32064: 726_019,  # phi-3
    50257: 1_766_807,  # gpt-2
    50432: 1_771_431,  # gpt-neox
    65024: 2_287_728,  # falcon
    102400: 3_970_167,  # deepseek-llm
    128256: 7_818_140,  # llama-bpe
    151936: 5_928_681,  # qwen2
    152064: 5_928_681,  # qwen2
    256000: 10_874_545,  # command-r
    262144: 15_776_467,  # gemma-4
}
# Over those eleven, bytes per token are between 22 and 61; the middle one.
_PER_TOKEN = Fraction(39)


def tokenizer_bytes(vocabulary: int) -> int:
    """Of the tokenizer's block: measured for well-known vocabularies, else 39 bytes per token."""
    return _MEASURED.get(vocabulary) or int(vocabulary * _PER_TOKEN)


def header_bytes(tensors: Sequence[Tensor], sizes: Sequence[int], vocabulary: int) -> int:
    """Bytes of a file that are not tensor data. Some hundred bytes of hyperparameters are left out."""
    infos = sum(8 + len(t.name.encode()) + 4 + 8 * len(t.shape) + 4 + 8 for t in tensors)
    padding = sum(-size % ALIGNMENT for size in sizes)
    head = _FIXED + infos + tokenizer_bytes(vocabulary)
    return head + -head % ALIGNMENT + padding


def header_note(vocabulary: int) -> str:
    """How the tokenizer's share of the file is known."""
    how = "as measured for this vocabulary size" if vocabulary in _MEASURED else "estimated at 39 bytes per token"
    return f"File size includes {tokenizer_bytes(vocabulary) / 1e6:.1f} MB of tokenizer, {how}."
