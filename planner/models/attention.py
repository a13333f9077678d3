"""Where a forward hands keys and values to its attention function: what the observers of a cache see.

compressed_tensors modeling/kvcache.py `QuantizedKVCache` takes the place of the cache while LLM Compressor calibrates,
and its hooks get keys and values with their positions in them, before they are repeated for the query heads. Without a
cache the same tensors go to `eager_attention_forward` of the model's own file, one step later: this is where they are
written down. Queries are not: calibration forces eager attention (llmcompressor utils/helpers.py
`use_eager_attention`), which passes the hooks of compressed_tensors modeling/attention.py by. So SpinQuant's R3 rotates
keys here, and no queries.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from planner.models.failures import pass_on, stands_in
from planner.models.traces import KEY_STATES, VALUE_STATES

FUNCTION = "eager_attention_forward"

Seen = Callable[[torch.nn.Module, str, torch.Tensor], None]
"""Told of an attention, which of its states it is (KEY_STATES, ...), and the tensor (batch, heads, tokens, width)."""


def attention_patches(model: torch.nn.Module, seen: Seen) -> Iterator[Any]:
    """Contexts in which `seen` is told of the states of every attention that goes by its file's function."""
    for file in {type(module).__module__ for module in model.modules()}:
        if hasattr(sys.modules.get(file), FUNCTION):
            yield _told(sys.modules[file], seen)


@contextmanager
def _told(file: Any, seen: Seen) -> Iterator[None]:
    original = getattr(file, FUNCTION)

    @stands_in
    def attend(module: torch.nn.Module, query: Any, key: Any, value: Any, *args: Any, **kwargs: Any) -> Any:
        for name, states in ((KEY_STATES, key), (VALUE_STATES, value)):
            if isinstance(states, torch.Tensor) and states.dim() == 4:
                seen(module, name, states)
        return pass_on(original, (module, query, key, value, *args), kwargs)

    setattr(file, FUNCTION, attend)
    try:
        yield
    finally:
        setattr(file, FUNCTION, original)
