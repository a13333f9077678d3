"""Rules that guides print for serving and training memory, as they are: a second method beside the exact one.

Arguments are whole numbers or Fractions, results are whole bytes, rounded up. Guides print "GB" for 10^9 and for 2^30
bytes; here nothing is divided, so `planner.units` decides. docs/formulas.md holds every example that those guides
work out, with what the rules give and what the model itself takes.
The rule for compression jobs is in `planner.compress.rule_of_thumb`.
"""

from collections.abc import Mapping
from fractions import Fraction
from math import ceil

from planner.errors import UnsupportedError

Number = int | Fraction

OVERHEAD_SHARE = (Fraction(1, 10), Fraction(3, 10))
"""Lowest and highest share of the weights that the parameter guide adds for alignment, padding and frameworks."""

OVERHEAD_BYTES = (10**9, 2 * 10**9)
"""Lowest and highest overhead that the compiled document adds for the system and the CUDA context (1 to 2 "GB")."""

OPTIMIZER_STATES: Mapping[str, int] = {"adam": 8, "adamw": 8, "adafactor": 2, "lion": 2}
"""Optimizer states over weight bytes in the parameter guide: "up to" for Adam, "about" for the others."""

TEMPORARY_BUFFERS = (Fraction(6, 5), Fraction(3, 2))
"""Lowest and highest temporary buffers over weight bytes while training, in the parameter guide."""


def weight_rule(params: int, bits: Number, overhead: Number = 0) -> int:
    """Bytes of weights: `params x bits / 8 x (1 + overhead)`.

    `bits` per parameter, `overhead` as a share (0.2 is Fraction(1, 5)). From: the parameter guide (overhead 0.1 to
    0.3), the forum post (2.31 bits, overhead 0.2), the compiled document and The Kaitchup (bytes per parameter).
    Wrong where: the name of a format is taken for its bits (Q4_K_M is not 4 bits), embeddings and head stay in 16 bit,
    scales and zero points are forgotten, or "70B" stands for 68.98 billion parameters. The overhead is a share of
    what has nothing to do with it: a CUDA context does not grow with the model.
    """
    return ceil(Fraction(params) * bits / 8 * (1 + overhead))


def kv_cache_rule(batch: int, tokens: int, hidden_size: int, layers: int, bytes_per_element: Number = 2) -> int:
    """Bytes of a key-value cache: `2 x batch x tokens x hidden_size x layers x bytes_per_element`.

    The multi-head form of the compiled document: every attention head has keys and values of its own. Wrong for
    grouped, multi-query and latent attention (8 times too much for Llama-2-70B, 4 times for Llama-3-8B), for sliding
    windows, for recurrent layers, and where heads x head_dim is not the hidden size. Padding to whole blocks is left
    out.
    """
    return ceil(2 * batch * tokens * hidden_size * layers * Fraction(bytes_per_element))


def grouped_kv_cache_rule(
    batch: int, tokens: int, kv_heads: int, head_dim: int, layers: int, bytes_per_element: Number = 2
) -> int:
    """Bytes of a key-value cache: `2 x batch x tokens x kv_heads x head_dim x layers x bytes_per_element`.

    The form of the parameter guide. Exact for full attention with key and value heads of one size; wrong for latent
    attention, sliding windows and recurrent layers, and for caches whose blocks are padded.
    """
    return kv_cache_rule(batch, tokens, kv_heads * head_dim, layers, bytes_per_element)


def activation_rule(batch: int, tokens: int, hidden_size: int, layers: int) -> int:
    """Bytes of activations in a forward: `batch x tokens x hidden_size x layers x 2`.

    From the compiled document, where the 2 stands for "intermediate computations in attention and MLP"; read as
    16-bit elements, this is one hidden state kept for every layer. Wrong by its form: layers run one after the other
    and are never alive together, and what is alive in one layer depends on the MLP's width, on the attention
    kernel and on the vocabulary, which it leaves out. Inference in chunks needs a chunk's tokens only.
    """
    return batch * tokens * hidden_size * layers * 2


def total_rule(weights: int, kv_cache: int, activations: int, overhead: int = OVERHEAD_BYTES[1]) -> int:
    """Bytes to serve: `weights + kv_cache + activations + overhead`, the last 1 to 2 x 10^9 bytes.

    From the compiled document. Wrong where a part is; the sum itself holds for one GPU.
    """
    return weights + kv_cache + activations + overhead


def training_rule(weight_bytes: int, optimizer: str) -> dict[str, int]:
    """Bytes to train, as multiples of the weights in their training type, without activations.

    weights 1, gradients 1, optimizer states up to 8 (Adam: two moments and master weights) or about 2 (AdaFactor,
    Lion), temporary buffers 1.2 to 1.5; `lower` and `upper` are the sums with either end of the buffers.
    From the parameter guide. Wrong where: weights are in 16 bit (two fp32 moments and an fp32 master copy are 12 bytes
    on 2, so 6 and not 8), in fp32 (no master copy: 2), AdaFactor keeps a row and a column of a matrix and nearly
    nothing, and buffers do not grow with the model but with a bucket or a layer.
    Raises UnsupportedError for an optimizer that the guide gives no number for.
    """
    name = optimizer.lower()
    if name not in OPTIMIZER_STATES:
        known = ", ".join(OPTIMIZER_STATES)
        raise UnsupportedError(f"the rule says nothing of optimizer {optimizer!r}; it knows {known}")
    held = {
        "weights": weight_bytes,
        "gradients": weight_bytes,
        "optimizer_states": OPTIMIZER_STATES[name] * weight_bytes,
    }
    lowest, highest = (ceil(share * weight_bytes) for share in TEMPORARY_BUFFERS)
    base = sum(held.values())
    return {
        **held,
        "temporary_lower": lowest,
        "temporary_upper": highest,
        "lower": base + lowest,
        "upper": base + highest,
    }
