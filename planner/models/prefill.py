"""The highest activation memory of one prefill forward, traced on tensors without data.

The model runs as servers run it: attention and routed experts are one kernel each (served_kernels.py),
keys and values go to a cache that is there before, and the head sees the last token of each sequence
alone. Everything else is transformers' own forward, operator by operator.
"""

from typing import Any

import torch

from planner.errors import JobError, UnsupportedError
from planner.footprint.model import Attention
from planner.job import Job
from planner.models.build import text_config
from planner.models.prefill_run import PrefillRun
from planner.models.served_kernels import FLASH
from planner.models.shards import build_shard
from planner.models.source import ModelSource
from planner.simulation.ledger import in_blocks

FAILURES = (UnsupportedError, RuntimeError, TypeError, ValueError, AttributeError, LookupError, NotImplementedError)
FP32 = 4


class PrefillTracer:
    """Traces one model's prefill: an `Activations`. `notes` says what in its answers was not traced."""

    def __init__(self, source: ModelSource, dtype: str = "bfloat16") -> None:
        self.source, self.job = source, Job.model_validate({"dtype": dtype})
        self._notes: dict[str, None] = {}
        self._known: dict[tuple[object, ...], int] = {}
        self._models: dict[int, Any] = {}

    @property
    def notes(self) -> tuple[str, ...]:
        """On the answers given so far."""
        return tuple(self._notes)

    def __call__(
        self, tokens: int, context: int, *, batch: int = 1, attention: Attention = "flash", shards: int = 1
    ) -> int:
        """See `planner.footprint.model.Activations`. Raises JobError for sizes that make no sense."""
        if not (1 <= tokens <= context and batch >= 1 and shards >= 1):
            raise JobError(
                f"no such prefill: {tokens} new tokens of {context}, {batch} sequences, {shards} GPUs; "
                "all are at least 1, and the context holds the new tokens"
            )
        key = (tokens, context, batch, attention, shards)
        if key not in self._known:
            self._known[key] = self._peak(tokens, context, batch, attention, shards)
        return self._known[key]

    def _peak(self, tokens: int, context: int, batch: int, attention: Attention, shards: int) -> int:
        model = self._model(shards)
        vocabulary = int(text_config(self._model(1).config).vocab_size)
        reason = ""
        for implementation, replay in self._ways(attention):
            run = PrefillRun(model, tokens, context, batch, implementation, replay, vocabulary)
            try:
                peak = run.peak()
            except FAILURES as error:
                reason = reason or f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
                continue
            if attention == "eager" or run.flashed:
                self._notes.update(dict.fromkeys(run.notes))
                return peak
        if not reason:
            raise UnsupportedError(f"{self.source.name}: its attention runs code of its own, never a flash kernel")
        self._note(f"Activations are estimated from the shapes of the Linears, not traced: {reason}")
        return _estimate(model, tokens, context, batch, attention)

    @staticmethod
    def _ways(attention: Attention) -> tuple[tuple[str, bool], ...]:
        """Attention implementations to try, first with equal layers replayed, then layer by layer."""
        names = ("eager",) if attention == "eager" else (FLASH, "sdpa")
        return tuple((name, replay) for name in names for replay in (True, False))

    def _model(self, shards: int) -> Any:
        if shards not in self._models:
            try:
                self._models[shards] = build_shard(self.source, self.job, shards)
            except UnsupportedError as error:
                self._note(
                    f"Activations are those of one GPU that holds everything, more than each of {shards}: {error}"
                )
                self._models[shards] = self._model(1)
        return self._models[shards]

    def _note(self, text: str) -> None:
        self._notes[text] = None


def _estimate(model: Any, tokens: int, context: int, batch: int, attention: Attention) -> int:
    """The hidden states twice, the widest Linear's output three times (gate, up, their product), the logits."""
    text, rows = text_config(model.config), tokens * batch
    size = next(model.parameters()).element_size()
    inside = [m for m in model.modules() if isinstance(m, torch.nn.Linear) and m.out_features != text.vocab_size]
    widest = max((m.out_features for m in inside), default=int(text.hidden_size))
    total = 2 * in_blocks(rows * text.hidden_size * size) + 3 * in_blocks(rows * widest * size)
    if attention == "eager":
        scores = rows * context * int(getattr(text, "num_attention_heads", 0) or 0)
        total += in_blocks(scores * size) + 2 * in_blocks(scores * FP32)
    return total + in_blocks(batch * text.vocab_size * (size + FP32))
