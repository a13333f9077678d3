"""What every GPU needs at a context and a number of sequences: the sum that fits or does not."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

from planner.formats.served_model import CacheLayer, ServedModel
from planner.serving.activations import Activations
from planner.serving.cache import CacheSize, cache_size
from planner.serving.engines.facts import EngineFacts
from planner.serving.overhead import overhead_parts
from planner.serving.schema import GpuShare, OverheadPart, ServeOptions
from planner.serving.search import largest
from planner.serving.split import Placement, Share

Most = int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """A model in a format on its devices."""

    model: ServedModel
    activations: Activations
    placement: Placement
    engine: EngineFacts
    chunk: int
    memory: int | None
    """Bytes of one GPU; None where none is given."""
    options: ServeOptions

    def cache(
        self,
        layers: tuple[CacheLayer, ...],
        context: int,
        sequences: int,
        block: int | None = None,
        prefilled: int | None = None,
    ) -> CacheSize:
        """The cache of these layers on one GPU.

        `prefilled`: sequences whose prompts are read at the same time; None: one where prompts are read in chunks,
        else all. With a `block` it is what decoding reads, without the room that prefill needs.
        """
        return cache_size(
            layers,
            context,
            sequences=sequences,
            dtype=self.options.kv_dtype,
            block=block or self.engine.block,
            shards=self.placement.shards,
            chunk=None if block else self.chunk or context,
            prefilled=1 if self.chunk else prefilled or sequences,
            engine=self.engine,
        )

    def whole_cache(self, context: int) -> CacheSize:
        """The cache of one sequence as if one device kept it all."""
        return cache_size(
            self.model.cache,
            context,
            dtype=self.options.kv_dtype,
            block=self.engine.block,
            chunk=self.chunk or context,
            engine=self.engine,
        )

    def step(self, context: int, sequences: int) -> tuple[int, int]:
        """Tokens per sequence and sequences of a prefill step.

        A chunk is shared by the sequences (vllm/v1/core/sched/scheduler.py token_budget); with flash attention,
        packed one after the other, they take as much memory as one long sequence. Eager attention has scores for each
        new token and token of its own sequence: there they are equal parts of a chunk.
        """
        if not self.chunk:
            return context, sequences
        new = min(self.chunk, context * sequences)
        if self.options.attention == "eager":
            together = -(-new // context)
            return -(-new // together), together
        return self.chunk if self.engine.reserves_whole_chunk else new, 1

    def forward(self, context: int, sequences: int) -> int:
        """Bytes of activations on one GPU: of a prefill step or of a decoding step, whichever needs more.

        A decoding step is one token of each sequence, and takes as often what one sequence takes.
        """
        tokens, together = self.step(context, sequences)
        kind, shards = self.options.attention, self.placement.shards
        prefill = self.activations(tokens, max(context, tokens), batch=together, attention=kind, shards=shards)
        if kind == "eager" and self.engine.reserves_whole_chunk and self.chunk:
            prefill = max(prefill, self.activations(self.chunk, max(context, self.chunk), shards=shards))
        decode = sequences * self.activations(1, context, attention=kind, shards=shards)
        logits = self.engine.logits_bytes(tokens * together, self.model.vocabulary, self.model.hidden_size)
        return max(prefill, decode, logits)

    def overhead(self, share: Share) -> tuple[OverheadPart, ...]:
        """The parts on one GPU."""
        return overhead_parts(self.engine, self.options, weights=share.bytes, memory=self.memory)


def shares(setting: Setting, context: int, sequences: int, prefilled: int | None = None) -> tuple[GpuShare, ...]:
    """Every GPU with its parts; `prefilled`: sequences of a forward, where these are not all in the cache."""
    forward = setting.forward(context, sequences if prefilled is None else prefilled)
    alike: dict[int, GpuShare] = {}  # GPUs that hold the same are one record
    for share in setting.placement.gpus:
        if id(share) not in alike:
            cache_bytes = setting.cache(share.cache, context, sequences, prefilled=prefilled).bytes
            alike[id(share)] = _share(setting, share, cache_bytes, forward)
    return tuple(alike[id(share)] for share in setting.placement.gpus)


def _share(setting: Setting, share: Share, cache_bytes: int, forward: int) -> GpuShare:
    overhead = sum(part.bytes for part in setting.overhead(share))
    return GpuShare(
        total_bytes=share.bytes + cache_bytes + forward + overhead,
        weights_bytes=share.bytes,
        kv_cache_bytes=cache_bytes,
        activations_bytes=forward,
        overhead_bytes=overhead,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The largest that fits; None where no memory is given."""

    context: int | None
    batch: int | None
    users: int | None


def limits(setting: Setting, context: int, batch: int, *, most_context: int, most_batch: int) -> Limits:
    """Longest context for the batch, largest batch at the context, most users at the context.

    No more sequences than the engine serves, however small the cache on the GPUs is.
    """
    if setting.memory is None:
        return Limits(context=None, batch=None, users=None)
    most_batch = min(most_batch, setting.engine.most_sequences or most_batch)
    memory, fullest = setting.memory, _fullest(setting)
    longest = largest(lambda tokens: fullest(tokens, batch, batch), memory, most_context, context)
    return Limits(
        context=longest,
        batch=largest(lambda count: fullest(context, count, count), memory, most_batch, batch),
        users=largest(lambda count: fullest(context, count, count if setting.chunk else 1), memory, most_batch, batch),
    )


def _fullest(setting: Setting) -> Callable[[int, int, int], int]:
    """Bytes on the GPU that needs most."""

    @cache
    def fullest(context: int, sequences: int, prefilled: int) -> int:
        return max(gpu.total_bytes for gpu in shares(setting, context, sequences, prefilled))

    return fullest
