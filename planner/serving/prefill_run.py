"""One forward of a prefill on tensors without data, and the most that it holds at once."""

import copy
import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils import _pytree as pytree

from planner.models.build import num_experts, quiet
from planner.models.calls import HalfSoftmax, patched_forward
from planner.models.failures import pass_on, run_forward, stands_in
from planner.models.outputs import made_again, shapes_of
from planner.models.recorder import Recorder, storage_key
from planner.models.traces import Event, memory_events
from planner.models.tracing import signature
from planner.serving.cache_layers import LayerKinds, cache_argument, filled_cache
from planner.serving.served_kernels import EXPERTS, Flash, SdpaAsFlash, is_mixer, register, routed_alone, scanned
from planner.timeline import fold

SCANNED = (
    "Recurrent layers run as servers' kernels: their projections and outputs are counted, what the scan keeps for "
    "each chunk of tokens is not."
)
ROUTED_ALONE = ("Llama4TextMoe",)


@dataclass(slots=True)
class _Template:
    """A layer that ran: what it held at most beyond what was there before, and its outputs."""

    peak: int
    outputs: Any


@dataclass(frozen=True, slots=True)
class _IsScore:
    """Whether a result has a value for each head, new token and token of the context.

    Hidden states are (batch, tokens, width): a width that equals the context makes no score of them.
    """

    tokens: int
    context: int
    batch: int

    def __call__(self, result: Any) -> bool:
        if not isinstance(result, torch.Tensor) or result.dim() < 3:
            return False
        cells = (self.tokens, self.context)
        return tuple(result.shape[-2:]) == cells and result.numel() >= 2 * self.batch * self.tokens * self.context


class PrefillModel:
    """A model that runs many prefills: its layers are compared once, and its cache is filled once for a batch."""

    def __init__(self, module: Any) -> None:
        self.module = module
        self.kinds = LayerKinds()
        self._caches: dict[tuple[int, str], Any] = {}

    def cache(self, batch: int, implementation: str) -> Any:
        """A cache of its own with a few tokens of `batch` sequences; attention must be `implementation` already."""
        key = batch, implementation
        if key not in self._caches:
            self._caches[key] = filled_cache(self.module, batch=batch, kinds=self.kinds)
        return copy.deepcopy(self._caches[key])


