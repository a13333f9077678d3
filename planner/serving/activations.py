"""What serving asks of whoever knows how much memory a forward takes."""

from typing import Literal, Protocol

Attention = Literal["flash", "eager"]


class Activations(Protocol):
    """The highest activation memory of one forward, in allocated bytes on one GPU."""

    def __call__(
        self, tokens: int, context: int, *, batch: int = 1, attention: Attention = "flash", shards: int = 1
    ) -> int:
        """Of a prefill of `tokens` new tokens in each of `batch` sequences that are `context` tokens long after it.

        The cache itself and the weights are not counted; the logits of the last token of each sequence are.
        `shards` GPUs split heads, MLP widths and vocabulary between them (tensor parallelism).
        """
        ...
