"""The highest activation memory of one prefill forward, traced on tensors without data.

The model runs as servers run it: attention and routed experts are one kernel each (served_kernels.py),
keys and values go to a cache that is there before, and the head sees the last token of each sequence
alone. Everything else is transformers' own forward, operator by operator.
"""

from typing import Any

import torch

from planner.errors import JobError, UnsupportedError
from planner.models.build import text_config
from planner.models.built import BuiltModel
from planner.models.failures import forward_of_model
from planner.serving.activations import Attention
from planner.serving.prefill_run import PrefillModel, PrefillRun
from planner.serving.served_kernels import FLASH
from planner.serving.shards import build_shard
from planner.units import FP32, in_blocks

OWN_CODE = (
    "transformers has no flash attention for this model: its own attention is traced, without the scores of all new "
    "tokens, which servers' kernels do not hold."
)
# Implementation, and whether scores count. Attention that calls no kernel by name runs as it is, without them.
_FLASH_RUNS = ((FLASH, True), ("sdpa", True), (FLASH, False), ("eager", False))
MLA_WORKSPACE_TOKENS = 64 * 1024


class PrefillTracer:
    """Traces one model's prefill: an `Activations`. `notes` says what in its answers was not traced."""

    def __init__(self, built: BuiltModel) -> None:
        self._built = built
        self._notes: dict[str, None] = {}
        self._known: dict[tuple[object, ...], int] = {}
        self._models = {1: PrefillModel(built.module)}

    @property
    def notes(self) -> tuple[str, ...]:
        """On the answers given so far."""
        return tuple(self._notes)

    def __call__(
        self, tokens: int, context: int, *, batch: int = 1, attention: Attention = "flash", shards: int = 1
    ) -> int:
        """See `planner.serving.activations.Activations`. Raises JobError for sizes that make no sense."""
        if not (1 <= tokens <= context and batch >= 1 and shards >= 1):
            raise JobError(
                f"no such prefill: {tokens} new tokens of {context}, {batch} sequences, {shards} GPUs; "
                "all are at least 1, and the context holds the new tokens"
            )
        context = self._expanded(tokens, context, batch)
        key = (tokens, context, batch, attention, shards)
        if key not in self._known:
            self._known[key] = self._peak(tokens, context, batch, attention, shards)
        return self._known[key]

    def _expanded(self, tokens: int, context: int, batch: int) -> int:
        """MLA: how much of the context is keys and values at once, and not latents.

        Servers expand what came before piece by piece (vLLM layers/attention/mla_attention.py
        determine_chunked_prefill_workspace_size: 64 Ki tokens at most), and decode on the latents.
        """
        if context == tokens or getattr(text_config(self._built.module.config), "kv_lora_rank", None) is None:
            return context
        return tokens + (min(context - tokens, MLA_WORKSPACE_TOKENS // batch) if tokens > 1 else 0)

    def _peak(self, tokens: int, context: int, batch: int, attention: Attention, shards: int) -> int:
        model = self._model(shards)
        vocabulary = int(text_config(self._built.module.config).vocab_size)
        reason = ""
        for implementation, scores in self._runs(attention):
            try:
                run, peak = self._run(model, tokens, context, batch, implementation, vocabulary, scores)
            except UnsupportedError as error:
                reason = reason or str(error)
                continue
            if run.flashed or not scores or implementation == "eager":
                self._notes.update(dict.fromkeys(run.notes))
                if attention == "flash" and not run.flashed:
                    self._note(OWN_CODE)
                return peak
        self._note(f"Activations are estimated from the shapes of the Linears, not traced: {reason}")
        return _estimate(model.module, tokens, context, batch, attention)

    def _runs(self, attention: Attention) -> tuple[tuple[str, bool], ...]:
        """What to try, in order; what was found to call no kernel is not asked again."""
        if attention == "eager":
            return (("eager", True),)
        return _FLASH_RUNS[2:] if OWN_CODE in self._notes else _FLASH_RUNS

    @staticmethod
    def _run(
        model: PrefillModel, tokens: int, context: int, batch: int, implementation: str, vocabulary: int, scores: bool
    ) -> tuple[PrefillRun, int]:
        """Equal layers are replayed; where one reads what another left behind, every layer runs.

        Both give the same bytes, the second more slowly. Raises UnsupportedError where the forward fails.
        """
        run = PrefillRun(model, tokens, context, batch, implementation, True, vocabulary, scores)
        try:
            with forward_of_model():
                return run, run.peak()
        except UnsupportedError:
            run = PrefillRun(model, tokens, context, batch, implementation, False, vocabulary, scores)
            with forward_of_model():
                return run, run.peak()

    def _model(self, shards: int) -> PrefillModel:
        if shards not in self._models:
            try:
                self._models[shards] = PrefillModel(build_shard(self._built, shards))
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
