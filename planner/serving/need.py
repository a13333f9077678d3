"""What every GPU needs at a context and a number of sequences: the sum that fits or does not."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

from planner.formats.model import Activations, CacheLayer, ServedModel
from planner.serving.cache import CacheSize, cache_size
from planner.serving.engines import BLOCK, MOST_SEQUENCES
from planner.serving.overhead import overhead_parts
from planner.serving.schema import Engine, GpuShare, OverheadPart, ServeOptions
from planner.serving.search import largest
from planner.serving.split import Placement, Share

Most = int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """A model in a format on its devices."""

    model: ServedModel
    activations: Activations
    placement: Placement
    engine: Engine
    chunk: int
    memory: int | None
    """Of one GPU."""
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
            block=block or BLOCK[self.engine],
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
            block=BLOCK[self.engine],
            chunk=self.chunk or context,
            engine=self.engine,
        )

    def step(self, context: int, sequences: int) -> tuple[int, int]:
        """Tokens per sequence and sequences of a prefill step.

        A chunk is shared by the sequences (vllm/v1/core/sched/scheduler.py token_budget); with flash attention,
        packed one after the other, they take as much memory as one long sequence, and vLLM sets memory aside for a
        whole chunk at start, however short the prompts are (vllm/v1/worker/gpu_model_runner.py profile_run). Eager
        attention has scores for each new token and token of its own sequence: there they are equal parts of a chunk.
        """
        if not self.chunk:
            return context, sequences
        new = min(self.chunk, context * sequences)
        if self.options.attention == "eager":
            together = -(-new // context)
            return -(-new // together), together
        return self.chunk if self.engine == "vllm" else new, 1

    def forward(self, context: int, sequences: int) -> int:
        """Bytes of activations on one GPU: of a prefill step or of a decoding step, whichever needs more.

        A decoding step is one token of each sequence, and takes as often what one sequence takes.
        """
        tokens, together = self.step(context, sequences)
        kind, shards = self.options.attention, self.placement.shards
        prefill = self.activations(tokens, max(context, tokens), batch=together, attention=kind, shards=shards)
        if kind == "eager" and self.engine == "vllm" and self.chunk:  # profile_run leaves attention out
            prefill = max(prefill, self.activations(self.chunk, max(context, self.chunk), shards=shards))
        decode = sequences * self.activations(1, context, attention=kind, shards=shards)
        return max(prefill, decode, self._logits(tokens * together))

    def _logits(self, tokens: int) -> int:
        """llama.cpp makes room for the logits of every token of a step, beside the hidden states they come from.

        Both in fp32 (src/llama-context.cpp graph_reserve with n_outputs = n_tokens). Logs of Llama-3-8B with its
        default of 512 tokens say `compute buffer size = 258.50 MiB`: 512 x (128256 + 4096) x 4 bytes.
        """
        if self.engine != "llama.cpp":
            return 0
        return tokens * (self.model.vocabulary + self.model.hidden_size) * 4

    def overhead(self, share: Share) -> tuple[OverheadPart, ...]:
        """The parts on one GPU."""
        return overhead_parts(self.engine, self.options, weights=share.bytes, memory=self.memory)


def shares(setting: Setting, context: int, sequences: int, prefilled: int | None = None) -> tuple[GpuShare, ...]:
    """Every GPU with its parts; `prefilled`: sequences of a forward, where these are not all in the cache."""
    forward = setting.forward(context, sequences if prefilled is None else prefilled)
    made: dict[int, GpuShare] = {}
    for share in setting.placement.gpus:
        if id(share) not in made:
            kept = setting.cache(share.cache, context, sequences, prefilled=prefilled).bytes
            made[id(share)] = _share(setting, share, kept, forward)
    return tuple(made[id(share)] for share in setting.placement.gpus)


def _share(setting: Setting, share: Share, kept: int, forward: int) -> GpuShare:
    overhead = sum(part.bytes for part in setting.overhead(share))
    return GpuShare(
        total_bytes=share.bytes + kept + forward + overhead,
        weights_bytes=share.bytes,
        kv_cache_bytes=kept,
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
    most_batch = min(most_batch, MOST_SEQUENCES.get(setting.engine, most_batch))
    fits = _fits(setting)
    longest = largest(lambda tokens: fits(tokens, batch, batch), most_context, context)
    return Limits(
        context=longest,
        batch=largest(lambda count: fits(context, count, count), most_batch, batch),
        users=largest(lambda count: fits(context, count, count if setting.chunk else 1), most_batch, batch),
    )


def _fits(setting: Setting) -> Callable[[int, int, int], bool]:
    memory = setting.memory or 0

    @cache
    def fits(context: int, sequences: int, prefilled: int) -> bool:
        return all(gpu.total_bytes <= memory for gpu in shares(setting, context, sequences, prefilled))

    return fits
