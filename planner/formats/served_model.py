"""What formats, serving and training need to know of a model, as plain data."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from planner.formats.tensors import Weight

if TYPE_CHECKING:
    from planner.models.graph import ModelGraph

CacheKind = Literal["full", "sliding", "chunked", "latent", "recurrent", "cross", "shared"]


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheLayer:
    """What one layer keeps of one sequence while decoding."""

    layer: int
    kind: CacheKind
    """full: every token. sliding, chunked: the last `window` tokens. latent: MLA's compressed rows.
    recurrent: a state of constant size. cross: the encoder's or image's tokens, `window` of them.
    shared: another layer's cache is read, nothing is kept."""
    heads: int = 0
    """Key-value heads; 1 for a latent."""
    key_dim: int = 0
    """Elements of a key per head and token; for a latent, its whole row (kv_lora_rank + qk_rope_head_dim)."""
    value_dim: int = 0
    """Elements of a value per head and token; 0 for a latent."""
    window: int | None = None
    """Most tokens that are kept; None without a limit."""
    state_bytes: int = 0
    """Recurrent layers: bytes of the state of one sequence, in the types the model keeps it in."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedModel:
    """A model without weights: its tensors, what each layer caches, and the sizes that parallelism splits."""

    name: str
    architecture: str
    model_type: str
    """transformers' model_type of the text decoder."""
    parameters: int
    active_parameters: int
    """Read for one token: a mixture of experts reads the chosen ones alone; the embedding table is left out."""
    weights: tuple[Weight, ...]
    cache: tuple[CacheLayer, ...]
    layers: int
    hidden_size: int
    attention_heads: int
    kv_heads: int
    vocabulary: int
    experts: int
    experts_per_token: int
    max_positions: int | None
    """Longest context that the config allows; None where it does not say."""
    tied: bool
    """Head and token embedding are one tensor."""
    graph: "ModelGraph"
    """The same model as LLM Compressor sees it, without a trace."""
    notes: tuple[str, ...] = ()