class PrefillRun:
    """`tokens` new tokens in each of `batch` sequences that are `context` long after them.

    `vocabulary` is the whole model's: where the model is one GPU's part, its logits are gathered. Without `scores`
    tensors of attention scores are not counted.
    """

    def __init__(
        self,
        subject: PrefillModel,
        tokens: int,
        context: int,
        batch: int,
        implementation: str,
        replay: bool,
        vocabulary: int,
        scores: bool = True,
    ) -> None:
        self.subject, self.tokens, self.context, self.batch = subject, tokens, context, batch
        self.implementation, self.replay, self.vocabulary = implementation, replay, vocabulary
        self.model = subject.module
        experts = num_experts(self.model.config)
        uncounted = _IsScore(tokens, context, batch)
        self.recorder = Recorder(experts) if scores else Recorder(experts, is_uncounted=uncounted)
        self.flash = Flash()
        self.flashed = False
        """Attention ran as a flash kernel, or there is none."""
        self.notes: list[str] = []
        self._templates: dict[object, _Template] = {}
        self._inside = False

    def peak(self) -> int:
        """Highest allocated bytes of the forward, in 512-byte blocks. Raises what the forward raises."""
        config, recorder = self.model.config, self.recorder
        with quiet(), torch.no_grad(), ExitStack() as stack:
            stack.enter_context(_implementations(config, self.implementation))
            register(self.flash)
            cache = self._cache()
            for context in self._patches():
                stack.enter_context(context)
            recorder.name_parameters(self.model)
            stack.enter_context(recorder)
            recorder.begin()
            self._forward(cache)
        self.flashed = bool(self.flash.calls) or not any(
            getattr(kept, "keys", None) is not None for kept in cache.layers
        )
        return _highest(recorder.events)

    def _forward(self, cache: Any) -> None:
        ids = torch.full((self.batch, self.tokens), 9)
        fields: dict[str, Any] = {"input_ids": ids, cache_argument(self.model): cache, "use_cache": True}
        if self.implementation == "eager":
            fields["attention_mask"] = torch.ones((self.batch, self.context), dtype=torch.int64)
        if "logits_to_keep" in inspect.signature(self.model.forward).parameters:
            fields["logits_to_keep"] = 1
        logits = run_forward(self.model, fields).logits
        if logits.shape[-1] < self.vocabulary:  # vLLM layers/logits_processor.py _gather_logits
            logits = logits.new_empty((*logits.shape[:-1], self.vocabulary))
        logits.to(torch.float32)  # vLLM v1/sample/sampler.py forward

    # ------------------------------------------------------------------ the cache
    def _cache(self) -> Any:
        """A cache that holds what came before, and that takes what comes without an allocation."""
        from transformers.cache_utils import DynamicCache

        past = self.context - self.tokens
        cache: Any = (
            self.subject.cache(self.batch, self.implementation) if past else DynamicCache(config=self.model.config)
        )
        for layer in cache.layers:
            if past:
                _lengthen(layer, past)
            if hasattr(layer, "conv_states"):
                layer.lazy_initialization = self._unseen(layer.lazy_initialization)
        for name in ("update", "update_indexer"):
            setattr(cache, name, self._unseen(getattr(cache, name)))
        return cache

    def _unseen(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """What the function makes is in memory before the forward: the cache."""

        @stands_in
        def quietly(*args: Any, **kwargs: Any) -> Any:
            with self.recorder.paused():
                return pass_on(function, args, kwargs)

        return quietly

    # ------------------------------------------------------------------ layers
    def _patches(self) -> Iterator[Any]:
        keep = inspect.signature(self.model.forward).parameters
        head = self.model.get_output_embeddings()
        if "logits_to_keep" not in keep and isinstance(head, torch.nn.Module):
            forward = head.forward
            yield patched_forward(head, lambda hidden: pass_on(forward, (hidden[:, -1:],), {}))
        classes = set(getattr(self.model, "_no_split_modules", None) or ())
        for module in self.model.modules():
            if type(module).__name__ in ROUTED_ALONE:
                yield patched_forward(module, routed_alone(module))
            if is_mixer(module):
                self.notes[:] = [SCANNED]
                yield patched_forward(module, scanned(module))
            if self.replay and type(module).__name__ in classes:
                yield patched_forward(module, self._layer(module))
        yield HalfSoftmax()
        if self.implementation == "sdpa":
            yield SdpaAsFlash(self.flash)

    def _layer(self, module: Any) -> Callable[..., Any]:
        """The layer's forward the first time; after that what it held and what it returned."""
        original = module.forward

        def forward(*args: Any, **kwargs: Any) -> Any:
            if self._inside:
                return pass_on(original, args, kwargs)
            key = (self.subject.kinds(module), signature((args, kwargs)))
            if key in self._templates:
                return self._replayed(self._templates[key], args, kwargs)
            return self._recorded(key, original, args, kwargs)

        return forward

    def _recorded(self, key: object, original: Any, args: Any, kwargs: Any) -> Any:
        start, self._inside = len(self.recorder.events), True
        try:
            result = pass_on(original, args, kwargs)
        finally:
            self._inside = False
        events = self.recorder.events[start:]
        made = {event.id for event in events if event.kind == "alloc"}
        leaves = [leaf for leaf in pytree.tree_leaves(result) if isinstance(leaf, torch.Tensor)]
        if all(leaf.is_meta and self.recorder.ids.get(storage_key(leaf)) in made for leaf in leaves):
            self._templates[key] = _Template(_highest(events), shapes_of(result))
        return result

    def _replayed(self, template: _Template, args: Any, kwargs: Any) -> Any:
        base = next(t for t in pytree.tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor) and t.is_meta)
        base.new_empty(template.peak, dtype=torch.uint8)  # held and freed while the layer runs
        return made_again(
            template.outputs, lambda shape: shape.on(base.new_empty(shape.storage_elements, dtype=shape.dtype))
        )


def _highest(events: Sequence[Event]) -> int:
    """Most bytes that these events hold at once, in whole blocks; frees of what was there before count for nothing."""
    return fold(memory_events(events)).level.peak_blocks


def _lengthen(layer: Any, past: int) -> None:
    """Let a layer that holds a few tokens hold `past` of them (transformers cache_utils.py)."""
    if getattr(layer, "keys", None) is not None:
        window = getattr(layer, "sliding_window", None)
        kept = past if window is None else min(past, int(window) - 1)
        layer.keys, layer.values = (_longer(t, -2, kept) for t in (layer.keys, layer.values))
        if hasattr(layer, "cumulative_length"):
            layer.cumulative_length = past
    if getattr(layer, "indexer_keys", None) is not None:
        layer.indexer_keys = _longer(layer.indexer_keys, 1, past)


def _longer(tensor: torch.Tensor, dim: int, length: int) -> torch.Tensor:
    shape = list(tensor.shape)
    shape[dim] = length
    return torch.empty(shape, dtype=tensor.dtype, device="meta")


@contextmanager
def _implementations(config: Any, attention: str) -> Iterator[None]:
    """Attention and experts of these names while the block runs."""
    before = (config._attn_implementation, config._experts_implementation)
    config._attn_implementation, config._experts_implementation = attention, EXPERTS
    try:
        yield
    finally:
        config._attn_implementation, config._experts_implementation = before
