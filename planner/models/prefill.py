"""The highest activation memory of one prefill forward, traced on tensors without data."""

from planner.errors import UnsupportedError
from planner.footprint.model import Attention
from planner.models.source import ModelSource


class PrefillTracer:
    """Traces one model's prefill: an `Activations`."""

    def __init__(self, source: ModelSource, dtype: str = "bfloat16") -> None:
        self.source, self.dtype = source, dtype
        self.notes: tuple[str, ...] = ()

    def __call__(
        self, tokens: int, context: int, *, batch: int = 1, attention: Attention = "flash", shards: int = 1
    ) -> int:
        """See `planner.footprint.model.Activations`."""
        raise UnsupportedError("activations are not traced yet")
